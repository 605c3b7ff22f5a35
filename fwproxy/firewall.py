"""The firewall: everything together, to run alone or inside another asyncio program."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import ClassVar, Self

from fwproxy.address import Endpoint, Transport
from fwproxy.config.config import Config
from fwproxy.config.listeners import ListenerConfig, ListenerKind
from fwproxy.dispatch import BoundFilter
from fwproxy.engine.engine import Engine
from fwproxy.engine.quotas import Usage
from fwproxy.errors import ConfigError, InvalidArgumentError
from fwproxy.filter import Filter, Hooks
from fwproxy.ledger.ledger import Ledger
from fwproxy.listeners.arrival import Arrivals
from fwproxy.listeners.base import Listener
from fwproxy.listeners.explicit import ExplicitListener
from fwproxy.listeners.forward import ForwardListener
from fwproxy.listeners.gateway import GatewayListener
from fwproxy.listeners.passing import let_through
from fwproxy.listeners.redirect import RedirectListener
from fwproxy.listeners.tproxy import TproxyListener
from fwproxy.policy.grants import Grant
from fwproxy.policy.scope import Scope
from fwproxy.ports.reservation import PortReservation
from fwproxy.protocol import ProtocolDefinition
from fwproxy.registry import find, settings_for
from fwproxy.session.services import Service, Services
from fwproxy.session.session import Session
from fwproxy.session.terms import Terms

QUIET = 1.0
"""Seconds without traffic after which a control connection without transfers is at rest."""

_LISTENERS: dict[ListenerKind, type[Listener]] = {
    ListenerKind.FORWARD: ForwardListener,
    ListenerKind.GATEWAY: GatewayListener,
    ListenerKind.REDIRECT: RedirectListener,
    ListenerKind.TPROXY: TproxyListener,
    ListenerKind.SOCKS: ExplicitListener,
    ListenerKind.HTTP: ExplicitListener,
    ListenerKind.MIXED: ExplicitListener,
}


class Sessions:
    """The sessions that there are, by number and counted by client.

    Attributes:
        arrivals: those who have none yet, but count.
    """

    def __init__(self, engine: Engine, session_class: type[Session] = Session) -> None:
        self._engine = engine
        self._session_class = session_class
        self._sessions: dict[int, Session] = {}
        self._by_client: defaultdict[str, set[Session]] = defaultdict(set)
        self._empty: asyncio.Event | None = None
        self.arrivals = Arrivals()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def refusal(self, host: str, *, counts: bool = True) -> str | None:
        """Say which limit one more session of this client would pass, or None.

        Args:
            host: its address.
            counts: whether it counts against the client's rate: once for each that comes.
        """
        limits, arrivals = self._engine.limits, self.arrivals
        waiting = len(arrivals)
        if len(self._sessions) + waiting >= limits.max_sessions:
            return f"{limits.max_sessions} sessions already (max_sessions)"
        own = len(self._by_client.get(host, ())) + (arrivals.of(host) if waiting else 0)
        if own >= limits.max_sessions_per_client:
            return f"{limits.max_sessions_per_client} of the client (max_sessions_per_client)"
        quotas = self._engine.quotas
        return quotas.refusal(host, counts=counts) if quotas.for_clients else None

    def open(self, listener: Listener, client: Endpoint, service: Service | None = None) -> Session:
        """Start a session; without a service for what the listener usually serves."""
        service = service or listener.services.usual
        session = self._session_class(self._engine, listener, client, service, self._ended)
        if self._engine.quotas.for_clients:
            session.join(self._engine.quotas.client(client.host))
        self._sessions[session.id] = session
        self._by_client[client.host].add(session)
        return session

    def of_client(self, host: str) -> list[Session]:
        """Return the sessions of a client's address that are not ending, the latest first."""
        found = [each for each in self._by_client.get(host, ()) if each.end_reason is None]
        return sorted(found, key=lambda session: -session.id)

    def others_of(self, session: Session) -> list[Session]:
        """Return the other sessions of the same client's address that are not ending."""
        same = self._by_client.get(session.client_address.host, ())
        return [each for each in same if each is not session and each.end_reason is None]

    def _ended(self, session: Session) -> None:
        del self._sessions[session.id]
        host = session.client_address.host
        self._by_client[host].discard(session)
        if not self._by_client[host]:
            del self._by_client[host]
        if self._empty is not None and not self._sessions:
            self._empty.set()

    async def wait_empty(self, grace: float) -> bool:
        """Wait until the last session has ended; False if *grace* seconds were not enough."""
        if not self._sessions:
            return True
        self._empty = self._empty or asyncio.Event()
        try:
            await asyncio.wait_for(self._empty.wait(), grace)
        except TimeoutError:
            return False
        return True

    async def wind_down(self, grace: float) -> bool:
        """Wait until the last session has ended, and end those at rest; False if *grace* is over.

        An idle control connection would otherwise hold up every stop to the end.
        """
        deadlines = self._engine.deadlines
        end = deadlines.now() + grace
        while len(self) and deadlines.now() < end:
            for session in self:
                if session.is_at_rest(QUIET):
                    session.end("the proxy is stopped")
            await self.wait_empty(min(QUIET, max(end - deadlines.now(), 0)))
        return not len(self)

    def end_all(self, reason: str) -> None:
        """End every session at once."""
        for session in self:
            session.end(reason, at_once=True)
        if self._empty is not None:
            self._empty.set()


