"""A client whose connection is not there yet, or not its own: only its end is awaited."""

from __future__ import annotations

import socket

from fwproxy.connection.connection import Connection
from fwproxy.listeners.arrival import NO_MORE


class WaitingClient:
    """Ends a connection when its client leaves.

    What the client sends stays in the socket for the relay, which takes the socket over when the
    connection is established.

    Args:
        connection: the connection.
        sock: the client's socket.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection, sock: socket.socket) -> None:
        self._connection = connection
        connection.session.engine.poller.watch(sock.fileno(), self)

    def on_ready(self, fd: int, events: int) -> None:  # noqa: ARG002 - there is one
        """See whether the client has left."""
        if events & NO_MORE:
            self._connection.close("the client has left")

    def on_broken(self, error: Exception) -> None:
        """End after a fault of our own."""
        self._connection.close(f"internal error: {error!r}", failed=True, error=error)
