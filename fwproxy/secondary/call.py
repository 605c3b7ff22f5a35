"""Secondary connections: what inbound and outbound ones have in common."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Destination, Endpoint, IpFilter, Reach, Transport, reach_of
from fwproxy.bounds import PortRange
from fwproxy.clock import Deadline
from fwproxy.connection.connection import Connection
from fwproxy.connection.sources import Source
from fwproxy.datapath.choice import EVERYTHING, HERE, UNDECIDED, Choice, choose
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.datapath.poll import Poller
from fwproxy.dispatch import dispatch, hearers
from fwproxy.errors import InvalidArgumentError, PolicyRulesDeniedError, TerminatingError
from fwproxy.events import BindTcp, BindUdp, Event, Listen, UdpDestination
from fwproxy.filter import SessionFilter
from fwproxy.flags import ConnectionFlags, SecondaryFlags, Verdict
from fwproxy.ledger.ledger import MAX_TRIGGER, FirewallAction
from fwproxy.ports.reservation import PortReservation
from fwproxy.ports.sockets import make_transparent
from fwproxy.protocol import ProtocolDefinition

if TYPE_CHECKING:
    from fwproxy.session.session import Session

_RECEIVE_BUFFER = 64 * 1024


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
        reserved: the ports to use, instead of any of the pool.
        choice: the data path of the connections, and why.
        trigger: what has made the filter ask, for the ledger.
        ports: the ports of the pool that it may have; None is all of them.
        longest: seconds that the permissions may last unused; None is as long as they like.
    """

    session: Session
    protocol: ProtocolDefinition
    flags: SecondaryFlags = SecondaryFlags.NONE
    session_filter: SessionFilter | None = None
    context: object = None
    ip_filter: IpFilter | None = None
    source: Endpoint | None = None
    reserved: PortReservation | None = None
    choice: Choice = UNDECIDED
    trigger: str | None = None
    ports: PortRange | None = None
    longest: float | None = None

    @property
    def is_tcp(self) -> bool:
        """Whether TCP connections are wanted, and not datagrams."""
        return self.protocol.transport is Transport.TCP

    @property
    def filter_name(self) -> str | None:
        """The class of the session filter that asks, if it has said who it is."""
        return None if self.session_filter is None else type(self.session_filter).__name__

    @property
    def is_single(self) -> bool:
        """Whether each permission is for one connection or one source (S17, S37)."""
        return SecondaryFlags.ALLOW_MULTIPLE not in self.flags

    @property
    def leaving(self) -> Source:
        """Where to leave from towards the server: as the call says, or as the primary does."""
        usual = self.session.listener.source_of(self.session.client_address)
        if self.source is None:
            return usual
        same = usual.address is not None and usual.address.host == self.source.host
        return Source(self.source, is_foreign=same and usual.is_foreign)

    @property
    def timeout(self) -> float | None:
        """Seconds that a permission lasts unused, or None: until it is killed.

        The TIMEOUT flag asks for a time-out, and what is granted may set a shorter one.
        """
        if SecondaryFlags.TIMEOUT not in self.flags:
            return self.longest
        usual = self.session.engine.config.secondary.timeout
        return usual if self.longest is None else min(usual, self.longest)

    def decided(
        self, kind: type[Event], address: Endpoint, attached: Sequence[str] = ()
    ) -> SecondaryCall:
        """Return the call with the data path of its connections, decided for good (S30-S33).

        Args:
            kind: the event at which data filters would come.
            address: the remote address for connects, the bound one for binds and accepts.
            attached: who has attached a data filter already.
        """
        coming: type[Event] | None = kind
        if kind is BindUdp:  # those who hear of the bind have had their chance
            coming = UdpDestination if SecondaryFlags.BIDIRECTIONAL in self.flags else None
        expected = self._expected(kind, address)
        if coming is not None and coming is not kind:
            expected += self._expected(coming, None)
        heard = coming is not None and hearers(self.session, coming, of_secondary=True)
        kernel = self.session.engine.kernel
        hindrance = kernel.why_not or self.session.listener.config.why_not_in_kernel
        choice = choose(
            self.protocol.transport,
            kind.__name__,
            flags=self.flags,
            attached=attached,
            expected=expected,
            heard=coming.__name__ if coming is not None and heard else "",
            available=HERE if kernel.path is None or hindrance else EVERYTHING,
            no_kernel=hindrance,
        )
        return attrs.evolve(self, choice=choice)

    def _expected(self, kind: type[Event], address: Endpoint | None) -> list[str]:
        factories = self.session.factories
        return [] if factories is None else factories.expected(kind, address)

    def connection(
        self, client: Endpoint, flags: ConnectionFlags = ConnectionFlags.SECONDARY
    ) -> Connection:
        """Make a connection without sockets."""
        connection = self.session.connection_class(
            self.session,
            self.protocol,
            client_address=client,
            flags=flags,
            source=self.leaving,
            ip_filter=self.ip_filter,
            secondary_flags=self.flags,
            session_filter=self.session_filter,
            context=self.context,
        )
        connection.choice = self.choice
        return connection

    def check_policy(self, host: str) -> None:
        """Make sure that the client may speak the protocol with *host*.

        Raises:
            PolicyRulesDeniedError: the rules say no.
            NetworkRulesDeniedError: the networks of the two have no relation.
        """
        decision = self.session.decide(self.protocol, host)
        if not decision.allowed:
            raise decision.denial(f"{self.protocol.name} with {host}")

    def check_target(self, host: str) -> None:
        """Make sure that the client may be connected to *host* by the protocol.

        A server names it as a rule, and that is no reason to let a client elsewhere have what
        only the proxy's host can reach, unless the server is there as well.

        Raises:
            PolicyRulesDeniedError: the rules say no, or it is such a host.
            NetworkRulesDeniedError: the networks of the two have no relation.
        """
        session = self.session
        if reach_of(host) is Reach.HOST and not session.client_address.ip.is_loopback:
            server = session.server_host
            if server is None or reach_of(server) is not Reach.HOST:
                raise PolicyRulesDeniedError(
                    f"{self.protocol.name} with {host} is not allowed (an address of the "
                    "proxy's own host)"
                )
        self.check_policy(host)

    def allocate(
        self, address: Endpoint, count: int, backlog: int | None, *, foreign: bool = False
    ) -> list[socket.socket]:
        """Bind consecutive ports, reserved ones if there are any (`PortPool.allocate`).

        Raises:
            PolicyRulesDeniedError: a port that is asked for is not granted.
        """
        ports, transport = self.session.engine.ports, self.protocol.transport
        if self.reserved is None:
            self.check_port(address.port)
            return ports.allocate(
                address, transport, count, backlog, foreign=foreign, within=self.ports
            )
        for port in self.reserved.ports:
            self.check_port(port)
        return ports.open_reserved(self.reserved, address, count, backlog, foreign=foreign)

    def check_port(self, port: int) -> None:
        """Make sure that a port of the proxy is granted; 0 is any of those that are.

        Raises:
            PolicyRulesDeniedError: it is not.
        """
        if port and self.ports is not None and port not in self.ports:
            raise PolicyRulesDeniedError(f"port {port} is not one of the granted {self.ports}")

    def check_reserved(self, address: Endpoint, count: int) -> None:
        """Make sure that the reserved ports, if any, are such as this call needs.

        Raises:
            InvalidArgumentError: they are not; the message says why.
        """
        if self.reserved is None:
            return
        self.reserved.check(self.protocol.transport, count, address.host)
        if address.port:
            raise InvalidArgumentError(f"either port {address.port} or {self.reserved}, not both")

    def give_back(self, sockets: Iterable[socket.socket]) -> None:
        """Close those of the allocated ports that no permission has closed."""
        for sock in sockets:
            if sock.fileno() >= 0:
                address = Endpoint.from_sockaddr(sock.getsockname())
                sock.close()
                self.session.engine.ports.release(address, self.protocol.transport)

    def permit(
        self,
        proxy_address: Endpoint | None,
        target: Destination | None,
        peers: IpFilter | None,
        close: Callable[[str], None],
        *,
        owns_port: bool = True,
    ) -> FirewallAction:
        """Enter a permission in the ledger; its end, whatever the cause, closes its port.

        Args:
            proxy_address: where the proxy waits; None where it does not: a listener looks the
                permission up.
            target: where it connects to, if that is known.
            peers: who may come; None is everybody.
            close: closes the port, given the reason.
            owns_port: whether the port is one that the pool has given out.
        """
        session, engine = self.session, self.session.engine
        # A UDP port expires when idle instead (S19).
        timeout = self.timeout if self.is_tcp or proxy_address is None else None
        now = engine.deadlines.now()
        expiry: Deadline | None = None

        def withdraw(action: FirewallAction, reason: str) -> None:
            if expiry is not None:
                expiry.cancel()
            engine.ledger.strike(action)
            action.session.let_go(action)
            close(reason)
            if owns_port and proxy_address is not None:
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
            expires=None if timeout is None else now + timeout,
            filter_name=self.filter_name,
            withdraw=withdraw,
            choice=self.choice,
            trigger=None if self.trigger is None else self.trigger[:MAX_TRIGGER],
        )
        if timeout is not None:
            expiry = engine.deadlines.after(timeout, action.expire)
        engine.ledger.enter(action)
        session.hold(action)
        engine.log.debug("permission given", permission=action)
        return action


