"""Secondary connections: what `bind_for_client` and `redirect_connections` do."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint, IpFilter, Transport
from fwproxy.clock import Deadline
from fwproxy.connection import Connection, ConnectionState
from fwproxy.datapath.accept import Acceptor
from fwproxy.datapath.base import close_socket
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.dispatch import dispatch
from fwproxy.errors import BadContextError, InvalidArgumentError, PolicyRulesDeniedError
from fwproxy.events import BindTcp, BindUdp, Listen
from fwproxy.filter import SessionFilter
from fwproxy.flags import ConnectionFlags, SecondaryFlags, Verdict
from fwproxy.ledger import FirewallAction
from fwproxy.protocol import ProtocolDefinition

if TYPE_CHECKING:
    from fwproxy.session import Session

LOWEST_UNRESTRICTED_PORT = 1024
USED = "used"
"""The close reason of a permission whose one connection has come."""

_REDIRECT_FLAGS = (
    SecondaryFlags.ALLOW_MULTIPLE
    | SecondaryFlags.TIMEOUT
    | SecondaryFlags.NO_KERNEL_MODE
    | SecondaryFlags.INCREASE_RECEIVE_BUFFER
)
_UDP_FLAGS = SecondaryFlags.BIDIRECTIONAL | SecondaryFlags.INCREASE_RECEIVE_BUFFER
_RECEIVE_BUFFER = 64 * 1024


@attrs.frozen(slots=True)
class Redirection:
    """What `redirect_connections` gives back.

    Attributes:
        internal_address: what to tell the client; with several targets the one with the lowest
            port.
        actions: one permission for each target, cancelled separately.
    """

    internal_address: Endpoint
    actions: tuple[FirewallAction, ...]


@attrs.frozen(slots=True, eq=False)
class SecondaryCall:
    """What the calls have in common: who asks, for what, and who wants to hear of it.

    Attributes:
        session: whose connections they will be.
        protocol: the secondary protocol, with the transport of this call.
        flags: how each may be used.
        session_filter: hears EstablishedConnection.
        context: goes with it.
        ip_filter: who may be at the remote end of an inbound connection.
        source: the address to leave from towards the server.
    """

    session: Session
    protocol: ProtocolDefinition
    flags: SecondaryFlags = SecondaryFlags.NONE
    session_filter: SessionFilter | None = None
    context: object = None
    ip_filter: IpFilter | None = None
    source: Endpoint | None = None

    @property
    def is_tcp(self) -> bool:
        """Whether TCP connections are wanted, and not datagrams."""
        return self.protocol.transport is Transport.TCP

    @property
    def is_single(self) -> bool:
        """Whether each permission is for one connection or one source (S17, S37)."""
        return SecondaryFlags.ALLOW_MULTIPLE not in self.flags

    @property
    def timeout(self) -> float | None:
        """Seconds that the TIMEOUT flag means here, or None without it."""
        wanted = SecondaryFlags.TIMEOUT in self.flags
        return self.session.engine.config.secondary.timeout if wanted else None

    def connection(self, client: Endpoint) -> Connection:
        """Make a connection without sockets."""
        return Connection(
            self.session,
            self.protocol,
            client_address=client,
            flags=ConnectionFlags.SECONDARY,
            source=self.source,
            ip_filter=self.ip_filter,
            session_filter=self.session_filter,
            context=self.context,
        )

    def check_policy(self, host: str) -> None:
        """Raise PolicyRulesDeniedError unless the client may speak the protocol with *host*."""
        decision = self.session.decide(self.protocol, host)
        if not decision.allowed:
            raise PolicyRulesDeniedError(
                f"{self.protocol.name} with {host} is not allowed ({decision.rule})"
            )

    def allocate(self, address: Endpoint, count: int, backlog: int) -> list[socket.socket]:
        """Bind consecutive ports (`PortPool.allocate`)."""
        ports = self.session.engine.ports
        return ports.allocate(address, self.protocol.transport, count, backlog)

    def permit(
        self,
        proxy_address: Endpoint,
        target: Endpoint | None,
        peers: IpFilter | None,
        close: Callable[[str], None],
    ) -> FirewallAction:
        """Enter a permission in the ledger; its end, whatever the cause, closes its port."""
        session, engine = self.session, self.session.engine
        now = engine.deadlines.now()
        expiry: Deadline | None = None

        def withdraw(action: FirewallAction, reason: str) -> None:
            if expiry is not None:
                expiry.cancel()
            engine.ledger.strike(action)
            session.permissions.discard(action)
            close(reason)
            engine.ports.release(proxy_address, self.protocol.transport)
            engine.log.debug("permission ended", permission=action, reason=reason)

        action = FirewallAction(
            id=next(engine.permission_numbers),
            session=session,
            protocol=self.protocol,
            transport=self.protocol.transport,
            proxy_address=proxy_address,
            target=target,
            peers=peers,
            created=now,
            expires=None if self.timeout is None or not self.is_tcp else now + self.timeout,
            filter_name=None if self.session_filter is None else type(self.session_filter).__name__,
            withdraw=withdraw,
        )
        if self.timeout is not None and self.is_tcp:  # UDP expires when idle instead (S19)
            expiry = engine.deadlines.after(self.timeout, action.expire)
        engine.ledger.enter(action)
        session.permissions.add(action)
        engine.log.debug("permission given", permission=action)
        return action


def client_address_problem(session: Session, client: Endpoint, flags: SecondaryFlags) -> str | None:
    """Say why the session's client may not name *client* as its own, or None (S01, S03)."""
    if client.is_unspecified:
        return None
    if client.port < LOWEST_UNRESTRICTED_PORT and (
        client.port == 0 or SecondaryFlags.IGNORE_RESTRICTED_PORTS not in flags
    ):
        return f"port {client.port} of {client} is restricted (below {LOWEST_UNRESTRICTED_PORT})"
    own = session.client_address.host
    if client.host == own or SecondaryFlags.ALLOW_ADDRESSES_ALL in flags:
        return None
    if SecondaryFlags.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK in flags and _same_class_c(
        own, client.host
    ):
        return None
    if SecondaryFlags.ALLOW_ADDRESSES_IN_NETWORK in flags:
        policy = session.engine.policy
        network = policy.network_of(own)
        if network is not None and policy.network_of(client.host) == network:
            return None
    return f"{client} is not an address of the client {own}"


