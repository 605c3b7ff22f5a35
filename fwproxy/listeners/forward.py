"""`forward`: every client goes to one fixed upstream."""

from __future__ import annotations

import socket

from fwproxy.connection.connection import Connection
from fwproxy.listeners.base import Listener, request
from fwproxy.session.session import Session


class ForwardListener(Listener):
    """A port forward with a filter's eyes."""

    def open_primary(self, session: Session, connection: Connection, sock: socket.socket) -> None:  # noqa: ARG002
        """Ask for the upstream."""
        assert self.config.upstream is not None  # noqa: S101 - Config has made sure
        request(connection, self.config.upstream)