async def announce(
    call: SecondaryCall, connections: Sequence[Connection], proxy_address: Endpoint, backlog: int
) -> None:
    """Tell the other filters of a bind; one of them may deny it or play it (S27).

    Raises:
        PolicyRulesDeniedError: one denies it.
        TerminatingError: it was killed meanwhile.
    """
    session, caller = call.session, call.session_filter
    if not session.bound_filters:
        return
    for connection in connections:
        bind = (BindTcp if call.is_tcp else BindUdp)(connection, proxy_address, call.protocol)
        connection.handling(bind)
        verdict = dispatch(session, bind, caller)
        if isinstance(verdict, Awaitable):
            verdict = await verdict
        if verdict is Verdict.EMULATE and not connection.is_emulated:
            connection.emulate_for_bind()
        connection.handling(None)
        if verdict is Verdict.DENY or connection.is_denied:
            raise PolicyRulesDeniedError("the bind was denied by a filter")
        if connection.is_closed:
            raise TerminatingError("the connection was killed while it was being bound")
        if call.is_tcp:
            heard = dispatch(session, Listen(connection, proxy_address, backlog), caller)
            if isinstance(heard, Awaitable):
                await heard


def known_client(connection: Connection) -> Endpoint | None:
    """Return the client's address unless it is still to come."""
    client = connection.client_address
    return None if client.is_unspecified else client


