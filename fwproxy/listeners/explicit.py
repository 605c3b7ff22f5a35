"""`socks`, `http` and `mixed`: the client says where it wants to go before its protocol begins."""

from __future__ import annotations

import socket
from collections.abc import Callable

from fwproxy.address import Destination, Endpoint, HostName, Transport
from fwproxy.config.listeners import ListenerKind
from fwproxy.connection.connection import Connection
from fwproxy.datapath.base import close_socket
from fwproxy.errors import NameNotFoundError
from fwproxy.handshake.base import Command, Outcome, Request
from fwproxy.handshake.detect import Detect
from fwproxy.listeners.answers import NOWHERE, Answer
from fwproxy.listeners.association import associate
from fwproxy.listeners.base import Listener, request
from fwproxy.listeners.handshaking import Handshaking
from fwproxy.listeners.socks_bind import bind_for_visitor
from fwproxy.session.session import Session


class ExplicitListener(Listener):
    """Serves clients that know of the proxy and ask it for every connection.

    They believe to talk to their server, and are told its address wherever an address of the proxy
    is due; when they ask for a port of it that a filter has opened for them, they are led there.
    """

    leads_to_ports = True

    def arrived(self, sock: socket.socket, client: Endpoint) -> None:
        """Begin the handshake."""
        if self.is_full_for(sock, client):
            return
        kind = self.config.kind
        handshake = Detect(
            needs_login=self.logins is not None,
            with_socks=kind is not ListenerKind.HTTP,
            with_http=kind is not ListenerKind.SOCKS,
        )
        Handshaking(self, sock, client, handshake, self.logins, self._requested)

    def _requested(self, visitor: Handshaking, asked: Request) -> None:
        if asked.command is Command.CONNECT:
            self._asked_to_connect(visitor, asked.destination)
        elif asked.command is Command.BIND:
            visitor.spawn(bind_for_visitor(self, visitor, asked.destination))
        else:
            associate(self, visitor, asked.destination)

    def _asked_to_connect(self, visitor: Handshaking, server: Destination) -> None:
        if not self._may_lead_elsewhere(visitor.client.host, server.port):
            self._connect(visitor, server)
        elif isinstance(server, HostName):
            visitor.spawn(self._resolve(visitor, server))
        elif not self._lead(visitor, server):
            self._connect(visitor, server)

    def _may_lead_elsewhere(self, client: str, port: int) -> bool:
        engine = self.engine
        if engine.expected and engine.expected.expects(client):
            return True
        return bool(engine.redirected) and engine.redirected.find(client, port) is not None

    async def _resolve(self, visitor: Handshaking, server: HostName) -> None:
        """See whether it is a name of an address that the client is expected at."""
        try:
            found = await self.engine.resolver.resolve(server)
        except NameNotFoundError:
            found = []
        if not any(self._lead(visitor, address) for address in found):
            self._connect(visitor, server)

    def _lead(self, visitor: Handshaking, server: Endpoint) -> bool:
        """Hand the client over to the session that expects it there; False if none does."""
        client, user = visitor.client, visitor.user
        port = self.engine.redirected.find(client.host, server.port)
        take: Callable[[socket.socket, Endpoint], object]
        found = None
        if port is not None and _is_meant(port.session, server, user):
            take = port.accept
        else:
            found = self.engine.expected.claim(client.host, Transport.TCP, server, user)
            if found is None:
                return False
            take = found.accept
        sock = visitor.release()
        try:
            sock.send(visitor.handshake.reply(Outcome.GRANTED, NOWHERE))
        except OSError:  # it has left while its name was being resolved
            close_socket(sock, abort=True)
            if found is not None:
                found.action.settle()
        else:
            take(sock, client)
        return True

    def _connect(self, visitor: Handshaking, server: Destination) -> None:
        service = self.services.find(Transport.TCP, server.port)
        assert service is not None  # noqa: S101 - Config has made sure that there is one for TCP

        def open_primary(session: Session, connection: Connection, _: socket.socket) -> None:
            session.authenticated_user = visitor.user
            if connection.opening is not None:
                connection.opening.answer = Answer(self, connection, visitor.handshake)
            request(connection, server)

        sock, client = visitor.release(), visitor.client
        self.admit(sock, client, open_primary, service=service, counts=False)


def _is_meant(session: Session, server: Endpoint, user: str | None) -> bool:
    """Tell whether the one who asks for a port at *server* means the session's redirected one."""
    hosts = (session.server_host, session.advertised_host, session.internal_host)
    return server.host in hosts and session.authenticated_user == user
