"""`gateway`: the client names the server inside the protocol, to the protocol's filter."""

from __future__ import annotations

import socket

from fwproxy.connection.connection import Connection
from fwproxy.listeners.base import Listener
from fwproxy.session.session import Session


class GatewayListener(Listener):
    """Starts connections without a server; a data filter calls `Connection.connect`."""

    def open_primary(self, session: Session, connection: Connection, sock: socket.socket) -> None:  # noqa: ARG002
        """Let the filters talk with the client."""
        if connection.opening is not None:
            connection.opening.accept_without_server()