def another_connection(call: SecondaryCall, client: Endpoint) -> Connection | None:
    """Make one more connection of a permission for many, if the session has room for it."""
    return call.connection(client) if call.session.has_room() else None


def carry_datagrams(
    call: SecondaryCall,
    connection: Connection,
    relay: DatagramRelay,
    address: Endpoint,
    target: Endpoint | None,
    peers: IpFilter | None,
) -> FirewallAction:
    """Enter a UDP permission and let its datagrams flow."""
    if SecondaryFlags.INCREASE_RECEIVE_BUFFER in call.flags and relay.sock is not None:
        increase_receive_buffer(relay.sock)
    action = call.permit(address, target, peers, connection.close)
    connection.bind(address, action)
    try:
        connection.carry_datagrams(relay, call.timeout)
    except BaseException:
        connection.close("not bound", failed=True)
        raise
    return action


def increase_receive_buffer(sock: socket.socket) -> None:
    """Make it 64 KiB, or leave it as it is where the system's default is more (S22)."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 2 * _RECEIVE_BUFFER:  # socket(7)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def connected_udp(
    poller: Poller, target: Endpoint, source: Endpoint | None, *, foreign: bool = False
) -> socket.socket:
    """Make a UDP socket whose only peer is *target*; OSError when that cannot be."""
    sock = poller.open_socket(target.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if foreign:
            make_transparent(sock)
        if source is not None:
            sock.bind(source.sockaddr)
        sock.connect(target.sockaddr)
        _forget_strangers(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _forget_strangers(sock: socket.socket) -> None:
    """Throw away what anybody has sent between the bind and the connect."""
    with contextlib.suppress(OSError):  # would block: that was all
        while True:
            sock.recv(1)


def max_peers(call: SecondaryCall) -> int:
    """Return how many sources a UDP permission may have (S17)."""
    return 1 if call.is_single else call.session.engine.limits.max_peers_per_connection
