"""Inbound secondary connections: what `bind_for_client` does."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint
from fwproxy.connection import Connection, ConnectionState
from fwproxy.datapath.base import close_socket
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.dispatch import dispatch
from fwproxy.errors import (
    BadContextError,
    InvalidArgumentError,
    NetworkRulesDeniedError,
    NotSupportedError,
    PolicyRulesDeniedError,
    TerminatingError,
)
from fwproxy.events import BindTcp, BindUdp, Listen
from fwproxy.flag_rules import check_flags
from fwproxy.flags import SecondaryFlags, Verdict
from fwproxy.policy import NetworkRelation
from fwproxy.port_sockets import is_local
from fwproxy.secondary import (
    USED,
    SecondaryCall,
    WaitingPort,
    another_connection,
    carry_datagrams,
    connected_udp,
    increase_receive_buffer,
    max_peers,
)
from fwproxy.sources import check_proxy_mode, source_towards_client

if TYPE_CHECKING:
    from fwproxy.session import Session


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


def _external_address(session: Session) -> Endpoint:
    primary = session.primary
    name = None if primary is None else primary.external_socket_name
    if name is None:
        raise BadContextError("without a connected server a proxy address must be given")
    return name.with_port(0)


def _is_foreign(session: Session, proxy_address: Endpoint, clients: Sequence[Endpoint]) -> bool:
    """Tell whether the address to bind is that of a client, in a routed network (S12).

    Raises:
        NetworkRulesDeniedError: the client's network is not routed to the server's.
    """
    host = proxy_address.host
    if host not in {client.host for client in clients} or is_local(host):
        return False
    server = session.server_host or host
    relation = session.engine.policy.relation(host, server)
    if relation not in {NetworkRelation.ROUTE, NetworkRelation.SAME}:
        raise NetworkRulesDeniedError(
            f"{host} cannot be reached from {server}: the relation of their networks is "
            f"{relation.value}, not route"
        )
    return True


async def _announce(
    call: SecondaryCall, connections: Sequence[Connection], proxy_address: Endpoint, backlog: int
) -> None:
    """Tell the other filters of a bind; one of them may deny it (S27)."""
    session, caller = call.session, call.session_filter
    if not session.bound_filters:
        return
    for connection in connections:
        bind = (BindTcp if call.is_tcp else BindUdp)(connection, proxy_address, call.protocol)
        connection.handling(bind)
        verdict = dispatch(session, bind, caller)
        if isinstance(verdict, Awaitable):
            verdict = await verdict
        connection.handling(None)
        if verdict is Verdict.DENY or connection.is_denied:
            raise PolicyRulesDeniedError("the bind was denied by a filter")
        if verdict is Verdict.EMULATE:
            raise NotSupportedError("no filter can play the other side of a bind yet")
        if connection.is_closed:
            raise TerminatingError("the connection was killed while it was being bound")
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
    call.check_policy(session.server_host or session.client_address.host)
    address = proxy_address or _external_address(session)
    call.check_reserved(address, count)
    foreign = _is_foreign(session, address, clients)
    connections = [call.connection(client) for client in clients]
    sockets: list[socket.socket] = []
    bind = _bind_tcp if call.is_tcp else _bind_udp
    try:
        await _announce(call, connections, address, backlog)
        session.check_room(count, 0)  # other calls may have come in between
        sockets = call.allocate(address, count, backlog, foreign=foreign)
        for connection, sock in zip(connections, sockets, strict=True):
            bind(call, connection, sock)
    except BaseException:
        for connection in connections:
            connection.close("not bound", failed=True)
        call.give_back(sockets)
        raise
    return connections


def _bind_tcp(call: SecondaryCall, connection: Connection, sock: socket.socket) -> None:
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

    def close(reason: str) -> None:
        port.close()
        if connection.state is ConnectionState.BOUND and reason != USED:
            connection.close(reason, failed=True)

    port.action = call.permit(port.address, _known_client(connection), call.ip_filter, close)
    connection.bind(port.address, port.action)


def _known_client(connection: Connection) -> Endpoint | None:
    client = connection.client_address
    return None if client.is_unspecified else client


def _bind_udp(call: SecondaryCall, connection: Connection, sock: socket.socket) -> None:
    address = Endpoint.from_sockaddr(sock.getsockname())

    def open_far(server: Endpoint) -> socket.socket:
        client = connection.client_address
        source = source_towards_client(call.session, client, server, call.flags)
        return connected_udp(client, source.address, foreign=source.is_foreign)

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
        max_peers=max_peers(call),
        from_client=False,
        on_first=lambda server: connection.first_datagram(server, None),
        on_done=connection.relay_done,
    )
    carry_datagrams(call, connection, relay, address, _known_client(connection), call.ip_filter)
