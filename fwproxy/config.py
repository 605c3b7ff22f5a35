"""The configuration as frozen values; `fwproxy.config_file` reads them from TOML."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs
from attrs import validators

from fwproxy.address import Destination, Endpoint
from fwproxy.errors import ConfigError
from fwproxy.policy import Network, Policy, Relation, Rule
from fwproxy.protocol import BUILT_IN, ProtocolDefinition

_positive = validators.gt(0)
_not_negative = validators.ge(0)


class ListenerKind(enum.Enum):
    """How clients come in."""

    FORWARD = "forward"
    """Every client goes to one fixed upstream."""
    GATEWAY = "gateway"
    """The client names the server inside the protocol (FTP: `USER user@host`)."""
    REDIRECT = "redirect"
    """Transparent: nftables REDIRECT, and the kernel tells the original destination."""


@attrs.frozen(slots=True)
class PortRange:
    """A range of ports, both ends included."""

    first: int = attrs.field(validator=[validators.ge(1), validators.le(65535)])
    last: int = attrs.field(validator=[validators.ge(1), validators.le(65535)])

    def __attrs_post_init__(self) -> None:
        if self.first > self.last:
            raise ConfigError(f"the port range {self} ends before it starts")

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@attrs.frozen(slots=True)
class ListenerConfig:
    """One way in.

    Attributes:
        name: what log, ledger and error messages call it.
        kind: how clients come in.
        bind: the address to listen on; port 0 takes any free one.
        protocol: the name of a protocol definition.
        upstream: the server, for `forward` only.
        filters: settings that override `[filters.NAME]` for this listener.
        backlog: how many connections the kernel may hold until they are accepted.
    """

    name: str
    bind: Endpoint
    protocol: str
    kind: ListenerKind = ListenerKind.FORWARD
    upstream: Destination | None = None
    filters: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, converter=MappingProxyType)
    backlog: int = attrs.field(default=1024, validator=_positive)


@attrs.frozen(slots=True)
class SecondaryConfig:
    """Secondary connections: the pool of ports, and seconds for the TIMEOUT flag."""

    ports: PortRange = PortRange(40000, 49999)
    timeout: float = attrs.field(default=60.0, validator=_positive)


@attrs.frozen(slots=True)
class DatapathConfig:
    """How bytes are carried.

    Attributes:
        kernel: whether to use the kernel data path.
        bulk_threshold: bytes in one direction after which a stream is spliced.
        max_pipes: how many pipes the pool for spliced streams may hold.
        pipe_size: bytes per pipe; the kernel may grant less.
    """

    kernel: Literal["auto", "off", "require"] = "auto"
    bulk_threshold: int = attrs.field(default=256 * 1024, validator=_not_negative)
    max_pipes: int = attrs.field(default=256, validator=_not_negative)
    pipe_size: int = attrs.field(default=1024 * 1024, validator=_positive)


@attrs.frozen(slots=True)
class Limits:
    """Every bound; counts, bytes, and seconds for the time-outs.

    Attributes:
        max_sessions: sessions at a time; further clients are closed at once.
        max_sessions_per_client: the same for one client address.
        max_connections_per_session: primary and secondary connections of one session.
        max_permissions_per_session: unused permissions of one session.
        max_line_length: bytes of one line of a text protocol, with its end.
        max_buffer: bytes waiting in one direction of one connection in user space.
        idle_timeout: a connection without traffic, while its session has no other traffic.
        connect_timeout: connecting to a server or back to a client, name resolution included.
        handshake_timeout: from a client's arrival until it has said where it wants to go.
        filter_timeout: one call of a filter's handler.
        drain_timeout: what established secondaries get to finish when their session ends.
        stop_timeout: what running sessions get to finish when the proxy is stopped.
        accept_retry: the pause after accept failed for want of descriptors or memory.
        max_resolutions: host names being resolved at a time.
    """

    max_sessions: int = attrs.field(default=10_000, validator=_positive)
    max_sessions_per_client: int = attrs.field(default=1_000, validator=_positive)
    max_connections_per_session: int = attrs.field(default=64, validator=_positive)
    max_permissions_per_session: int = attrs.field(default=64, validator=_positive)
    max_line_length: int = attrs.field(default=8192, validator=validators.ge(64))
    max_buffer: int = attrs.field(default=256 * 1024, validator=validators.ge(16 * 1024))
    idle_timeout: float = attrs.field(default=900.0, validator=_positive)
    connect_timeout: float = attrs.field(default=10.0, validator=_positive)
    handshake_timeout: float = attrs.field(default=30.0, validator=_positive)
    filter_timeout: float = attrs.field(default=30.0, validator=_positive)
    drain_timeout: float = attrs.field(default=10.0, validator=_not_negative)
    stop_timeout: float = attrs.field(default=30.0, validator=_not_negative)
    accept_retry: float = attrs.field(default=0.1, validator=_positive)
    max_resolutions: int = attrs.field(default=64, validator=_positive)


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

    listeners: tuple[ListenerConfig, ...] = attrs.field(converter=tuple)
    networks: tuple[Network, ...] = attrs.field(default=(), converter=tuple)
    relations: tuple[Relation, ...] = attrs.field(default=(), converter=tuple)
    rules: tuple[Rule, ...] = attrs.field(default=(), converter=tuple)
    secondary: SecondaryConfig = SecondaryConfig()
    datapath: DatapathConfig = DatapathConfig()
    filters: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, converter=MappingProxyType)
    protocols: tuple[ProtocolDefinition, ...] = attrs.field(default=BUILT_IN, converter=tuple)
    limits: Limits = Limits()
    log: LogConfig = LogConfig()

    def __attrs_post_init__(self) -> None:
        seen: set[str] = set()
        for listener in self.listeners:
            if listener.name in seen:
                raise ConfigError(f"two listeners are called {listener.name!r}")
            seen.add(listener.name)
            self._check_listener(listener)
        self.policy()

    def _check_listener(self, listener: ListenerConfig) -> None:
        where = f"listener {listener.name!r}"
        if listener.protocol not in {protocol.name for protocol in self.protocols}:
            raise ConfigError(f"{where}: there is no protocol {listener.protocol!r}")
        if listener.kind is ListenerKind.FORWARD:
            if listener.upstream is None:
                raise ConfigError(f"{where}: a forward listener needs an upstream")
        elif listener.upstream is not None:
            raise ConfigError(f"{where}: a {listener.kind.value} listener has no upstream")
        if (
            listener.kind is ListenerKind.GATEWAY
            and not self.rules
            and not listener.bind.ip.is_loopback
        ):
            raise ConfigError(
                f"{where}: without rules a gateway on {listener.bind.host} would be an open relay; "
                f'add a [[rules]] with action = "allow" and protocols = ["{listener.protocol}"] '
                "that says who may go where, or bind it to a loopback address"
            )

    def policy(self) -> Policy:
        """Make the policy.

        Raises:
            ConfigError: a rule or relation names an unknown network.
        """
        try:
            return Policy(self.networks, self.relations, self.rules)
        except ValueError as error:
            raise ConfigError(str(error)) from error