def _same_class_c(one: str, other: str) -> bool:
    if ":" in one or ":" in other:
        return False
    return ipaddress.ip_address(other) in ipaddress.ip_network(f"{one}/24", strict=False)


class _Port:
    """One TCP port of the proxy that waits on behalf of one permission."""

    def __init__(
        self,
        session: Session,
        sock: socket.socket,
        on_accept: Callable[[socket.socket, Endpoint], None],
        *,
        single: bool,
    ) -> None:
        engine = session.engine
        self.address = Endpoint.from_sockaddr(sock.getsockname())
        self.action: FirewallAction | None = None
        self._session = session
        self._single = single
        self._on_accept = on_accept
        self._acceptor = Acceptor(
            engine.poller,
            engine.deadlines,
            sock,
            self._accepted,
            retry=engine.limits.accept_retry,
            on_exhausted=self._exhausted,
        )

    def _accepted(self, sock: socket.socket, peer: Endpoint) -> None:
        action = self.action
        if action is None or not action.is_active:
            close_socket(sock, abort=True)
            return
        if action.peers is not None and not action.peers.is_included(peer.host):
            self._refuse(sock, peer, action)
            return
        action.uses += 1
        if self._single:
            action.cancel(USED)
        self._on_accept(sock, peer)

    def _exhausted(self, error: OSError) -> None:
        self._session.engine.log.warning(
            "accept failed", session=self._session.id, error=error.strerror
        )

    def _refuse(self, sock: socket.socket, peer: Endpoint, action: FirewallAction) -> None:
        close_socket(sock, abort=True)
        action.refused += 1
        if action.refused == 1:  # one line per permission, however many come
            self._session.engine.log.warning(
                "secondary connection refused",
                session=self._session.id,
                permission=action.id,
                proxy_address=str(self.address),
                peer=str(peer),
                allowed=str(action.peers),
            )

    def close(self) -> None:
        """Stop listening."""
        self._acceptor.close()


def _check_bind(
    call: SecondaryCall, clients: Sequence[Endpoint], proxy_address: Endpoint | None
) -> None:
    flags = call.flags
    if not clients:
        raise InvalidArgumentError("at least one client address is needed")
    if SecondaryFlags.TIMEOUT in flags and SecondaryFlags.ALLOW_MULTIPLE in flags:
        raise InvalidArgumentError(
            "TIMEOUT and ALLOW_MULTIPLE exclude each other in bind_for_client: a port that serves "
            "many connections is not given up after one time-out"
        )
    if call.is_tcp and flags & _UDP_FLAGS:
        raise InvalidArgumentError("BIDIRECTIONAL and INCREASE_RECEIVE_BUFFER are for UDP only")
    if proxy_address is not None and proxy_address.port and len(clients) > 1:
        raise InvalidArgumentError(
            f"port {proxy_address.port} can only be asked for with a single client address"
        )
    call.session.check_client_addresses(clients, flags)


