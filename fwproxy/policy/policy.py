"""Policy: which of the rules decides on a connection. Pure decisions, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import attrs

from fwproxy.address import IpFilter
from fwproxy.errors import (
    CallError,
    InvalidArgumentError,
    NetworkRulesDeniedError,
    NotAuthenticatedError,
    PolicyRulesDeniedError,
)
from fwproxy.policy.networks import ANY_NETWORK, Network, NetworkRelation, Networks, Relation
from fwproxy.policy.rules import Rule, RuleKind
from fwproxy.policy.times import wall_clock
from fwproxy.protocol import ProtocolDefinition

__all__ = [
    "ANY_NETWORK",
    "AccessRequest",
    "Decision",
    "Network",
    "NetworkRelation",
    "Policy",
    "Relation",
    "Rule",
]


@attrs.frozen(slots=True)
class AccessRequest:
    """What a decision is asked about: who wants to speak what with whom, all hosts as IP text."""

    protocol: ProtocolDefinition
    client: str
    server: str
    user: str | None = None


@attrs.frozen(slots=True)
class Decision:
    """The answer.

    Attributes:
        allowed: yes or no.
        rule: the name of the rule that gave it, or another reason, for the log and the ledger.
        number: the rule's place, if it says more than yes.
        error: what a refusal is raised as.
    """

    allowed: bool
    rule: str
    number: int | None = None
    error: type[CallError] = PolicyRulesDeniedError

    def denial(self, what: object) -> CallError:
        """Return the error that says so about *what*."""
        return self.error(f"{what} is not allowed ({self.rule})")


_LISTENER_ALLOWS = Decision(allowed=True, rule="listener")
_NO_RULE = Decision(allowed=False, rule="no rule matches")


@attrs.frozen(slots=True)
class _Entry:
    """A rule as it is looked at: sets instead of tuples, and its answer made in advance."""

    protocols: frozenset[str]
    sources: frozenset[str]
    targets: frozenset[str]
    users: frozenset[str]
    rule: Rule
    answer: Decision

    @classmethod
    def of(cls, number: int, rule: Rule) -> _Entry:
        place = None if rule.is_plain or not rule.allow else number - 1
        return cls(
            frozenset(rule.protocols),
            frozenset(rule.sources),
            frozenset(rule.targets),
            frozenset(rule.users),
            rule,
            Decision(rule.allow, rule.name or f"rule {number}", place),
        )


class Policy:
    """Networks, relations and rules, made once from the configuration.

    With neither networks nor rules there is one network, everything is routed, and what a
    listener was configured to do is allowed. Otherwise the first matching rule decides, and no
    match denies. Where there are relations, the networks of the two hosts must have one besides,
    and against the direction of NAT only publishing rules allow; without any relations the rules
    alone say who may talk to whom.

    Args:
        networks: with their prefixes.
        relations: between them.
        rules: in their order.
        clock: tells the time in the time zone of the rules.

    Attributes:
        only_answer: what it says to everybody, where there are no rules; None otherwise.

    Raises:
        InvalidArgumentError: a rule or relation names a network that is not there.
    """

    def __init__(
        self,
        networks: Iterable[Network] = (),
        relations: Iterable[Relation] = (),
        rules: Iterable[Rule] = (),
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.map = Networks(networks, relations)
        self.networks = self.map.by_name
        self.rules = tuple(rules)
        self.clock = clock or wall_clock()
        self._entries = [_Entry.of(number, rule) for number, rule in enumerate(self.rules, 1)]
        without_rules = _NO_RULE if self.networks else _LISTENER_ALLOWS
        self.only_answer = None if self.rules else without_rules
        for problem in self._problems():
            raise InvalidArgumentError(problem)

    def _problems(self) -> Iterator[str]:
        for number, rule in enumerate(self.rules, 1):
            for name in (*rule.sources, *rule.targets):
                if not self.map.has(name):
                    yield f"rule {number} names the network {name!r}, which is unknown"

    @property
    def is_default(self) -> bool:
        """Whether nothing at all was configured."""
        return not self.networks and not self.rules

    def network_of(self, host: str) -> str | None:
        """Return the name of the network that holds *host*, by the longest prefix."""
        return self.map.of(host)

    def hosts_of(self, network: str | None) -> IpFilter:
        """Return the hosts of a network; None has none."""
        return self.map.hosts_of(network)

    def relation(self, source: str, target: str) -> NetworkRelation:
        """Return how the host *source* is related to the host *target*."""
        return self.map.relation(source, target)

    def facing(self, host: str, version: int, prefer: str | None = None) -> str | None:
        """Return the proxy's own address in the network of *host*, or None (`Networks.facing`)."""
        return self.map.facing(self.map.of(host), version, prefer)

    def decide(self, request: AccessRequest) -> Decision:
        """Return the first matching rule's answer."""
        if self.only_answer is not None:
            return self.only_answer
        inwards = False
        if self.map.relations:
            relation = self.map.relation(request.client, request.server)
            if relation is NetworkRelation.NONE:
                return self._unrelated(request)
            inwards = relation is NetworkRelation.REVERSE_NAT
        return self._first(request, inwards=inwards)

    def _first(self, request: AccessRequest, *, inwards: bool) -> Decision:
        source, target = self.map.of(request.client), self.map.of(request.server)
        name, denial = request.protocol.name, _NO_RULE
        for entry in self._entries:
            if (
                (entry.protocols and name not in entry.protocols)
                or (entry.sources and source not in entry.sources)
                or (entry.targets and target not in entry.targets)
                or (entry.rule.times and not self._is_time(entry.rule))
            ):
                continue
            if inwards and entry.rule.allow and entry.rule.kind is not RuleKind.PUBLISH:
                denial = _not_published(entry.answer.rule, source, target)
            elif not entry.users or request.user in entry.users:
                return entry.answer
            elif request.user is None and entry.rule.allow:
                denial = _anonymous(entry.answer.rule)
        return denial

    def _is_time(self, rule: Rule) -> bool:
        now = self.clock()
        return any(time.holds(now) for time in rule.times)

    def _unrelated(self, request: AccessRequest) -> Decision:
        places = [
            f"{host} in {self.map.of(host) or 'no network'}"
            for host in (request.client, request.server)
        ]
        reason = f"no relation between {places[0]} and {places[1]}"
        return Decision(allowed=False, rule=reason, error=NetworkRulesDeniedError)


def _not_published(rule: str, source: str | None, target: str | None) -> Decision:
    reason = f"{rule} does not publish, and {source} is outside of the NAT before {target}"
    return Decision(allowed=False, rule=reason, error=NetworkRulesDeniedError)


def _anonymous(rule: str) -> Decision:
    reason = f"{rule} is for users, and the client has not authenticated"
    return Decision(allowed=False, rule=reason, error=NotAuthenticatedError)