class Firewall:
    """The embeddable whole: `async with Firewall(config) as firewall: …`.

    It takes no signals, configures no logging and never exits: those are its host's.

    Args:
        config: what to do.
        filters: further filter classes, besides those that are installed as entry points.

    Attributes:
        session_class: what its sessions are made of.
        config: as given.
        listeners: by name, while it runs.

    Raises:
        ConfigError: a filter is missing or its settings are wrong.
    """

    session_class: ClassVar[type[Session]] = Session

    def __init__(self, config: Config, filters: Iterable[type[Filter]] = ()) -> None:
        self.config = config
        self.listeners: dict[str, Listener] = {}
        self._filter_classes = {kind.name: kind for kind in filters}
        self._filters: dict[str, tuple[Filter, Hooks]] = {}
        self._engine: Engine | None = None
        self._sessions: Sessions | None = None
        self._settings = {
            listener.name: self._listener_settings(listener) for listener in config.listeners
        }

    @property
    def engine(self) -> Engine:
        """The running parts.

        Raises:
            RuntimeError: it is not running.
        """
        if self._engine is None:
            raise RuntimeError("the firewall is not running")
        return self._engine

    @property
    def sessions(self) -> Sessions:
        """The sessions that there are.

        Raises:
            RuntimeError: it is not running.
        """
        if self._sessions is None:
            raise RuntimeError("the firewall is not running")
        return self._sessions

    @property
    def ledger(self) -> Ledger:
        """Every permission that there is, and those that have ended lately."""
        return self.engine.ledger

    def reserve_ports(
        self, count: int, transport: Transport = Transport.TCP, *, host: str | None = None
    ) -> PortReservation:
        """Keep consecutive ports of the pool for later calls that name the reservation.

        They are bound and nobody listens there, until `bind_for_client` or `redirect_connections`
        is given the reservation. They stay reserved until its `release`, or the firewall's stop.

        Args:
            count: how many; the lowest is a multiple of it.
            transport: TCP or UDP.
            host: the address of this computer to reserve them on; None is every address.

        Raises:
            InvalidArgumentError: fewer than one port.
            PortsExhaustedError: the pool has not so many left side by side.
            AddressNotAvailableError: the address is none of this computer's.
            QuotaError: `limits.max_reserved_ports` would be passed.
            RuntimeError: it is not running.
        """
        if count < 1:
            raise InvalidArgumentError(f"{count} ports cannot be reserved")
        return self.engine.ports.reserve(
            count, transport, None if host is None else Endpoint(host).host
        )

    async def start(self) -> None:
        """Start the filters and listen.

        Raises:
            OSError: a listener's address cannot be had; nothing is left running.
        """
        if self._engine is not None:
            raise RuntimeError("the firewall runs already")
        self._engine = self._make_engine()
        self._sessions = Sessions(self._engine, self.session_class)
        try:
            self._start_filters()
            usages = [self._engine.quotas.rule(r.name, r.limits) for r in self.config.rules]
            for config in self.config.listeners:
                services = self._services(config, usages)
                listener = _LISTENERS[config.kind](self._engine, config, services, self._sessions)
                listener.start()
                let_through(self._engine, listener)
                self.listeners[config.name] = listener
        except BaseException:
            await self.stop(0)
            raise

    def _make_engine(self) -> Engine:
        return Engine.start(self.config)

    async def stop(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - a grace period
        """Accept no more, give the sessions some time, then end them.

        Args:
            timeout: seconds; None is `limits.stop_timeout`, 0 ends them at once, also while
                another call still waits.
        """
        if self._engine is None or self._sessions is None:
            return
        engine, sessions = self._engine, self._sessions
        for listener in self.listeners.values():
            listener.stop()
        sessions.arrivals.end_all()
        engine.shared.close()
        grace = engine.limits.stop_timeout if timeout is None else timeout
        try:
            if grace > 0 and len(sessions):
                engine.log.info("stopping", sessions=len(sessions), grace=grace)
                if not await sessions.wind_down(grace):
                    engine.log.warning("sessions ended by the stop", sessions=len(sessions))
        finally:  # also when nobody wants to wait any more
            sessions.end_all("the proxy is stopped")
            sessions.arrivals.end_all()  # to those a last reply was due
            if self._engine is engine:
                self._shut_down(engine)
        for _ in range(2):  # let cancelled tasks begin and end
            await asyncio.sleep(0)
        await engine.ledger.written()

    def _shut_down(self, engine: Engine) -> None:
        self._engine = None
        self.listeners.clear()
        for kind, _ in self._filters.values():
            try:
                kind.filter_shutdown()
            except Exception:  # the others must be shut down too
                engine.log.exception("filter failed to shut down", filter=kind.name)
        self._filters.clear()
        engine.close()
        engine.log.info("stopped")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop(0 if kind is not None else None)

    def _listener_settings(self, listener: ListenerConfig) -> dict[str, object]:
        """Read the settings of each filter that a listener uses."""
        settings: dict[str, object] = {}
        for name in self.config.filters_under(listener):
            if name not in self._filter_classes:
                self._filter_classes[name] = find(name)
            layers = (self.config.filters.get(name, {}), listener.filters.get(name, {}))
            settings[name] = settings_for(self._filter_classes[name], *layers)
        unknown = set(listener.filters) - set(settings)
        if unknown:
            raise ConfigError(
                f"listener {listener.name!r} has settings for {min(unknown)!r}, which is no "
                f"filter of {f'the protocol {listener.protocol!r}' if listener.protocol else 'any'}"
            )
        return settings

    def _start_filters(self) -> None:
        """Start each filter in use once; one that fails hears nothing, and that is said."""
        for name in dict.fromkeys(
            n for config in self.config.listeners for n in self.config.filters_under(config)
        ):
            kind = self._filter_classes[name]
            instance = kind(settings_for(kind, self.config.filters.get(name, {})))
            try:
                hooks = instance.filter_init(self)
            except Exception:  # the service starts all the same
                self.engine.log.exception("filter failed to start", filter=name)
                hooks = Hooks()
            self._filters[name] = (instance, hooks)

    def _services(self, config: ListenerConfig, usages: Sequence[Usage | None]) -> Services:
        def serve(protocol: ProtocolDefinition) -> Service:
            names = protocol.filters if config.use_filters is None else config.use_filters
            grants = self._grants(config.secondary, f"listener {config.name!r}")
            terms = Terms(grants, self._bound(config, names))
            return Service(protocol, terms, self._terms_by_rule(config, protocol, terms, usages))

        return Services(
            self.config.protocols_of(config), serve, is_fixed=config.protocol is not None
        )

    def _bound(self, config: ListenerConfig, names: Iterable[str]) -> tuple[BoundFilter, ...]:
        settings = self._settings[config.name]
        return tuple(BoundFilter(*self._filters[name], settings[name]) for name in names)

    def _terms_by_rule(
        self,
        config: ListenerConfig,
        protocol: ProtocolDefinition,
        terms: Terms,
        usages: Sequence[Usage | None],
    ) -> dict[int, Terms]:
        """Return what holds instead under those that do; a listener's own grants still hold."""
        found = {}
        for place, (rule, usage) in enumerate(zip(self.config.rules, usages, strict=True)):
            if rule.is_plain or (rule.protocols and protocol.name not in rule.protocols):
                continue
            bound = terms.bound_filters
            if rule.use_filters is not None:
                bound = self._bound(config, rule.use_filters)
            found[place] = Terms(
                (*terms.grants, *self._grants(rule.secondary, f"rule {rule.name or place + 1!r}")),
                bound,
                usage,
                shows_client=rule.proxy_mode == "client-address",
            )
        return found

    def _grants(self, scope: Scope | None, owner: str) -> tuple[Grant, ...]:
        return () if scope is None else (Grant.of(scope, owner, self.engine.policy.map),)
