"""Secondary connections in the kernel: from calls to pinholes, and from flows to connections."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import attrs

from fwproxy.address import Endpoint, IpFilter
from fwproxy.config.listeners import ListenerKind
from fwproxy.connection.connection import Connection
from fwproxy.connection.sources import source_towards_client, source_towards_server
from fwproxy.datapath.choice import Choice, DataPath
from fwproxy.datapath.kernel.flow import KernelFlow
from fwproxy.datapath.kernel.path import KernelPath, OpenPinhole
from fwproxy.datapath.kernel.pinhole import Pinhole
from fwproxy.errors import CallError, KernelPathError
from fwproxy.filter import Ends
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger.ledger import USED, FirewallAction
from fwproxy.ports.sockets import start_listening
from fwproxy.secondary.call import SecondaryCall
from fwproxy.secondary.waiting_port import WaitingPort

_ANY_PORT = 9
"""For a socket that asks the routing table for a source address, and sends nothing."""


def may_be_carried(call: SecondaryCall) -> bool:
    """Tell whether the kernel might carry a call's connections, before that is decided."""
    if not call.session.engine.kernel.is_open or SecondaryFlags.NO_KERNEL_MODE in call.flags:
        return False
    return not call.session.listener.config.why_not_in_kernel


@attrs.define(slots=True, eq=False)
class CallPort:
    """A port that waits on behalf of one permission: in the kernel, or by listening.

    Attributes:
        call: who has asked, with the data path as it has turned out.
        sock: holds the port, so that nobody else has it; None where the client goes to the
            server's own address.
        make: makes the pinhole for a port, if the kernel is to wait there.
        is_listening: whether the socket listens already.
        on_flow: hears of each connection that has come through the kernel.
        in_user_space: lets user space wait there instead, once the choice says so.
        opened: the pinhole, once it is open.
        backlog: how many may wait in user space.
        waiting: what listens instead of the kernel.
    """

    call: SecondaryCall
    sock: socket.socket | None
    make: Callable[[SecondaryCall, Endpoint | None], Pinhole]
    is_listening: bool = False
    on_flow: Callable[[KernelFlow], None] | None = None
    in_user_space: Callable[[], WaitingPort | None] | None = None
    opened: OpenPinhole | None = None
    backlog: int = 1
    waiting: WaitingPort | None = None

    @property
    def is_in_kernel(self) -> bool:
        """Whether the kernel waits there."""
        return self.opened is not None

    @property
    def address(self) -> Endpoint | None:
        """The port of the proxy."""
        return None if self.sock is None else Endpoint.from_sockaddr(self.sock.getsockname())

    def listen(self, backlog: int) -> None:
        """Let a TCP port wait in user space, if it does not yet.

        Raises:
            AddressInUseError: somebody else listens there.
        """
        if self.sock is not None and not self.is_listening:
            start_listening(self.sock, backlog)
            self.is_listening = True

    def came(self, flow: KernelFlow) -> None:
        """Pass a connection on."""
        if self.on_flow is None:
            flow.close(abort=True)
        else:
            self.on_flow(flow)

    def shut(self) -> None:
        """Close the pinhole; connections that have come go on."""
        path = self.call.session.engine.kernel.path
        if path is not None and self.opened is not None:
            path.close([self.opened])

    def close(self) -> None:
        """Close pinhole and port."""
        self.shut()
        if self.waiting is not None:
            self.waiting.close()
        elif self.sock is not None:
            self.sock.close()

    def taking_back(self) -> None:
        """Be ready for those who do not come through the kernel any more."""
        if self.call.is_tcp:
            self.listen(self.backlog)

    def taken_back(self) -> None:
        """Wait in user space from now on: the kernel does so no more, and nobody is there."""
        self.shut()
        self.opened = None
        self.call = attrs.evolve(
            self.call, choice=_fallen_back(self.call, self.call.session.engine.kernel.why_not)
        )
        if self.in_user_space is not None:
            self.waiting = self.in_user_space()

    def reopen_for(self, peer: str) -> None:
        """Let the one peer in again that a datagram permission is for.

        Raises:
            KernelPathError: the kernel refuses.
        """
        kernel = self.call.session.engine.kernel
        path = kernel.path
        if path is None or self.opened is None or kernel.why_not:
            raise KernelPathError(kernel.why_not or "the kernel path is not running")
        pinhole = attrs.evolve(self.opened.pinhole, peers=IpFilter.only(peer))
        path.close([self.opened])
        self.opened = path.open([(pinhole, self.came)])[0]
        self.opened.giving_back, self.opened.given_back = self.taking_back, self.taken_back


def open_ports(ports: Sequence[CallPort]) -> None:
    """Open the pinholes of those ports that nobody wants to look into, in one transaction.

    What the kernel cannot carry is carried by user space, and the choice says why.
    """
    wanted = [port for port in ports if port.call.choice.path is DataPath.KERNEL]
    if not wanted:
        return
    kernel = wanted[0].call.session.engine.kernel
    try:
        if kernel.path is None or kernel.why_not:
            raise KernelPathError(kernel.why_not)  # noqa: TRY301 - one way to fall back
        pinholes = [_pinhole(kernel.path, port) for port in wanted]
        opened = kernel.path.open(
            [(pinhole, port.came) for pinhole, port in zip(pinholes, wanted, strict=True)]
        )
    except KernelPathError as error:
        for port in wanted:
            port.call = attrs.evolve(port.call, choice=_fallen_back(port.call, str(error)))
    else:
        for port, each in zip(wanted, opened, strict=True):
            port.opened = each
            each.giving_back, each.given_back = port.taking_back, port.taken_back


