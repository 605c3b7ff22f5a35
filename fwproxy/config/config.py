"""The configuration as frozen values; `fwproxy.config.file` reads them from TOML."""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs

from fwproxy.bounds import PortRange, at_least, not_negative, positive
from fwproxy.config.listeners import ListenerConfig, frozen_tables, misfits
from fwproxy.config.resolver import ResolverConfig
from fwproxy.config.shared import SharedConfig
from fwproxy.errors import ConfigError, InvalidArgumentError
from fwproxy.flags import SecondaryFlags
from fwproxy.policy.check import (
    Trouble,
    network_problems,
    protocol_problems,
    rule_problems,
    scope_problems,
)
from fwproxy.policy.networks import ANY_NETWORK, Network, Relation
from fwproxy.policy.policy import Policy
from fwproxy.policy.rules import Rule
from fwproxy.policy.times import wall_clock
from fwproxy.protocol import BUILT_IN, TCP, UDP, ProtocolDefinition


def _kernel_mode(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if value not in {"auto", "off", "require"}:
        raise ConfigError.at((), f"must be auto, off or require, not {value!r}", attribute.name)


def _table_name(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", value):
        problem = "must be up to 32 letters, digits, _ and -, with a letter first"
        raise ConfigError.at((), f"{problem}, not {value!r}", attribute.name)


def _mark(_: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 0 < value < 0xFFFFFFFF:  # the next one is used as well
        raise ConfigError.at((), f"must be from 1 to 4294967294, not {value}", attribute.name)


_count: Any = attrs.validators.optional(positive)


def _known_zone(_: object, attribute: attrs.Attribute[Any], zone: str | None) -> None:
    try:
        wall_clock(zone)
    except InvalidArgumentError as error:
        raise ConfigError.at((), str(error), attribute.name) from None


_ADDRESS_FLAGS = {
    "class-c": SecondaryFlags.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK,
    "network": SecondaryFlags.ALLOW_ADDRESSES_IN_NETWORK,
    "all": SecondaryFlags.ALLOW_ADDRESSES_ALL,
}


@attrs.frozen(slots=True)
class SecondaryConfig:
    """Secondary connections.

    Attributes:
        ports: the pool for secondary listeners.
        timeout: seconds for the TIMEOUT flag.
        backlog: how many clients the kernel may hold at a redirected port.
        allow_addresses: which addresses clients may name besides their own, whatever a filter
            says: those of the client's /24 (`class-c`), of its network, or all. The last one
            opens the way to bounce attacks.
        source: what clients see as the source of inbound connections: an address of the `proxy`,
            or the `peer` that has connected. The latter needs CAP_NET_ADMIN, and routes that bring
            the clients' answers to the proxy.
    """

    ports: PortRange = attrs.field(default=PortRange(40000, 49999))
    timeout: float = attrs.field(default=60.0, validator=positive)
    backlog: int = attrs.field(default=8, validator=positive)
    allow_addresses: tuple[Literal["class-c", "network", "all"], ...] = ()
    source: Literal["proxy", "peer"] = attrs.field(
        default="proxy", validator=attrs.validators.in_(("proxy", "peer"))
    )

    @property
    def address_flags(self) -> SecondaryFlags:
        """What is added to the flags of every call that takes addresses of a client."""
        return functools.reduce(
            operator.or_, map(_ADDRESS_FLAGS.__getitem__, self.allow_addresses), SecondaryFlags.NONE
        )


@attrs.frozen(slots=True)
class DatapathConfig:
    """How bytes are carried.

    Attributes:
        kernel: whether the kernel shall carry what no filter wants to see: `auto` where nothing
            is lost by it, `require` refuses to start where it cannot.
        kernel_table: how the name of the proxy's nftables table begins.
        kernel_mark: the conntrack mark of connections that the kernel carries; protocols that
            are let through whole have the next higher one where they are translated.
        kernel_lease: seconds for which a pinhole without a time-out outlives a proxy that has
            died, where the kernel does not close it at once.
        kernel_event_buffer: bytes of conntrack events that may wait to be heard.
        max_pinholes: pinholes in the kernel at a time; further ones are for user space.
        bulk_threshold: bytes in one direction after which a stream is spliced.
        max_pipes: how many pipes the pool for spliced streams may hold.
        pipe_size: bytes per pipe; the kernel may grant less.
    """

    kernel: Literal["auto", "off", "require"] = attrs.field(default="auto", validator=_kernel_mode)
    kernel_table: str = attrs.field(default="fwproxy", validator=_table_name)
    kernel_mark: int = attrs.field(default=0x6677, validator=_mark)
    kernel_lease: int = attrs.field(default=60, validator=at_least(10))
    kernel_event_buffer: int = attrs.field(default=2 * 1024 * 1024, validator=positive)
    max_pinholes: int = attrs.field(default=16384, validator=positive)
    bulk_threshold: int = attrs.field(default=256 * 1024, validator=not_negative)
    max_pipes: int = attrs.field(default=256, validator=not_negative)
    pipe_size: int = attrs.field(default=1024 * 1024, validator=positive)


@attrs.frozen(slots=True)
class Limits:
    """Every bound; counts, bytes, and seconds for the time-outs.

    Attributes:
        max_sessions: sessions at a time; further clients are closed at once.
        max_sessions_per_client: the same for one client address.
        max_connections_per_session: primary and secondary connections of one session.
        max_permissions_per_session: unused permissions of one session.
        max_connections_per_client: connections of all sessions of one client; a client is an IPv4
            address, or an IPv6 prefix of 64 bits.
        max_permissions_per_client: unused permissions of all sessions of one client.
        connection_rate_per_client: new primary connections per second of one client.
        connection_burst_per_client: how many of them may come at once.
        max_tracked_clients: clients whose quotas are remembered while they have no session.
        max_factories_per_session: data filter factories of one session.
        max_peers_per_connection: sources that one UDP permission for many may have at a time.
        max_destinations_per_connection: UDP destinations that one connection remembers the
            filters' verdict on.
        max_waiting_datagrams: datagrams that wait for a filter in one direction.
        max_line_length: bytes of one line of a text protocol, its end not counted.
        max_buffer: bytes waiting in one direction of one connection in user space.
        datagram_timeout: a session of datagrams without traffic.
        idle_timeout: a connection without traffic, while its session has no other traffic.
        connect_timeout: connecting to a server or back to a client, name resolution included.
        handshake_timeout: from a client's arrival until it has said where it wants to go.
        filter_timeout: one call of a filter's handler.
        peer_timeout: a silent source of a UDP port for many, until it may lose its place.
        reply_timeout: how long after a UDP source has sent the client may send back to it.
        drain_timeout: what established secondaries get to finish when their session ends.
        stop_timeout: what running sessions get to finish when the proxy is stopped.
        max_failed_logins: wrong passwords from one client (an IPv4 address, or an IPv6 prefix of
            64 bits) within `failed_login_memory`, until it is turned away.
        failed_login_memory: until a wrong password is forgotten; nothing else makes it so.
        login_memory: how long a right password need not be checked again.
        max_password_checks: passwords being checked at a time; each takes 32 MiB.
        connect_attempt_delay: how long an address of a server has to answer until the next one, if
            it has several, is tried as well.
        accept_retry: the pause after accept failed for want of descriptors or memory.
        max_resolutions: host names being resolved at a time.
        name_memory: how long the addresses of a name hold where the system was asked, which does
            not tell how long they may.
        max_names: names whose addresses are remembered.
        max_resolutions_per_session: the same for one session.
        max_shared_redirections: shared redirections of the whole proxy.
        max_reserved_ports: ports that filters may reserve for later.
    """

    max_sessions: int = attrs.field(default=10_000, validator=positive)
    max_sessions_per_client: int = attrs.field(default=1_000, validator=positive)
    max_connections_per_session: int = attrs.field(default=64, validator=positive)
    max_permissions_per_session: int = attrs.field(default=64, validator=positive)
    max_connections_per_client: int | None = attrs.field(default=None, validator=_count)
    max_permissions_per_client: int | None = attrs.field(default=None, validator=_count)
    connection_rate_per_client: float | None = attrs.field(default=None, validator=_count)
    connection_burst_per_client: int = attrs.field(default=10, validator=positive)
    max_tracked_clients: int = attrs.field(default=10_000, validator=positive)
    max_factories_per_session: int = attrs.field(default=64, validator=positive)
    max_peers_per_connection: int = attrs.field(default=256, validator=positive)
    max_destinations_per_connection: int = attrs.field(default=256, validator=positive)
    max_waiting_datagrams: int = attrs.field(default=64, validator=positive)
    max_line_length: int = attrs.field(default=8192, validator=at_least(64))
    max_buffer: int = attrs.field(default=256 * 1024, validator=at_least(16 * 1024))
    datagram_timeout: float = attrs.field(default=120.0, validator=positive)
    idle_timeout: float = attrs.field(default=900.0, validator=positive)
    connect_timeout: float = attrs.field(default=10.0, validator=positive)
    handshake_timeout: float = attrs.field(default=30.0, validator=positive)
    filter_timeout: float = attrs.field(default=30.0, validator=positive)
    peer_timeout: float = attrs.field(default=60.0, validator=positive)
    reply_timeout: float = attrs.field(default=60.0, validator=positive)
    drain_timeout: float = attrs.field(default=10.0, validator=not_negative)
    stop_timeout: float = attrs.field(default=30.0, validator=not_negative)
    max_failed_logins: int = attrs.field(default=10, validator=positive)
    failed_login_memory: float = attrs.field(default=60.0, validator=positive)
    login_memory: float = attrs.field(default=60.0, validator=not_negative)
    max_password_checks: int = attrs.field(default=4, validator=positive)
    connect_attempt_delay: float = attrs.field(default=0.25, validator=positive)
    accept_retry: float = attrs.field(default=0.1, validator=positive)
    max_resolutions: int = attrs.field(default=64, validator=positive)
    name_memory: float = attrs.field(default=5.0, validator=not_negative)
    max_names: int = attrs.field(default=4096, validator=positive)
    max_resolutions_per_session: int = attrs.field(default=8, validator=positive)
    max_shared_redirections: int = attrs.field(default=256, validator=positive)
    max_reserved_ports: int = attrs.field(default=256, validator=positive)


@attrs.frozen(slots=True)
class ProcessConfig:
    """The process of `fwproxy run`.

    Attributes:
        user: whom to become once the listeners are open, when started as root; empty for nobody
            else. Of root's capabilities only CAP_NET_ADMIN is kept, and only if the kernel data
            path or `source = "peer"` may need it.
    """

    user: str = ""


@attrs.frozen(slots=True)
class LedgerConfig:
    """What is remembered of permissions that have ended.

    Attributes:
        history: how many of them the proxy remembers.
        file: a file that gets a JSON line when a permission is given, and one when it has ended.
        queue: how many lines may wait for the disk; those that find no place are lost.
    """

    history: int = attrs.field(default=1000, validator=not_negative)
    file: str | None = None
    queue: int = attrs.field(default=10_000, validator=positive)


@attrs.frozen(slots=True)
class TimesConfig:
    """How the times of rules are meant.

    Attributes:
        zone: their time zone, such as `Europe/Berlin`; None is the host's.
    """

    zone: str | None = attrs.field(default=None, validator=_known_zone)


@attrs.frozen(slots=True)
class LogConfig:
    """How to log: lines for people (`console`) or for machines (`json`)."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


@attrs.frozen(slots=True)
class Config:
    """Everything that a Firewall needs to know; checked as a whole when it is made.

    Raises:
        ConfigError: parts do not fit together; the message names the listener or rule.
    """

    listeners: tuple[ListenerConfig, ...] = attrs.field(converter=tuple[ListenerConfig, ...])
    networks: tuple[Network, ...] = attrs.field(default=(), converter=tuple[Network, ...])
    relations: tuple[Relation, ...] = attrs.field(default=(), converter=tuple[Relation, ...])
    rules: tuple[Rule, ...] = attrs.field(default=(), converter=tuple[Rule, ...])
    secondary: SecondaryConfig = SecondaryConfig()
    shared: SharedConfig = attrs.field(default=SharedConfig())
    datapath: DatapathConfig = DatapathConfig()
    resolver: ResolverConfig = attrs.field(default=ResolverConfig())
    filters: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, converter=frozen_tables)
    protocols: tuple[ProtocolDefinition, ...] = attrs.field(
        default=BUILT_IN, converter=tuple[ProtocolDefinition, ...]
    )
    limits: Limits = Limits()
    ledger: LedgerConfig = LedgerConfig()
    times: TimesConfig = TimesConfig()
    log: LogConfig = LogConfig()
    process: ProcessConfig = ProcessConfig()

    def __attrs_post_init__(self) -> None:
        networks = self.network_names
        pools = self.pools
        problems = [
            *self._listener_problems(),
            *protocol_problems(self.protocols),
            *network_problems(self.networks, self.relations, networks),
            *rule_problems(self.rules, {p.name for p in self.protocols}, networks, pools),
            *self.shared.problems(self.secondary.ports, {each.name for each in self.listeners}),
        ]
        if problems:
            message = "\n".join(f"{subject}: {problem}" for subject, _, problem in problems)
            raise ConfigError(message, [(place, problem) for _, place, problem in problems])
        self.policy()

    @property
    def network_names(self) -> set[str]:
        """The names that rules and relations may use."""
        return {network.name for network in self.networks} or {ANY_NETWORK}

    @property
    def pools(self) -> list[PortRange]:
        """The ranges that ports for secondary connections are taken from."""
        return [self.secondary.ports, *([self.shared.ports] if self.shared.is_used else [])]

    def filters_of(self, listener: ListenerConfig) -> tuple[str, ...]:
        """Return the names of the filters that read a listener's primary connections.

        A rule may choose others; see `filters_under`.
        """
        if listener.use_filters is not None:
            return listener.use_filters
        used = (name for each in self.protocols_of(listener) for name in each.filters)
        return tuple(dict.fromkeys(used))

    def filters_under(self, listener: ListenerConfig) -> tuple[str, ...]:
        """Return the names of all filters that may read them, under whichever rule."""
        rules = (rule.use_filters or () for rule in self.rules if listener.may_be_under(rule))
        return tuple(dict.fromkeys([*self.filters_of(listener), *itertools.chain(*rules)]))

    def _listener_problems(self) -> Iterator[Trouble]:
        seen: set[str] = set()
        for number, listener in enumerate(self.listeners):
            subject = f"listener {listener.name!r}"
            if listener.name in seen:
                yield subject, ("listeners", number, "name"), "another listener has this name"
            seen.add(listener.name)
            for key, problem in misfits(listener, self.protocols, has_rules=bool(self.rules)):
                yield subject, ("listeners", number, key), problem
            yield from scope_problems(
                listener.secondary,
                subject,
                ("listeners", number),
                self.network_names,
                self.pools,
            )

    def protocols_of(self, listener: ListenerConfig) -> tuple[ProtocolDefinition, ...]:
        """Return what a listener serves: its one protocol, or all that have ports, then the rest.

        The rest are plain TCP and UDP.
        """
        if listener.protocol is not None:
            return tuple(each for each in self.protocols if each.name == listener.protocol)
        return (*(each for each in self.protocols if each.ports), TCP, UDP)

    def policy(self) -> Policy:
        """Make the policy.

        Raises:
            ConfigError: a rule or relation names an unknown network.
        """
        try:
            clock = wall_clock(self.times.zone)
            return Policy(self.networks, self.relations, self.rules, clock)
        except ValueError as error:
            raise ConfigError(str(error)) from error
