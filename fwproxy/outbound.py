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
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger import FirewallAction
from fwproxy.secondary import (
    USED,
    SecondaryCall,
    WaitingPort,
    another_connection,
    carry_datagrams,
    connected_udp,
    max_peers,
)

_FLAGS = (
    SecondaryFlags.ALLOW_MULTIPLE
    | SecondaryFlags.TIMEOUT
    | SecondaryFlags.NO_KERNEL_MODE
    | SecondaryFlags.INCREASE_RECEIVE_BUFFER
)


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
    wrong = call.flags & ~_FLAGS
    if wrong:
        raise InvalidArgumentError(f"redirect_connections does not take {wrong}")
    session.check_room(count, count)
    for target in targets:
        _check_target(call, target)
    internal = session.internal_host
    if internal is None:
        raise BadContextError("the session's client has no primary connection")
    sockets = call.allocate(Endpoint(internal), count, session.engine.config.secondary.backlog)
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
    if isinstance(target, Connection):
        call = attrs.evolve(call, choice=target.choice)
    else:
        call = call.decided(ConnectTcp, target)

    def accepted(sock: socket.socket, client: Endpoint) -> None:
        chosen = target if isinstance(target, Connection) else another_connection(call, client)
        if chosen is None or chosen.opening is None:
            close_socket(sock, abort=True)
            return
        chosen.opening.accept_client(sock, client)
        if isinstance(target, Endpoint):
            chosen.permission = port.action
            chosen.opening.request(target)

    port = WaitingPort(call.session, sock, accepted, single=call.is_single)

    def close(reason: str) -> None:
        port.close()
        if isinstance(target, Connection) and reason != USED:
            target.close(reason, failed=True)  # its client cannot come any more

    towards = target.proxy_address if isinstance(target, Connection) else target
    peers = IpFilter.only(call.session.client_address.host)
    port.action = call.permit(port.address, towards, peers, close)
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


def _redirect_udp(call: SecondaryCall, sock: socket.socket, target: Endpoint) -> FirewallAction:
    session = call.session
    call = call.decided(UdpDestination, target)
    connection = call.connection(session.client_address)
    connection.server_address = target
    peers = IpFilter.only(session.client_address.host)
    address = Endpoint.from_sockaddr(sock.getsockname())
    relay = DatagramRelay(
        session.engine.poller,
        session.engine.deadlines,
        connection,
        sock,
        open_far=lambda _: connected_udp(target, call.source),
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
