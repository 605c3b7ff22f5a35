"""What `redirect` and `tproxy` have in common: clients that do not know of the proxy."""

from __future__ import annotations

import socket

from fwproxy.address import Endpoint, Transport
from fwproxy.connection.connection import Connection
from fwproxy.errors import NetworkRulesDeniedError
from fwproxy.listeners.base import Listener, request
from fwproxy.session.session import Session


class TransparentListener(Listener):
    """Serves clients whose destination the kernel tells."""

    def arrived(self, sock: socket.socket, client: Endpoint) -> None:
        """Ask for the original destination."""
        if self.engine.expected and self._take_expected(sock, client):
            return
        server = self.destination(sock)
        service = self.services.usual
        if server is not None:
            service = self.services.find(Transport.TCP, server.port) or service

        def open_primary(session: Session, connection: Connection, _: socket.socket) -> None:
            if server is None:
                # Going on would connect the proxy to itself, for ever.
                raise NetworkRulesDeniedError("the client has connected to the proxy itself")
            session.advertised_host = self.config.advertise or server.host
            request(connection, server)

        self.admit(sock, client, open_primary, service=service)