def _pinhole(path: KernelPath, port: CallPort) -> Pinhole:
    if not port.call.is_tcp and not port.call.is_single:
        raise KernelPathError("datagrams of several sources")
    pinhole = port.make(port.call, port.address)
    obstacle = path.obstacle(pinhole)
    if obstacle:
        raise KernelPathError(obstacle)
    return pinhole


def take_streams(
    port: CallPort,
    action: FirewallAction,
    connection: Callable[[KernelFlow], Connection | None],
    ends: Callable[[KernelFlow], Ends],
) -> None:
    """Make a connection of each TCP flow that comes through a port.

    Args:
        port: where.
        action: the permission.
        connection: takes or makes the connection; None if there is no room for it.
        ends: says who is the client and who the server.
    """

    def came(flow: KernelFlow) -> None:
        action.uses += 1
        if port.call.is_single:
            action.cancel(USED)
        chosen = connection(flow)
        if chosen is None or chosen.is_closed:
            flow.close(abort=True)
        else:
            chosen.permission = action
            chosen.carry_in_kernel(flow, ends(flow))
        if port.call.is_single:
            action.settle()  # which it has not if there was room for the connection

    def let_in() -> None:
        path = port.call.session.engine.kernel.path
        if path is not None:
            path.catch_up()

    port.on_flow, action.let_in = came, let_in


def take_datagrams(
    port: CallPort,
    action: FirewallAction,
    connection: Connection,
    ends: Callable[[KernelFlow], Ends],
) -> None:
    """Carry the datagrams of the one source that comes through a port, however often it rests.

    Conntrack forgets a source that rests for a while; then the port waits for that one again.
    """

    def rested(_: str, broken: bool, __: BaseException | None) -> None:  # noqa: FBT001 - Done
        server = connection.server_address
        flow = connection.kernel_flow
        if flow is None or server is None or broken:
            connection.close("not carried any more", failed=True)
            return
        try:
            port.reopen_for(flow.peer.host)
        except KernelPathError:
            port.taken_back()

    def came(flow: KernelFlow) -> None:
        action.uses += 1
        connection.carry_in_kernel(flow, ends(flow))
        flow.on_done = rested

    port.on_flow = came
    connection.expect_datagrams(port.call.timeout)


def _fallen_back(call: SecondaryCall, reason: str) -> Choice:
    path = DataPath.SPLICE if call.is_tcp else DataPath.DATAGRAM
    return attrs.evolve(call.choice, path=path, reason=reason)


def inbound_pinhole(client: Endpoint, call: SecondaryCall, address: Endpoint | None) -> Pinhole:
    """Return the pinhole of a bind: whoever may come is passed on to the client.

    Args:
        client: where to.
        call: the bind.
        address: the port of the proxy.

    Raises:
        KernelPathError: the kernel cannot translate so.
    """
    session = call.session
    server = session.server_host
    peer = None if server is None else Endpoint(server)
    source = source_towards_client(session, client, peer, call.flags)
    return Pinhole(
        address or client,
        call.protocol.transport,
        client,
        peers=call.ip_filter,
        source=None if source.is_foreign else _source(client, source.address),
        is_single=call.is_single,
        timeout=call.timeout,
        is_one_way=not call.is_tcp and SecondaryFlags.BIDIRECTIONAL not in call.flags,
    )


def outbound_pinhole(server: Endpoint, call: SecondaryCall, address: Endpoint | None) -> Pinhole:
    """Return the pinhole of a redirection: the client is passed on to the server (S36).

    Args:
        server: where to.
        call: the redirection, or what allows a connection to the server's own address.
        address: the port of the proxy, if there is one.

    Raises:
        KernelPathError: the kernel cannot translate so.
    """
    session = call.session
    if address is None:
        address = server
    elif session.listener_kind is ListenerKind.REDIRECT and session.advertised_host:
        # The client goes to the server itself, as far as it knows.
        address = Endpoint(session.advertised_host, address.port)
    try:
        seen = source_towards_server(session, server, call.source)
    except CallError as error:  # which user space says where it is heard
        raise KernelPathError(str(error)) from error
    source = None if seen.is_foreign else _source(server, seen.address)
    return Pinhole(
        address,
        call.protocol.transport,
        server,
        peers=IpFilter.only(session.client_address.host),
        source=source,
        is_single=call.is_single,
        timeout=call.timeout,
    )


def _source(target: Endpoint, wanted: Endpoint | None) -> Endpoint:
    """Return the address of this host that *target* is to see.

    Raises:
        KernelPathError: there is none, or a port is wanted.
    """
    if wanted is not None and not wanted.is_unspecified:
        if wanted.port:
            raise KernelPathError("a source port is asked for")
        return wanted
    try:
        with socket.socket(target.family, socket.SOCK_DGRAM) as sock:
            sock.connect((target.host, _ANY_PORT))
            return Endpoint.from_sockaddr(sock.getsockname()).with_port(0)
    except OSError as error:
        raise KernelPathError(f"{target.host}: {error.strerror}") from error
