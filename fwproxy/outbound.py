"""Outbound secondary connections: `redirect_connections` and `connect_for_client`."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import attrs

from fwproxy.address import Endpoint, IpFilter
from fwproxy.connection import Connection, ConnectionState
from fwproxy.datagrams import Destinations, Welcome, datagram_limits
from fwproxy.datapath.base import close_socket
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.errors import BadContextError, InvalidArgumentError
from fwproxy.events import ConnectTcp, UdpDestination
from fwproxy.filter import Ends
from fwproxy.flag_rules import check_flags
from fwproxy.flags import SecondaryFlags
from fwproxy.grants import granted
from fwproxy.ledger import USED, FirewallAction
from fwproxy.secondary import (
    SecondaryCall,
    WaitingPort,
    another_connection,
    carry_datagrams,
    connected_udp,
    increase_receive_buffer,
    max_peers,
)
from fwproxy.sources import source_towards_server


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


async def redirect_connections(
    call: SecondaryCall, targets: Sequence[Endpoint | Connection]
) -> Redirection:
    """Do what `Session.redirect_connections` says."""
    session, count = call.session, len(targets)
    if not targets:
        raise InvalidArgumentError("at least one target is needed")
    check_flags("redirect_connections", call.flags, call.protocol.transport)
    session.check_room(count, count)
    call = granted(call, "redirect", [t.host for t in targets if isinstance(t, Endpoint)])
    for target in targets:
        _check_target(call, target)
    internal = session.internal_host
    if internal is None:
        raise BadContextError("the session's client has no primary connection")
    here = Endpoint(internal)
    call.check_reserved(here, count)
    sockets = call.allocate(
        here,
        count,
        session.engine.config.secondary.backlog,
        foreign=session.listener.is_transparent,
    )
    lowest: int = sockets[0].getsockname()[1]
    actions: list[FirewallAction] = []
    try:
        for sock, target in zip(sockets, targets, strict=True):
            if isinstance(target, Endpoint) and not call.is_tcp:
                actions.append(_redirect_udp(call, sock, target))
            else:
                actions.append(_redirect_tcp(call, sock, target))
    except BaseException:
        for action in actions:
            action.cancel("not redirected")
        call.give_back(sockets)
        raise
    advertised = Endpoint(session.advertised_host or internal, lowest)
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
    if isinstance(target, Connection):
        call = attrs.evolve(call, choice=target.choice)
    else:
        call = call.decided(ConnectTcp, target)

    def accepted(sock: socket.socket, client: Endpoint) -> None:
        if isinstance(target, Endpoint):
            connect_accepted(call, port.action, sock, client, target)
        elif target.opening is None:
            close_socket(sock, abort=True)
        else:
            target.opening.accept_client(sock, client)

    if SecondaryFlags.INCREASE_RECEIVE_BUFFER in call.flags:
        increase_receive_buffer(sock)
    port = WaitingPort(call.session, sock, accepted, single=call.is_single)
    host = call.session.client_address.host
    redirected = call.session.engine.redirected
    if call.session.listener.leads_to_ports:
        redirected.enter(host, port)

    def close(reason: str) -> None:
        port.close()
        if redirected:
            redirected.strike(host, port)
        if isinstance(target, Connection) and reason != USED:
            target.close(reason, failed=True)  # its client cannot come any more

    towards = target.proxy_address if isinstance(target, Connection) else target
    port.action = call.permit(port.address, towards, IpFilter.only(host), close)
    return port.action


def connect_accepted(
    call: SecondaryCall,
    action: FirewallAction | None,
    sock: socket.socket,
    client: Endpoint,
    server: Endpoint,
) -> Connection | None:
    """Pass a client's connection on to the server; None, and it is cut off, without room for it."""
    made = another_connection(call, client)
    if made is None or made.opening is None:
        close_socket(sock, abort=True)
        return None
    made.permission = action
    made.opening.accept_client(sock, client)
    made.opening.request(server)
    return made


async def connect_for_client(call: SecondaryCall, client: Endpoint, server: Endpoint) -> Connection:
    """Do what `Session.connect_for_client` says."""
    call.session.check_room(0, 1)
    call = granted(call, "connect", [server.host], more=1)
    check_flags("connect_for_client", call.flags, call.protocol.transport)
    if client.is_unspecified:
        raise InvalidArgumentError("an address to connect to is needed")
    call.session.check_client_addresses([client], call.flags)
    _check_target(call, server)
    connection = call.connection(client)
    assert connection.opening is not None  # noqa: S101 - made a line above
    connection.opening.request(server)
    return connection


def _redirect_udp(call: SecondaryCall, sock: socket.socket, target: Endpoint) -> FirewallAction:
    session = call.session
    call = call.decided(UdpDestination, target)
    connection = call.connection(session.client_address)
    connection.server_address = target
    peers = IpFilter.only(session.client_address.host)
    address = Endpoint.from_sockaddr(sock.getsockname())
    source = source_towards_server(session, target, call.source)
    relay = DatagramRelay(
        session.engine.poller,
        session.engine.deadlines,
        connection,
        sock,
        open_far=lambda _: connected_udp(target, source.address, foreign=source.is_foreign),
        ends_of=lambda client: Ends(client, target),
        allowed=peers.is_included,
        admit=Destinations(connection).admit,
        welcome=Welcome(connection),
        replies=True,
        from_client=True,
        limits=datagram_limits(session.engine.limits, max_peers=max_peers(call)),
        on_done=connection.relay_done,
    )
    return carry_datagrams(call, connection, relay, address, target, peers)
