"""Access rules and publishing rules, as they are configured."""

from __future__ import annotations

import enum
from typing import Any, Literal

import attrs

from fwproxy.bounds import positive
from fwproxy.errors import ConfigError
from fwproxy.policy.scope import Scope
from fwproxy.policy.times import WeekTime

_count: Any = attrs.validators.optional(positive)


@attrs.frozen(slots=True)
class RuleLimits:
    """Quotas of one rule, for all of its clients together; what is not said is not limited.

    Attributes:
        max_connections: primary and secondary connections at a time.
        max_permissions: unused permissions at a time.
        connection_rate: new primary connections per second.
        connection_burst: how many of them may come at once.
    """

    max_connections: int | None = attrs.field(default=None, validator=_count)
    max_permissions: int | None = attrs.field(default=None, validator=_count)
    connection_rate: float | None = attrs.field(default=None, validator=_count)
    connection_burst: int = attrs.field(default=10, validator=positive)


class RuleKind(enum.Enum):
    """Which way a rule is about."""

    ACCESS = "access"
    """Clients go out, or to a routed network."""
    PUBLISH = "publish"
    """Clients come in, against the direction of NAT, to a server behind the proxy."""


@attrs.frozen(slots=True)
class Rule:
    """One rule; an empty tuple matches everything.

    Attributes:
        allow: whether it allows or denies.
        protocols: names of protocols; their secondary ones go with them.
        sources: the networks of the clients.
        targets: the networks of the servers.
        users: authenticated users.
        name: what log, ledger and error messages call it.
        kind: only a rule that publishes allows connections against the direction of NAT.
        proxy_mode: whom the server of a publishing rule sees: the proxy (`full`, full proxy mode),
            or the client.
        times: when it holds; outside of them it is as if it were not there.
        use_filters: the filters that read its connections, instead of those of the protocol.
        secondary: what its filters may open.
        limits: its quotas.
    """

    allow: bool
    protocols: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    name: str = ""
    kind: RuleKind = RuleKind.ACCESS
    proxy_mode: Literal["full", "client-address"] = attrs.field(default="full")
    times: tuple[WeekTime, ...] = ()
    use_filters: tuple[str, ...] | None = None
    secondary: Scope | None = None
    limits: RuleLimits | None = None

    @proxy_mode.validator
    def _check_proxy_mode(self, attribute: attrs.Attribute[Any], value: str) -> None:
        if value not in {"full", "client-address"}:
            problem = f"must be full or client-address, not {value!r}"
            raise ConfigError.at((), problem, attribute.name)

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing but yes or no."""
        says = self.use_filters, self.secondary, self.limits
        return says == (None, None, None) and self.proxy_mode == "full"

    @property
    def only_if_allowed(self) -> tuple[str, ...]:
        """The keys set that mean nothing where nothing is allowed."""
        return tuple(
            name
            for name in ("proxy_mode", "use_filters", "secondary", "limits")
            if getattr(self, name) != getattr(attrs.fields(Rule), name).default
        )
