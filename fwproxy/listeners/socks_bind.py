"""SOCKS BIND: a port for the client, where a server may connect (RFC 1928 section 4).

A client that has connected to the server before asks on behalf of that connection; then the port
belongs to the session of it, is what a filter of that session finds when its protocol names the
port, and ends with it. Otherwise it is a session of its own.
"""

from __future__ import annotations

from fwproxy.address import Destination, Endpoint, IpFilter, Transport
from fwproxy.connection.connection import Connection
from fwproxy.errors import (
    CallError,
    PolicyRulesDeniedError,
    ServerUnreachableError,
    TerminatingError,
)
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger.ledger import FirewallAction
from fwproxy.listeners.answers import NOWHERE, Answer, outcome_of
from fwproxy.listeners.base import Listener
from fwproxy.listeners.handshaking import Handshaking
from fwproxy.listeners.waiting import WaitingClient
from fwproxy.protocol import ProtocolDefinition
from fwproxy.secondary.call import SecondaryCall, connected_udp
from fwproxy.secondary.client_binds import ClientBind
from fwproxy.session.session import Session


async def bind_for_visitor(listener: Listener, visitor: Handshaking, asked: Destination) -> None:
    """Open a port for the address that the client has given, or refuse."""
    own: Session | None = None
    try:
        servers = await listener.engine.resolver.resolve(asked)
        session = _session_with(listener, visitor, servers)
        if session is None:
            session = own = _own_session(listener, visitor, servers)
        connection = await _bind(session, servers, is_own=own is not None)
    except CallError as error:
        if own is not None:
            own.end(str(error))
        reply = visitor.handshake.reply(outcome_of(error), NOWHERE)
        visitor.refuse(reply, f"no port bound: {error}")
    except BaseException:
        if own is not None:
            own.end("the client has left")
        raise
    else:
        _hand_over(listener, visitor, connection)


def _session_with(
    listener: Listener, visitor: Handshaking, servers: list[Endpoint]
) -> Session | None:
    """Return the client's latest session with one of the servers; all zeros are any server."""
    hosts = {server.host for server in servers if not server.is_unspecified}
    for session in listener.sessions.of_client(visitor.client.host):
        primary = session.primary
        if (
            session.listener is listener
            and session.authenticated_user == visitor.user
            and primary is not None
            and primary.transport is Transport.TCP
            and primary.external_socket_name is not None
            and (not hosts or session.server_host in hosts)
        ):
            return session
    return None


def _own_session(listener: Listener, visitor: Handshaking, servers: list[Endpoint]) -> Session:
    """Start a session whose primary connection is the one that will come.

    Raises:
        PolicyRulesDeniedError: the policy says no.
        QuotaError: the rule that says yes has as many connections as it may have.
    """
    session = listener.sessions.open(listener, visitor.client)
    session.authenticated_user = visitor.user
    # Until the port is there, this stands for what has been asked for.
    session.primary = Connection(session, session.protocol, client_address=visitor.client)
    try:
        _let_come(session, session.primary, servers)
    except CallError as error:
        session.end(str(error))
        raise
    return session


def _let_come(session: Session, asked: Connection, servers: list[Endpoint]) -> None:
    """Note the first of the servers that a rule allows, and let the session live by that rule."""
    for server in servers:
        decision = session.decide_host(session.protocol, server.host)
        if decision.allowed:
            asked.server_address = server
            session.govern_by(decision)
            return
    raise PolicyRulesDeniedError(f"a connection from {servers[0].host} is not allowed")


async def _bind(session: Session, servers: list[Endpoint], *, is_own: bool) -> Connection:
    """Bind the port, and make it the primary connection of a session that has no other."""
    asked = session.primary
    hosts = _who_may_come(session, servers)
    (connection,) = await session.bind_for_client(
        [NOWHERE],
        proxy_address=_address_towards(session) if is_own else None,
        flags=SecondaryFlags.TIMEOUT,
        protocol=_secondary_of(session),
        ip_filter=IpFilter.only(*hosts),
    )
    if is_own and asked is not None:
        session.primary = connection
        asked.close("bound")
    return connection


def _who_may_come(session: Session, servers: list[Endpoint]) -> set[str]:
    """Return those of the servers that the session's rule allows; all zeros are its own server.

    Raises:
        PolicyRulesDeniedError: there are none.
    """
    hosts = {server.host for server in servers if not server.is_unspecified}
    if not hosts and session.server_host is not None:
        return {session.server_host}
    decisions = {host: session.decide_host(session.protocol, host) for host in hosts}
    allowed = {
        host for host, each in decisions.items() if each.allowed and each.rule == session.rule
    }
    if not allowed:
        raise PolicyRulesDeniedError(f"connections from {', '.join(hosts)} are not allowed")
    return allowed


def _secondary_of(session: Session) -> ProtocolDefinition:
    """Return what inbound connections are in the session's protocol."""
    for name in session.protocol.secondary:
        found = session.engine.protocols.get(name)
        if found is not None and found.transport is Transport.TCP:
            return found
    return session.protocol


def _address_towards(session: Session) -> Endpoint:
    """Return the proxy's address that the server can reach."""
    server = None if session.primary is None else session.primary.server_address
    if server is None:
        raise TerminatingError("the client has left")
    try:
        with connected_udp(session.engine.poller, server.with_port(server.port or 1), None) as sock:
            return Endpoint.from_sockaddr(sock.getsockname()).with_port(0)
    except OSError as error:
        raise ServerUnreachableError(f"{server.host}: {error.strerror}") from error


def _hand_over(listener: Listener, visitor: Handshaking, connection: Connection) -> None:
    """Tell the client its port; the client's socket is the end that the server's will meet."""
    if connection.opening is None or connection.proxy_address is None:
        visitor.refused("the port was closed at once")
        return
    connection.opening.answer = BindAnswer(listener, connection, visitor)
    sock = visitor.release()
    connection.opening.accept_client(sock, visitor.client)
    Answer(listener, connection, visitor.handshake).grant(connection.proxy_address)
    if not connection.is_closed:
        WaitingClient(connection, sock)


class BindAnswer(Answer):
    """The second answer: who has come, or that nobody has."""

    __slots__ = ("_bind",)

    def __init__(self, listener: Listener, connection: Connection, visitor: Handshaking) -> None:
        super().__init__(listener, connection, visitor.handshake)
        address = connection.proxy_address or NOWHERE
        self._bind = ClientBind(
            address, Transport.TCP, _never, lambda: None, action=connection.permission
        )
        connection.session.client_binds.hold(self._bind)

    def __call__(self, error: CallError | None) -> None:
        """Tell; the client holds the port no longer."""
        self._connection.session.client_binds.release(self._bind)
        super().__call__(error)

    @property
    def address(self) -> Endpoint | None:
        """The peer's address."""
        return self._connection.server_address


def _never(_: SecondaryCall) -> FirewallAction:
    raise TerminatingError("peers may come already")