def _external_address(session: Session) -> Endpoint:
    primary = session.primary
    name = None if primary is None else primary.external_socket_name
    if name is None:
        raise BadContextError("without a connected server a proxy address must be given")
    return name.with_port(0)


def _server_host(session: Session) -> str:
    primary = session.primary
    if primary is None or primary.server_address is None:
        return session.client_address.host
    return primary.server_address.host


async def _announce(
    call: SecondaryCall, connections: Sequence[Connection], proxy_address: Endpoint, backlog: int
) -> None:
    """Tell the other filters of a bind; one of them may deny it (S27)."""
    session, caller = call.session, call.session_filter
    if not session.bound_filters:
        return
    for connection in connections:
        bind = (BindTcp if call.is_tcp else BindUdp)(connection, proxy_address, call.protocol)
        with connection.handling(bind):
            verdict = dispatch(session, bind, caller)
            if isinstance(verdict, Awaitable):
                verdict = await verdict
        if verdict is Verdict.DENY or connection.is_denied:
            raise PolicyRulesDeniedError("the bind was denied by a filter")
        if call.is_tcp:
            heard = dispatch(session, Listen(connection, proxy_address, backlog), caller)
            if isinstance(heard, Awaitable):
                await heard


async def bind_for_client(
    call: SecondaryCall,
    clients: Sequence[Endpoint],
    proxy_address: Endpoint | None,
    backlog: int,
) -> list[Connection]:
    """Do what `Session.bind_for_client` says."""
    session, count = call.session, len(clients)
    session.check_room(count, count)
    _check_bind(call, clients, proxy_address)
    call.check_policy(_server_host(session))
    address = proxy_address or _external_address(session)
    connections = [call.connection(client) for client in clients]
    try:
        await _announce(call, connections, address, backlog)
        session.check_room(count, 0)  # other calls may have come in between
        sockets = call.allocate(address, count, backlog)
    except BaseException:
        for connection in connections:
            connection.close("not bound", failed=True)
        raise
    bind = _bind_tcp if call.is_tcp else _bind_udp
    for connection, sock in zip(connections, sockets, strict=True):
        bind(call, connection, sock)
    return connections


def _bind_tcp(call: SecondaryCall, connection: Connection, sock: socket.socket) -> None:
    def accepted(sock: socket.socket, server: Endpoint) -> None:
        chosen = connection if call.is_single else _another(call, connection.client_address)
        if chosen is None or chosen.opening is None:
            close_socket(sock, abort=True)
        else:
            chosen.permission = port.action
            chosen.opening.accept_server(sock, server)

    port = _Port(call.session, sock, accepted, single=call.is_single)

    def close(reason: str) -> None:
        port.close()
        if connection.state is ConnectionState.BOUND and reason != USED:
            connection.close(reason, failed=True)

    client = connection.client_address
    target = None if client.is_unspecified else client
    port.action = call.permit(port.address, target, call.ip_filter, close)
    connection.bind(port.address, port.action)


def _another(call: SecondaryCall, client: Endpoint) -> Connection | None:
    """Make one more connection of a permission for many, if the session has room for it."""
    limits = call.session.engine.limits
    if len(call.session.connections) >= limits.max_connections_per_session:
        return None
    return call.connection(client)


def _bind_udp(call: SecondaryCall, connection: Connection, sock: socket.socket) -> None:
    address = Endpoint.from_sockaddr(sock.getsockname())

    def open_far() -> socket.socket:
        client = connection.client_address
        return _connected_udp(client, call.session.internal_source(client))

    def allowed(host: str) -> bool:
        if connection.client_address.is_unspecified:
            return False
        return connection.ip_filter is None or connection.ip_filter.is_included(host)

    relay = DatagramRelay(
        call.session.engine.poller,
        sock,
        open_far=open_far,
        allowed=allowed,
        replies=SecondaryFlags.BIDIRECTIONAL in call.flags,
        max_peers=_max_peers(call),
        from_client=False,
        on_first=lambda server: connection.first_datagram(server, None),
        on_done=connection.relay_done,
    )
    _carry_datagrams(call, connection, relay, address, connection.client_address, call.ip_filter)


