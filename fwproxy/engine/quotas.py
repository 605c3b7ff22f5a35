"""Quotas of clients and rules: connections and permissions at a time, and how fast new ones come.

Nothing here is touched for a connection while no quota is configured. What is kept of a client
goes when the client has gone and its bucket is full again, and there is a bound on it besides.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

import attrs

from fwproxy.config.config import Limits
from fwproxy.errors import QuotaError
from fwproxy.policy.rules import RuleLimits

_V6_PREFIX = 64
"""Bits of an IPv6 address that make a client: the rest of them everybody has for himself."""

_QUIET = 10.0
"""Seconds in which a quota that is reached again by the same one is not logged again."""

_MAX_BURSTS = 1024


class Bucket:
    """Tokens that come back with time, for a rate with bursts."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        self._tokens = self._level(now)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def is_full(self, now: float) -> bool:
        """Tell whether nothing of it would be lost with it."""
        return self._level(now) >= self._burst

    def _level(self, now: float) -> float:
        return min(self._burst, self._tokens + (now - self._at) * self._rate)


@attrs.frozen(slots=True)
class Quota:
    """What one client or one rule may have; None is not limited. With the settings' names."""

    connections: int | None
    permissions: int | None
    rate: float | None
    burst: int
    connections_setting: str
    permissions_setting: str
    rate_setting: str

    @classmethod
    def of_clients(cls, limits: Limits) -> Quota:
        """Return the quota of every client."""
        return cls(
            limits.max_connections_per_client,
            limits.max_permissions_per_client,
            limits.connection_rate_per_client,
            limits.connection_burst_per_client,
            "max_connections_per_client",
            "max_permissions_per_client",
            "connection_rate_per_client",
        )

    @classmethod
    def of_rule(cls, limits: RuleLimits) -> Quota:
        """Return the quota of a rule."""
        return cls(
            limits.max_connections,
            limits.max_permissions,
            limits.connection_rate,
            limits.connection_burst,
            "rules.limits.max_connections",
            "rules.limits.max_permissions",
            "rules.limits.connection_rate",
        )

    @property
    def is_set(self) -> bool:
        """Whether anything is limited."""
        return (self.connections, self.permissions, self.rate) != (None, None, None)


@attrs.define(slots=True, eq=False)
class Usage:
    """What one client or one rule has at the moment.

    Attributes:
        subject: who it is, in words.
        quota: what it may have.
        sessions: its sessions.
        connections: of all its sessions together.
        permissions: the same.
    """

    subject: str
    quota: Quota
    bucket: Bucket | None = None
    sessions: int = 0
    connections: int = 0
    permissions: int = 0

    def check(self, permissions: int, connections: int) -> None:
        """Make sure that there may be that many more.

        Raises:
            QuotaError: there may not.
        """
        most = self.quota.permissions
        if most is not None and permissions and self.permissions + permissions > most:
            raise self._reached(f"more than {most} permissions", self.quota.permissions_setting)
        most = self.quota.connections
        if most is not None and connections and self.connections + connections > most:
            raise self._reached(f"more than {most} connections", self.quota.connections_setting)

    def arrive(self, now: float) -> None:
        """Count a new primary connection against the rate.

        Raises:
            QuotaError: they come too fast.
        """
        if self.bucket is not None and not self.bucket.take(now):
            what = f"more than {self.quota.rate:g} new connections per second"
            raise self._reached(what, self.quota.rate_setting)

    def _reached(self, what: str, setting: str) -> QuotaError:
        return QuotaError(f"{what} of {self.subject} ({setting})")

    def is_idle(self, now: float) -> bool:
        """Tell whether there is nothing to remember."""
        return not self.sessions and (self.bucket is None or self.bucket.is_full(now))


class Quotas:
    """The quotas that are configured, and who has used how much of them."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self._quota = Quota.of_clients(limits)
        self._most = limits.max_tracked_clients
        self._now = now
        self._clients: OrderedDict[str, Usage] = OrderedDict()
        self.for_clients = self._quota.is_set

    def __len__(self) -> int:
        return len(self._clients)

    def client(self, host: str) -> Usage:
        """Return what a client has."""
        key = client_of(host)
        usage = self._clients.get(key)
        if usage is None:
            self._make_room()
            usage = self._usage(f"the client {key}", self._quota)
            self._clients[key] = usage
        else:
            self._clients.move_to_end(key)
        return usage

    def refusal(self, host: str, *, counts: bool = True) -> str | None:
        """Count a client that comes; say which quota it would pass, or None.

        Args:
            host: its address.
            counts: whether it has just come, and not been counted against its rate before.
        """
        usage = self.client(host)
        try:
            usage.check(0, 1)
            if counts:
                usage.arrive(self._now())
        except QuotaError as error:
            return str(error)
        return None

    def rule(self, name: str, limits: RuleLimits | None) -> Usage | None:
        """Return a new account for a rule, if it has quotas."""
        if limits is None or not Quota.of_rule(limits).is_set:
            return None
        return self._usage(f"the rule {name!r}", Quota.of_rule(limits))

    def _usage(self, subject: str, quota: Quota) -> Usage:
        bucket = None
        if quota.rate is not None:
            bucket = Bucket(quota.rate, quota.burst, self._now())
        return Usage(subject, quota, bucket)

    def _make_room(self) -> None:
        """Forget clients that have been idle the longest; one that is here stays in any case."""
        now = self._now()
        for _ in range(min(2, len(self._clients))):  # two for one that comes: it shrinks in time
            key, usage = next(iter(self._clients.items()))
            if usage.is_idle(now) or (not usage.sessions and len(self._clients) >= self._most):
                del self._clients[key]
            elif usage.sessions:
                self._clients.move_to_end(key)
            else:
                return


def client_of(host: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 prefix of 64 bits."""
    if ":" not in host:
        return host
    return str(ipaddress.IPv6Network((host, _V6_PREFIX), strict=False))


class Bursts:
    """Which of many like things are worth a log line: the first, and one now and then."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, setting: str, subject: str) -> int | None:
        """Note one; return how many were not logged since the last line, or None: not this one."""
        key, now = (setting, subject), self._now()
        last, left_out = self._seen.pop(key, (-_QUIET, 0))
        if now - last < _QUIET:
            self._seen[key] = (last, left_out + 1)
            return None
        if len(self._seen) >= _MAX_BURSTS:
            self._seen.popitem(last=False)
        self._seen[key] = (now, 0)
        return left_out
