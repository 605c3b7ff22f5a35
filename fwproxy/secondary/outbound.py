"""Outbound secondary connections: `redirect_connections` and `connect_for_client`."""

from __future__ import annotations

import functools
import socket
from collections.abc import Sequence

import attrs

from fwproxy.address import Endpoint, IpFilter
from fwproxy.connection.connection import Connection, ConnectionState
from fwproxy.connection.sources import source_towards_server
from fwproxy.datapath.base import close_socket
from fwproxy.datapath.choice import DataPath
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.datapath.kernel.flow import KernelFlow
from fwproxy.datapath.kernel.pinhole import Pinhole
from fwproxy.errors import BadContextError, CallError, InvalidArgumentError, KernelPathError
from fwproxy.events import ConnectTcp, UdpDestination
from fwproxy.filter import Ends
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger.ledger import USED, FirewallAction
from fwproxy.policy.grants import granted
from fwproxy.secondary.call import (
    SecondaryCall,
    another_connection,
    carry_datagrams,
    connected_udp,
    increase_receive_buffer,
    max_peers,
)
from fwproxy.secondary.datagrams import Destinations, Welcome, datagram_limits
from fwproxy.secondary.flag_rules import check_flags
from fwproxy.secondary.kernel import (
    CallPort,
    may_be_carried,
    open_ports,
    outbound_pinhole,
    take_datagrams,
    take_streams,
)
from fwproxy.secondary.waiting_port import WaitingPort


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
    backlog = session.engine.config.secondary.backlog
    listens = not may_be_carried(call)
    sockets = call.allocate(
        here,
        count,
        backlog if listens else None,
        foreign=session.listener.is_transparent,
    )
    lowest: int = sockets[0].getsockname()[1]
    ports: list[CallPort] = []
    actions: list[FirewallAction] = []
    try:
        for sock, target in zip(sockets, targets, strict=True):
            ports.append(_port(call, sock, target, listens=listens))
        open_ports(ports)
        for port, target in zip(ports, targets, strict=True):
            actions.append(_redirect(port, target, backlog))
    except BaseException:
        for action in actions:
            action.cancel("not redirected")
        for port in ports:
            port.shut()
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
        call.check_target(target.host)


def _port(
    call: SecondaryCall, sock: socket.socket, target: Endpoint | Connection, *, listens: bool
) -> CallPort:
    """Decide about one port's data path (S30); a connection that is bound has its own already."""
    if isinstance(target, Endpoint):
        decided = call.decided(ConnectTcp if call.is_tcp else UdpDestination, target)
        make = functools.partial(outbound_pinhole, target)
        return CallPort(decided, sock, make, is_listening=listens)
    choice = target.choice
    if choice.path is DataPath.KERNEL:  # the client is not known, so that the bind is not
        choice = attrs.evolve(choice, path=DataPath.SPLICE, reason="bound by user space")
    return CallPort(attrs.evolve(call, choice=choice), sock, _no_pinhole, is_listening=listens)


def _no_pinhole(_: SecondaryCall, __: Endpoint | None) -> Pinhole:
    raise KernelPathError("bound by user space")


def _redirect(port: CallPort, target: Endpoint | Connection, backlog: int) -> FirewallAction:
    """Let a port wait for the client."""
    call, sock = port.call, port.sock
    assert sock is not None  # noqa: S101 - a redirection has one
    if isinstance(target, Endpoint) and port.is_in_kernel:
        return _redirect_in_kernel(port, target, backlog)
    if isinstance(target, Endpoint) and not call.is_tcp:
        return _redirect_udp(call, sock, target)
    port.listen(backlog)
    return _redirect_tcp(call, sock, target)