def _redirect_udp(call: SecondaryCall, sock: socket.socket, target: Endpoint) -> FirewallAction:
    session = call.session
    connection = call.connection(session.client_address)
    connection.server_address = target
    peers = IpFilter.only(session.client_address.host)
    address = Endpoint.from_sockaddr(sock.getsockname())
    relay = DatagramRelay(
        session.engine.poller,
        sock,
        open_far=lambda: _connected_udp(target, call.source),
        allowed=peers.is_included,
        replies=True,
        max_peers=_max_peers(call),
        from_client=True,
        on_first=lambda client: connection.first_datagram(None, client),
        on_done=connection.relay_done,
    )
    return _carry_datagrams(call, connection, relay, address, target, peers)


def _carry_datagrams(
    call: SecondaryCall,
    connection: Connection,
    relay: DatagramRelay,
    address: Endpoint,
    target: Endpoint,
    peers: IpFilter | None,
) -> FirewallAction:
    if SecondaryFlags.INCREASE_RECEIVE_BUFFER in call.flags:
        relay.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    action = call.permit(address, target, peers, connection.close)
    connection.bind(address, action)
    connection.carry_datagrams(relay, call.timeout)
    return action


def _connected_udp(target: Endpoint, source: Endpoint | None) -> socket.socket:
    sock = socket.socket(target.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if source is not None:
            sock.bind(source.sockaddr)
        sock.connect(target.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _max_peers(call: SecondaryCall) -> int:
    return 1 if call.is_single else call.session.engine.limits.max_peers_per_connection


async def redirect_connections(
    call: SecondaryCall, targets: Sequence[Endpoint | Connection]
) -> Redirection:
    """Do what `Session.redirect_connections` says."""
    session, count = call.session, len(targets)
    if not targets:
        raise InvalidArgumentError("at least one target is needed")
    wrong = call.flags & ~_REDIRECT_FLAGS
    if wrong:
        raise InvalidArgumentError(f"redirect_connections does not take {wrong}")
    session.check_room(count, count)
    for target in targets:
        _check_target(call, target)
    internal = session.internal_host
    if internal is None:
        raise BadContextError("the session's client has no primary connection")
    sockets = call.allocate(Endpoint(internal), count, session.engine.config.secondary.backlog)
    actions = [
        _redirect_udp(call, sock, target)
        if isinstance(target, Endpoint) and not call.is_tcp
        else _redirect_tcp(call, sock, target)
        for sock, target in zip(sockets, targets, strict=True)
    ]
    advertised = Endpoint(session.advertised_host or internal, actions[0].proxy_address.port)
    return Redirection(advertised, tuple(actions))


def _check_target(call: SecondaryCall, target: Endpoint | Connection) -> None:
    if isinstance(target, Connection):
        bound = target.session is call.session and target.state is ConnectionState.BOUND
        if not bound or not target.client_address.is_unspecified:
            raise InvalidArgumentError("the target is no bound connection that lacks its client")
        if not call.is_single or not call.is_tcp:
            raise InvalidArgumentError("a bound connection takes a single TCP client")
    elif target.port == 0 or target.is_unspecified:
        raise InvalidArgumentError(f"{target} is no address to connect to")
    else:
        call.check_policy(target.host)


def _redirect_tcp(
    call: SecondaryCall, sock: socket.socket, target: Endpoint | Connection
) -> FirewallAction:
    def accepted(sock: socket.socket, client: Endpoint) -> None:
        chosen = target if isinstance(target, Connection) else _another(call, client)
        if chosen is None or chosen.opening is None:
            close_socket(sock, abort=True)
            return
        chosen.opening.accept_client(sock, client)
        if isinstance(target, Endpoint):
            chosen.permission = port.action
            chosen.opening.request(target)

    port = _Port(call.session, sock, accepted, single=call.is_single)
    towards = target.proxy_address if isinstance(target, Connection) else target
    peers = IpFilter.only(call.session.client_address.host)
    port.action = call.permit(port.address, towards, peers, lambda _: port.close())
    return port.action


async def connect_for_client(call: SecondaryCall, client: Endpoint, server: Endpoint) -> Connection:
    """Do what `Session.connect_for_client` says."""
    call.session.check_room(0, 1)
    if client.is_unspecified:
        raise InvalidArgumentError("an address to connect to is needed")
    call.session.check_client_addresses([client], call.flags)
    _check_target(call, server)
    connection = call.connection(client)
    assert connection.opening is not None  # noqa: S101 - made a line above
    connection.opening.request(server)
    return connection
