"""Inbound secondary connections: what `bind_for_client` does."""

from __future__ import annotations

import functools
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint, IpFilter
from fwproxy.connection.connection import Connection, ConnectionState
from fwproxy.connection.sources import (
    address_towards_server,
    check_proxy_mode,
    source_towards_client,
)
from fwproxy.datapath.base import close_socket
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.datapath.kernel.flow import KernelFlow
from fwproxy.errors import InvalidArgumentError, NetworkRulesDeniedError
from fwproxy.events import AcceptedConnection, BindUdp
from fwproxy.filter import Ends
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger.ledger import USED
from fwproxy.policy.grants import granted
from fwproxy.policy.policy import NetworkRelation
from fwproxy.ports.sockets import is_local
from fwproxy.secondary.call import (
    SecondaryCall,
    announce,
    another_connection,
    carry_datagrams,
    connected_udp,
    increase_receive_buffer,
    known_client,
    max_peers,
)
from fwproxy.secondary.datagrams import Destinations, Welcome, datagram_limits
from fwproxy.secondary.emulation import bind_emulated
from fwproxy.secondary.flag_rules import check_flags
from fwproxy.secondary.kernel import (
    CallPort,
    inbound_pinhole,
    may_be_carried,
    open_ports,
    take_datagrams,
    take_streams,
)
from fwproxy.secondary.waiting_port import WaitingPort

if TYPE_CHECKING:
    from fwproxy.session.session import Session


def _check_bind(
    call: SecondaryCall, clients: Sequence[Endpoint], proxy_address: Endpoint | None
) -> None:
    flags = call.flags
    if not clients:
        raise InvalidArgumentError("at least one client address is needed")
    check_flags("bind_for_client", flags, call.protocol.transport)
    check_proxy_mode(call.session, flags)
    if proxy_address is not None and proxy_address.port and len(clients) > 1:
        raise InvalidArgumentError(
            f"port {proxy_address.port} can only be asked for with a single client address"
        )
    call.session.check_client_addresses(clients, flags)


def _is_foreign(session: Session, proxy_address: Endpoint, clients: Sequence[Endpoint]) -> bool:
    """Tell whether the address to bind is that of a client (S12).

    It is in a routed network, or where a rule publishes the server with its clients' addresses
    kept: then the server knows this client by no other one.

    Raises:
        NetworkRulesDeniedError: the client's network is not routed to the server's.
    """
    host = proxy_address.host
    open_socket = session.engine.poller.open_socket
    if session.terms.shows_client and host == session.client_address.host:
        return not is_local(host, open_socket)
    own = {session.client_address.host, *(client.host for client in clients)}
    if host not in own or is_local(host, open_socket):
        return False
    server = session.server_host or host
    relation = session.engine.policy.relation(host, server)
    if relation not in {NetworkRelation.ROUTE, NetworkRelation.SAME}:
        raise NetworkRulesDeniedError(
            f"{host} cannot be reached from {server}: the relation of their networks is "
            f"{relation.value}, not route"
        )
    return True


async def bind_for_client(
    call: SecondaryCall,
    clients: Sequence[Endpoint],
    proxy_address: Endpoint | None,
    backlog: int,
) -> list[Connection]:
    """Do what `Session.bind_for_client` says."""
    session, count = call.session, len(clients)
    session.check_room(count, count)
    call = granted(call, "bind")
    _check_bind(call, clients, proxy_address)
    call.check_policy(session.server_host or session.client_address.host)
    address = proxy_address or address_towards_server(session)
    call.check_reserved(address, count)
    foreign = _is_foreign(session, address, clients)
    connections = [call.connection(client) for client in clients]
    sockets: list[socket.socket] = []
    ports: list[CallPort] = []
    try:
        await announce(call, connections, address, backlog)
        session.check_room(count, 0)  # other calls may have come in between
        if count == 1 and (named := _emulated_address(connections[0], address)):
            bind_emulated(call, connections[0], named, owns_port=False)
            return connections
        listens = not may_be_carried(call)
        sockets = call.allocate(address, count, backlog if listens else None, foreign=foreign)
        ports = [
            _port(call, connection, sock, listens=listens)
            for connection, sock in zip(connections, sockets, strict=True)
        ]
        open_ports(ports)
        for connection, port in zip(connections, ports, strict=True):
            _bind(port, connection, address, backlog)
    except BaseException:
        for connection in connections:
            connection.close("not bound", failed=True)
        for port in ports:
            port.shut()
        call.give_back(sockets)
        raise
    return connections


def _port(
    call: SecondaryCall, connection: Connection, sock: socket.socket, *, listens: bool
) -> CallPort:
    """Decide about one port's data path (S30)."""
    if connection.emulated_bind is None:
        address = Endpoint.from_sockaddr(sock.getsockname())
        attached = [entry.by for entry in connection.data_filters or ()]
        call = call.decided(AcceptedConnection if call.is_tcp else BindUdp, address, attached)
    make = functools.partial(inbound_pinhole, connection.client_address)
    return CallPort(call, sock, make, is_listening=listens)


def _emulated_address(connection: Connection, asked: Endpoint) -> Endpoint | None:
    """Return the address of an emulated bind if that takes no port of the pool."""
    bind = connection.emulated_bind
    if bind is None:
        return None
    return bind.address or (asked if asked.port else None)