def _redirect_in_kernel(port: CallPort, target: Endpoint, backlog: int) -> FirewallAction:
    if not port.call.is_tcp:
        return _redirect_datagrams_in_kernel(port, target)
    call, host = port.call, port.call.session.client_address.host
    redirected = call.session.engine.redirected

    def in_user_space() -> WaitingPort:
        assert port.sock is not None  # noqa: S101 - a redirection has one
        action.choice = port.call.choice
        waiting = _waiting_port(port.call, port.sock, target)
        waiting.serve(action)
        return waiting

    def close(_: str) -> None:
        if redirected and port.waiting is not None:
            redirected.strike(host, port.waiting)
        port.close()

    action = call.permit(port.address, target, IpFilter.only(host), close)
    port.in_user_space, port.backlog = in_user_space, backlog
    take_streams(
        port,
        action,
        lambda flow: another_connection(call, flow.peer),
        lambda flow: Ends(flow.peer, target),
    )
    return action


def _redirect_datagrams_in_kernel(port: CallPort, target: Endpoint) -> FirewallAction:
    call, address = port.call, port.address
    peers = IpFilter.only(call.session.client_address.host)

    def ends(flow: KernelFlow) -> Ends:
        return Ends(flow.peer, target)

    def in_user_space() -> None:
        sock = port.sock
        assert sock is not None  # noqa: S101 - a redirection has one
        action.choice = connection.choice = port.call.choice
        port.sock = None  # it is the relay's
        try:
            relay = _udp_relay(port.call, connection, sock, target)
        except CallError as error:
            sock.close()
            action.cancel(str(error))
        else:
            connection.carry_datagrams(relay, call.timeout)

    connection = call.connection(call.session.client_address)
    connection.server_address = target

    def close(reason: str) -> None:
        port.close()
        connection.close(reason)

    action = call.permit(address, target, peers, close)
    assert address is not None  # noqa: S101 - a redirection has one
    connection.bind(address, action)
    port.in_user_space = in_user_space
    take_datagrams(port, action, connection, ends)
    return action


def _waiting_port(
    call: SecondaryCall, sock: socket.socket, target: Endpoint | Connection
) -> WaitingPort:
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
    if call.session.listener.leads_to_ports:
        call.session.engine.redirected.enter(call.session.client_address.host, port)
    return port


def _redirect_tcp(
    call: SecondaryCall, sock: socket.socket, target: Endpoint | Connection
) -> FirewallAction:
    port = _waiting_port(call, sock, target)
    host = call.session.client_address.host
    redirected = call.session.engine.redirected

    def close(reason: str) -> None:
        port.close()
        if redirected:
            redirected.strike(host, port)
        if isinstance(target, Connection) and reason != USED:
            target.close(reason, failed=True)  # its client cannot come any more

    towards = target.proxy_address if isinstance(target, Connection) else target
    action = call.permit(port.address, towards, IpFilter.only(host), close)
    port.serve(action)
    return action


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
    source_towards_server(session, target, call.source)  # or an error, and no connection
    connection = call.connection(session.client_address)
    connection.server_address = target
    peers = IpFilter.only(session.client_address.host)
    address = Endpoint.from_sockaddr(sock.getsockname())
    relay = _udp_relay(call, connection, sock, target)
    return carry_datagrams(call, connection, relay, address, target, peers)


def _udp_relay(
    call: SecondaryCall, connection: Connection, sock: socket.socket, target: Endpoint
) -> DatagramRelay:
    """Make what carries a redirection's datagrams, after the kernel if that has carried some.

    Raises:
        CallError: the server would see no address of the proxy.
    """
    session, earlier = call.session, connection.kernel_flow
    source = source_towards_server(session, target, call.source)
    peers = IpFilter.only(session.client_address.host)
    relay = DatagramRelay(
        session.engine.poller,
        session.engine.deadlines,
        connection,
        sock,
        open_far=lambda _: connected_udp(
            session.engine.poller, target, source.address, foreign=source.is_foreign
        ),
        ends_of=lambda client: Ends(client, target),
        allowed=peers.is_included,
        admit=Destinations(connection).admit,
        welcome=Welcome(connection, is_established=earlier is not None),
        replies=True,
        from_client=True,
        limits=datagram_limits(session.engine.limits, max_peers=max_peers(call)),
        on_done=connection.relay_done,
    )
    if earlier is not None:
        relay.follows(earlier)
    return relay
