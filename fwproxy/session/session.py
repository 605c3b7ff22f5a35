"""A session: one client, and everything that was opened for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fwproxy.address import Endpoint, HostName, IpFilter, Reach, Transport, reach_of
from fwproxy.config.listeners import ListenerKind
from fwproxy.connection.connection import Connection, ConnectionState
from fwproxy.connection.naming import host_by_address, host_by_name
from fwproxy.connection.sources import TRANSLATED, is_full_proxy
from fwproxy.dispatch import BoundFilter
from fwproxy.engine.engine import Engine
from fwproxy.engine.quotas import Usage
from fwproxy.errors import (
    AddressNotAllowedError,
    BadContextError,
    NotRegisteredError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import Event
from fwproxy.filter import FAULTS, Priority, SessionFilter
from fwproxy.flags import SecondaryFlags, SessionFlags, Verdict
from fwproxy.ledger.ledger import FirewallAction
from fwproxy.policy.grants import check_client_addresses as check_granted
from fwproxy.policy.policy import AccessRequest, Decision, NetworkRelation
from fwproxy.ports.reservation import PortReservation
from fwproxy.protocol import ProtocolDefinition
from fwproxy.secondary.address_check import client_address_problem
from fwproxy.secondary.call import SecondaryCall
from fwproxy.secondary.client_binds import ClientBinds
from fwproxy.secondary.factories import DataFilterFactory, Factories, FactoryAction
from fwproxy.secondary.future import hand_over
from fwproxy.session.calls import SessionCalls
from fwproxy.session.holdings import Holdings, Shared
from fwproxy.session.services import Service
from fwproxy.session.terms import Terms, govern

if TYPE_CHECKING:
    from fwproxy.listeners.base import Listener


_NO_ADDRESS = Decision(allowed=False, rule="no address to connect to")


class Session(Holdings, SessionCalls):
    """One client of one listener. It owns its connections and permissions: its end ends them.

    The calls that open something are those of `SessionCalls`; what it has is in `Holdings`.

    Attributes:
        id: its number in log and ledger.
        engine: for the engine's own use.
        protocol: the protocol of its primary connection.
        connection_class: what its connections are made of.
        client_address: the client; the port is 0.
        authenticated_user: the user's name, or None.
        advertised_host: the address that the client knows the proxy by, where that is not the
            one that its primary connection has arrived at.
    """

    __slots__ = (
        "__weakref__", "_client_binds", "_hearings", "_listener", "_on_end", "_shared",
        "advertised_host", "authenticated_user", "bound_filters", "client_address",
        "connections", "end_reason", "engine", "factories", "id", "permissions", "primary",
        "protocol", "resolutions", "rule", "service", "session_filters", "terms",
    )  # fmt: skip

    connection_class: ClassVar[type[Connection]] = Connection

    def __init__(
        self,
        engine: Engine,
        listener: Listener,
        client: Endpoint,
        service: Service,
        on_end: Callable[[Session], None],
    ) -> None:
        self.engine = engine
        self.id = next(engine.session_numbers)
        self._listener = listener
        self._on_end = on_end
        self.service = service
        self.protocol: ProtocolDefinition = service.protocol
        self.bound_filters: tuple[BoundFilter, ...] = service.terms.bound_filters
        self.terms: Terms = service.terms
        self.rule = ""
        self.usages: tuple[Usage, ...] = ()
        self.client_address = client.with_port(0)
        self.authenticated_user: str | None = None
        self.advertised_host: str | None = listener.config.advertise
        self.primary: Connection | None = None
        self.connections: set[Connection] = set()
        self.permissions: set[FirewallAction] = set()
        self.session_filters: dict[str, SessionFilter | None] = {}
        self.factories: Factories | None = None
        self.resolutions = 0
        self.end_reason: str | None = None
        self._hearings: set[asyncio.Future[Verdict]] | None = None
        self._client_binds: ClientBinds | None = None
        self._shared: set[Shared] | None = None

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.client_address.host}>"

    @property
    def listener_kind(self) -> ListenerKind:
        """How the client came in."""
        return self._listener.config.kind

    @property
    def listener_name(self) -> str:
        """The name of the listener that the client came in by."""
        return self._listener.config.name

    @property
    def listener(self) -> Listener:
        """The listener that the client came in by."""
        return self._listener

    @property
    def must_log_in(self) -> bool:
        """Whether the client has yet to log in at the proxy (`users` of its listener)."""
        return self.authenticated_user is None and self._listener.logins is not None

    async def log_in(self, user: str, password: bytes) -> bool:
        """Tell whether a login at the proxy is right; if it is, the session is that user's.

        For filters of `gateway` listeners, whose clients log in by words of their protocol. A
        client that has guessed too often is told no (`limits.max_failed_logins`).

        Raises:
            BadContextError: nobody logs in at the listener, or the client has done it already.
        """
        logins, host = self._listener.logins, self.client_address.host
        if logins is None:
            raise BadContextError("nobody logs in at this listener")
        is_right = self.authenticated_user is None and await logins.check(user, password, host)
        if self.authenticated_user is not None:
            raise BadContextError("the client has logged in already")
        if is_right:
            self.authenticated_user = user
        return is_right

    @property
    def session_flags(self) -> SessionFlags:
        """What is true of this session."""
        flags = SessionFlags.NONE
        if self.authenticated_user is not None:
            flags |= SessionFlags.AUTHENTICATED
        if self.relation_to_server(self.client_address.host) in TRANSLATED:
            flags |= SessionFlags.NAT
        if self.end_reason is not None:
            flags |= SessionFlags.TERMINATED
        return flags

    @property
    def server_host(self) -> str | None:
        """The address of its server, the external peer; None while there is none."""
        server = None if self.primary is None else self.primary.server_address
        return None if server is None else server.host

    def relation_to_server(self, host: str) -> NetworkRelation:
        """Tell how an address that the client names is related to its server (S15).

        Across NAT it means nothing there, and has to be translated.
        """
        server = self.server_host
        if server is None:
            return NetworkRelation.NONE
        return self.engine.policy.relation(host, server)

    @property
    def proxy_mode(self) -> SecondaryFlags:
        """The flag PROXY_MODE if the primary connection is in full proxy mode, or none (S26)."""
        return SecondaryFlags.PROXY_MODE if is_full_proxy(self) else SecondaryFlags.NONE

    @property
    def client_binds(self) -> ClientBinds:
        """The ports that the client has bound by itself, for the listener to fill in."""
        if self._client_binds is None:
            self._client_binds = ClientBinds(self)
        return self._client_binds

    @property
    def last_active(self) -> float:
        """The time of the last traffic on any of its connections."""
        return max((connection.last_active for connection in self.connections), default=0.0)

    def is_at_rest(self, quiet: float) -> bool:
        """Tell whether nothing would be lost by ending it.

        That can be known of datagrams, and of a protocol with secondary connections: there are
        none and none is permitted, and its primary connection has been quiet for *quiet* seconds.
        """
        if not self.protocol.secondary and self.protocol.transport is Transport.TCP:
            return False
        own = None if self.primary is None else self.primary.permission
        if self.permissions - {own} or len(self.connections) > 1:
            return False
        return self.engine.deadlines.now() - self.last_active >= quiet

    def filter_settings(self, name: str) -> Any:
        """Return the settings of a filter as they hold for this session's listener.

        Raises:
            NotRegisteredError: the filter is not bound to the listener.
        """
        return self._bound(name).settings

    def attach_filter(self, name: str) -> SessionFilter | None:
        """Attach a filter; no effect if it is attached. None if it has no interest.

        Raises:
            NotRegisteredError: the filter is not bound to the listener.
            TerminatingError: the session is ending.
        """
        if name not in self.session_filters:
            self._check_alive()
            self.session_filters[name] = self._bound(name).filter.attach_to_session(self)
        return self.session_filters[name]

    def _bound(self, name: str) -> BoundFilter:
        for bound in self.bound_filters:
            if bound.filter.name == name:
                return bound
        raise NotRegisteredError(f"no filter {name!r} is bound to listener {self.listener_name!r}")

    def decide(self, protocol: ProtocolDefinition, server: str) -> Decision:
        """Ask the policy; what a protocol opens besides itself is allowed where it is (S13)."""
        policy = self.engine.policy
        if policy.only_answer is not None:
            return policy.only_answer
        if protocol.name in self.protocol.secondary:
            protocol = self.protocol
        client, user = self.client_address.host, self.authenticated_user
        return policy.decide(AccessRequest(protocol, client, server, user))

    def decide_primary(self, protocol: ProtocolDefinition, server: Endpoint) -> Decision:
        """Ask the policy about a server that may be the client's own choice."""
        if server.port == 0:
            return _NO_ADDRESS
        return self.decide_host(protocol, server.host)

    def decide_host(self, protocol: ProtocolDefinition, server: str) -> Decision:
        """Ask the policy about a server's address, whatever its port.

        Where the client may choose, what only the proxy's host can reach is for clients on that
        host alone: a rule that lets clients go anywhere hardly means the services on its loopback.
        """
        reach = reach_of(server)
        if reach is Reach.NOWHERE:
            return _NO_ADDRESS
        chosen = self._listener.config.kind is not ListenerKind.FORWARD
        if reach is Reach.HOST and chosen and not self.client_address.ip.is_loopback:
            return Decision(allowed=False, rule="an address of the proxy's own host")
        return self.decide(protocol, server)

    def check_client_addresses(
        self, clients: Sequence[Endpoint], flags: SecondaryFlags = SecondaryFlags.NONE
    ) -> None:
        """Make sure that every address is one that this client may name (S01, S03).

        The flags are added to those of `[secondary] allow_addresses`.

        Raises:
            AddressNotAllowedError: one is not, or is not granted; the message says which and why.
        """
        flags |= self.engine.address_flags
        for client in clients:
            problem = client_address_problem(self, client, flags)
            if problem:
                raise AddressNotAllowedError(problem)
        check_granted(self, clients)

    def internal_source(self, client: Endpoint) -> Endpoint | None:
        """Return the address to leave from towards the client: the one that it came to."""
        host = self.internal_host
        if host is None or (":" in host) != (":" in client.host):
            return None
        return Endpoint(host)

    @property
    def internal_host(self) -> str | None:
        """The proxy's address that the client's primary connection arrived at."""
        name = None if self.primary is None else self.primary.internal_socket_name
        return None if name is None else name.host

    async def get_host_by_name(
        self, name: str, *, session_filter: SessionFilter | None = None
    ) -> list[Endpoint]:
        """Return the addresses of a name, in the order to try them, with port 0.

        Args:
            name: the name.
            session_filter: does not hear GetHostByName of its own question.

        Raises:
            InvalidArgumentError: it is no host name.
            NoServerReplyError: it does not resolve, or not in time.
            PolicyRulesDeniedError: a filter says no.
            QuotaError: `limits.max_resolutions_per_session` are under way.
            TerminatingError: the session is ending.
        """
        return await host_by_name(self._asker(), HostName(name), session_filter)

    async def get_host_by_addr(
        self, address: str, *, session_filter: SessionFilter | None = None
    ) -> str:
        """Return the name of an IP address; otherwise as above."""
        return await host_by_address(self._asker(), Endpoint(address), session_filter)

    def set_data_filter_factory(
        self,
        event_type: type[Event],
        address: Endpoint | None,
        factory: DataFilterFactory,
        priority: Priority = Priority.MIDDLE,
        context: object = None,
        flags: SecondaryFlags = SecondaryFlags.NONE,
    ) -> FactoryAction:
        """Put data filters into connections that the filter is not registered for.

        When the event comes, *factory* is called with the connection and *context*, after the
        filters have heard the event. One that raises denies the connection.

        Set it before the call that opens the connection, or open that with NO_KERNEL_MODE: the
        data path is decided at the call, and where nobody expected a data filter none can be
        attached any more (S30-S32). The returned action lists those in `missed`, and the log
        has a warning.

        Args:
            event_type: ConnectTcp, AcceptedConnection, BindUdp or UdpDestination.
            address: the remote address for connects, the bound one for binds and accepts; port 0
                is any port, all zeros any host, None anything.
            factory: makes a data filter, or returns None to stay away.
            priority: where in the chain it stands.
            context: any object.
            flags: ALLOW_MULTIPLE (the first connection ends it otherwise) and TIMEOUT.

        Raises:
            InvalidArgumentError: another event, or another flag.
            QuotaError: the session has `limits.max_factories_per_session`.
            TerminatingError: the session is ending.
        """
        self._check_alive()
        if self.factories is None:
            self.factories = Factories(self)
        return self.factories.set(event_type, address, factory, priority, context, flags)

    # Life cycle, from here on for the engine only.

    def _call(
        self,
        protocol: ProtocolDefinition,
        flags: SecondaryFlags = SecondaryFlags.NONE,
        session_filter: SessionFilter | None = None,
        context: object = None,
        ip_filter: IpFilter | None = None,
        *,
        source: Endpoint | None = None,
        reserved: PortReservation | None = None,
        trigger: str | None = None,
    ) -> SecondaryCall:
        if trigger is None:
            trigger = getattr(context, "trigger", None)
        return SecondaryCall(
            self, protocol, flags, session_filter, context, ip_filter, source, reserved,
            trigger=trigger if isinstance(trigger, str) else None,
        )  # fmt: skip

    def _asker(self) -> Connection:
        self._check_alive()
        if self.primary is None:
            raise TerminatingError("the session has no primary connection")
        return self.primary

    def share(self, port: Shared) -> None:
        """Note that the session uses something that is not its own, and leaves it at its end."""
        if self._shared is None:
            self._shared = set()
        self._shared.add(port)

    def govern_by(self, decision: Decision) -> None:
        """Note the rule that has allowed the primary connection, and what it says besides.

        Raises:
            QuotaError: the rule has as many connections as it may have, or they come too fast.
        """
        self.rule = decision.rule
        terms = self.service.terms_of(decision.number)
        if terms is not self.terms:
            try:
                govern(self, terms)
            except QuotaError as error:
                self.report_quota(error)
                raise

    def remove_connection(self, connection: Connection, reason: str) -> None:
        """Let go of a connection that has ended; the primary's end is the session's."""
        self.connections.discard(connection)
        if self.usages:
            self.count_connection(-1)
        if connection is self.primary:
            self.end(reason)
        elif self.end_reason is not None and not self.connections:
            self._finish()

    def hear_out(self, answer: Awaitable[Verdict]) -> None:
        """Let the filters take their leave of a connection; the session does not end before."""
        hearing = asyncio.ensure_future(answer)
        if self._hearings is None:
            self._hearings = set()
        self._hearings.add(hearing)
        hearing.add_done_callback(self._heard)

    def _heard(self, hearing: asyncio.Future[Verdict]) -> None:
        if self._hearings is not None:
            self._hearings.discard(hearing)
        if self.end_reason is not None and not self.connections:
            self._finish()

    def end(self, reason: str, *, at_once: bool = False) -> None:
        """Withdraw every permission and end every connection.

        Secondaries that are established get `limits.drain_timeout` seconds, because a server may
        well close the primary while the client still reads the last bytes of a transfer.
        """
        if self.end_reason is None:
            self.end_reason = reason
        drain = 0.0 if at_once else self.engine.limits.drain_timeout
        if not at_once:
            self._let_in()
        if self.engine.expected:
            hand_over(self, self._listener.sessions.others_of(self))
        if self._client_binds is not None:
            self._client_binds.close_all("its session has ended")
        for action in tuple(self.permissions):
            action.cancel("its session has ended")
        if self.factories is not None:
            self.factories.cancel_all("its session has ended")
        for connection in tuple(self.connections):
            if connection is self.primary:
                connection.close(reason, failed=at_once)
            else:
                connection.drain(drain)
        if at_once and self._hearings:
            for hearing in self._hearings:
                self.engine.loop.call_soon(hearing.cancel)  # once begun, or Python warns of it
            self._hearings = None
        if not self.connections:
            self._finish()

    def _let_in(self) -> None:
        """Take the servers that came before its end, not noticed yet, to clients that wait.

        Nobody else would have the time to be connected to the other side.
        """
        for connection in tuple(self.connections):
            waits = connection.state is ConnectionState.BOUND and connection.client_sock is not None
            if waits and connection.permission is not None:
                connection.permission.let_in()

    def _finish(self) -> None:
        if self.primary is None or self._hearings:
            return
        self.primary = None
        for session_filter in self.session_filters.values():
            if session_filter is None:
                continue
            try:
                session_filter.detach()
            except FAULTS:  # the session has ended all the same
                self.engine.log.exception("filter failed to detach", session=self.id)
        self.session_filters.clear()
        for port in self._shared or ():
            port.left_by(self)
        for usage in self.usages:
            self.leave(usage)
        self._on_end(self)