def _bind(port: CallPort, connection: Connection, asked: Endpoint, backlog: int) -> None:
    """Let a port wait, or a filter instead of it: then only its number stays taken."""
    call, sock = port.call, port.sock
    assert sock is not None  # noqa: S101 - a bind has one
    if connection.emulated_bind is None:
        connection.choice = call.choice
        if port.is_in_kernel:
            _bind_in_kernel(port, connection, backlog)
        elif call.is_tcp:
            port.listen(backlog)
            _bind_tcp(call, connection, sock)
        else:
            _bind_udp(call, connection, sock)
    elif named := _emulated_address(connection, asked):
        call.give_back([sock])
        bind_emulated(call, connection, named, owns_port=False)
    else:
        address = Endpoint.from_sockaddr(sock.getsockname())
        sock.close()
        bind_emulated(call, connection, address, owns_port=True)


def _bind_in_kernel(port: CallPort, connection: Connection, backlog: int) -> None:
    call, address = port.call, port.address

    def close(reason: str) -> None:
        port.close()
        if connection.state is ConnectionState.BOUND and reason != USED:
            connection.close(reason, failed=True)

    def ends(flow: KernelFlow) -> Ends:
        return Ends(connection.client_address, flow.peer)

    def taken(_: KernelFlow) -> Connection | None:
        if call.is_single:
            return connection
        return another_connection(call, connection.client_address)

    def in_user_space() -> WaitingPort | None:
        sock, choice = port.sock, port.call.choice
        assert sock is not None  # noqa: S101 - as below
        action.choice = connection.choice = choice
        if not call.is_tcp:
            port.sock = None  # it is the relay's
            flow = connection.kernel_flow
            only = IpFilter.only(flow.peer.host) if flow is not None else None
            connection.carry_datagrams(_udp_relay(call, connection, sock, only), call.timeout)
            return None
        waiting = _waiting_port(port.call, connection, sock)
        waiting.serve(action)
        return waiting

    action = call.permit(address, known_client(connection), call.ip_filter, close)
    assert address is not None  # noqa: S101 - a bind has one
    connection.bind(address, action)
    port.in_user_space, port.backlog = in_user_space, backlog
    if call.is_tcp:
        take_streams(port, action, taken, ends)
    else:
        take_datagrams(port, action, connection, ends)


def _bind_tcp(call: SecondaryCall, connection: Connection, sock: socket.socket) -> None:
    port = _waiting_port(call, connection, sock)

    def close(reason: str) -> None:
        port.close()
        if connection.state is ConnectionState.BOUND and reason != USED:
            connection.close(reason, failed=True)

    action = call.permit(port.address, known_client(connection), call.ip_filter, close)
    port.serve(action)
    connection.bind(port.address, action)


def _waiting_port(call: SecondaryCall, connection: Connection, sock: socket.socket) -> WaitingPort:
    def accepted(sock: socket.socket, server: Endpoint) -> None:
        chosen = (
            connection if call.is_single else another_connection(call, connection.client_address)
        )
        if chosen is None or chosen.opening is None:
            close_socket(sock, abort=True)
        else:
            chosen.permission = port.action
            chosen.opening.accept_server(sock, server)

    if SecondaryFlags.INCREASE_RECEIVE_BUFFER in call.flags:
        increase_receive_buffer(sock)
    port = WaitingPort(call.session, sock, accepted, single=call.is_single)
    return port


def _bind_udp(call: SecondaryCall, connection: Connection, sock: socket.socket) -> None:
    session, address = call.session, Endpoint.from_sockaddr(sock.getsockname())
    if session.factories is not None:
        session.factories.attach(connection, BindUdp, address)
    relay = _udp_relay(call, connection, sock)
    carry_datagrams(call, connection, relay, address, known_client(connection), call.ip_filter)


def _udp_relay(
    call: SecondaryCall, connection: Connection, sock: socket.socket, only: IpFilter | None = None
) -> DatagramRelay:
    """Make what carries a bind's datagrams.

    Args:
        call: the bind.
        connection: its connection.
        sock: the bound port.
        only: who may go on, where the kernel has carried datagrams of somebody already.
    """
    session, earlier = call.session, connection.kernel_flow

    def open_far(ends: Ends) -> socket.socket:
        client = connection.client_address
        source = source_towards_client(session, client, ends.server, call.flags)
        return connected_udp(
            session.engine.poller, client, source.address, foreign=source.is_foreign
        )

    def allowed(host: str) -> bool:
        if connection.client_address.is_unspecified or not (only is None or only.is_included(host)):
            return False
        return connection.ip_filter is None or connection.ip_filter.is_included(host)

    limits = session.engine.limits
    bidirectional = SecondaryFlags.BIDIRECTIONAL in call.flags
    relay = DatagramRelay(
        session.engine.poller,
        session.engine.deadlines,
        connection,
        sock,
        open_far=open_far,
        ends_of=lambda server: Ends(connection.client_address, server),
        allowed=allowed,
        welcome=Welcome(connection, is_established=earlier is not None),
        admit_reply=Destinations(connection).admit,
        replies=bidirectional,
        from_client=False,
        limits=datagram_limits(
            limits, max_peers=max_peers(call), reply_timeout=limits.reply_timeout
        ),
        on_done=connection.relay_done,
    )
    if earlier is not None:
        relay.follows(earlier)
    return relay
