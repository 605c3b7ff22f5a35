"""The last reply to a client that is turned away, so that it arrives."""

from __future__ import annotations

import contextlib
import socket

from fwproxy.address import Endpoint
from fwproxy.listeners.arrival import Arrival
from fwproxy.listeners.base import Listener

PATIENCE = 2.0
"""Seconds that the client gets to read the reply and to close."""
MAX_IGNORED = 64 * 1024
"""Bytes from the client that are read and thrown away meanwhile."""


class Farewell(Arrival):
    """Closes a socket when the client has.

    To close it with unread bytes at once would be a reset, which may overtake the reply.
    """

    __slots__ = ("_ignored",)

    def __init__(
        self, listener: Listener, sock: socket.socket, client: Endpoint, reply: bytes
    ) -> None:
        self._ignored = 0
        super().__init__(listener, sock, client, PATIENCE)
        try:
            sock.send(reply)  # a few bytes, and nothing waits before them
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.end()

    def look(self) -> None:
        """Throw away what comes, up to the end."""
        scratch = self.listener.engine.poller.scratch
        with contextlib.suppress(BlockingIOError):
            while self._ignored < MAX_IGNORED:
                try:
                    size = self.sock.recv_into(scratch)
                except ConnectionError:
                    size = 0
                if not size:
                    break
                self._ignored += size
            self.end()

    def too_late(self) -> None:
        """Wait no longer."""
        self.end()
