"""Policy: networks, their relations, and rules. Pure decisions, no I/O and no clock."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from fwproxy.address import IpFilter, parse_ip, parse_prefix
from fwproxy.errors import InvalidArgumentError
from fwproxy.protocol import ProtocolDefinition

ANY_NETWORK = "any"
"""The one network that there is when none is configured."""


class NetworkRelation(enum.Enum):
    """How two addresses are related."""

    NONE = "none"
    SAME = "same"
    NAT = "nat"
    REVERSE_NAT = "reverse nat"
    ROUTE = "route"


@attrs.frozen(slots=True)
class Network:
    """A named set of prefixes, with the proxy's own addresses in it."""

    name: str
    prefixes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        for prefix in self.prefixes:
            parse_prefix(prefix)
        for address in self.addresses:
            parse_ip(address)


@attrs.frozen(slots=True)
class Relation:
    """How traffic from *source* to *target* is carried: `nat` or `route`."""

    source: str
    target: str
    kind: NetworkRelation


@attrs.frozen(slots=True)
class Rule:
    """One access rule; an empty tuple matches everything."""

    allow: bool
    protocols: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    name: str = ""


@attrs.frozen(slots=True)
class AccessRequest:
    """What a decision is asked about: who wants to speak what with whom, all hosts as IP text."""

    protocol: ProtocolDefinition
    client: str
    server: str
    user: str | None = None


@attrs.frozen(slots=True)
class Decision:
    """The answer, with the rule that gave it, for the log and the ledger."""

    allowed: bool
    rule: str


_LISTENER_ALLOWS = Decision(allowed=True, rule="listener")
_NO_RULE = Decision(allowed=False, rule="no rule matches")


class Policy:
    """Networks, relations and rules, made once from the configuration.

    With neither networks nor rules there is one network, everything is routed, and what a
    listener was configured to do is allowed. Otherwise the first matching rule decides, and no
    match denies.

    Raises:
        InvalidArgumentError: a rule or relation names a network that is not there.
    """

    def __init__(
        self,
        networks: Iterable[Network] = (),
        relations: Iterable[Relation] = (),
        rules: Iterable[Rule] = (),
    ) -> None:
        self.networks = {network.name: network for network in networks}
        self.rules = tuple(rules)
        self._relations = {(r.source, r.target): r.kind for r in relations}
        self._prefixes = sorted(
            ((parse_prefix(p), n.name) for n in self.networks.values() for p in n.prefixes),
            key=lambda pair: -pair[0].prefixlen,
        )
        self._check_names()

    def _check_names(self) -> None:
        known = set(self.networks) or {ANY_NETWORK}
        named = [(f"relation {pair}", name) for pair in self._relations for name in pair]
        named += [
            (f"rule {number}", name)
            for number, rule in enumerate(self.rules, 1)
            for name in (*rule.sources, *rule.targets)
        ]
        for where, name in named:
            if name not in known:
                raise InvalidArgumentError(f"{where} names the network {name!r}, which is unknown")

    @property
    def is_default(self) -> bool:
        """Whether nothing at all was configured."""
        return not self.networks and not self.rules

    def network_of(self, host: str) -> str | None:
        """Return the name of the network that holds *host*, by the longest prefix."""
        if not self.networks:
            return ANY_NETWORK
        address = parse_ip(host)
        for prefix, name in self._prefixes:
            if address.version == prefix.version and address in prefix:
                return name
        return None

    def hosts_of(self, network: str | None) -> IpFilter:
        """Return the hosts of a network; None has none."""
        if network is None:
            return IpFilter()
        if network == ANY_NETWORK and not self.networks:
            return IpFilter.everyone()
        return IpFilter.only(*self.networks[network].prefixes)

    def relation(self, source: str, target: str) -> NetworkRelation:
        """Return how the host *source* is related to the host *target*."""
        if not self.networks:
            return NetworkRelation.ROUTE
        here, there = self.network_of(source), self.network_of(target)
        if here is None or there is None:
            return NetworkRelation.NONE
        if here == there:
            return NetworkRelation.SAME
        if (here, there) in self._relations:
            return self._relations[here, there]
        back = self._relations.get((there, here), NetworkRelation.NONE)
        return NetworkRelation.REVERSE_NAT if back is NetworkRelation.NAT else back

    def decide(self, request: AccessRequest) -> Decision:
        """Return the first matching rule's answer."""
        if self.is_default:
            return _LISTENER_ALLOWS
        source, target = self.network_of(request.client), self.network_of(request.server)
        for number, rule in enumerate(self.rules, 1):
            if (
                _matches(rule.protocols, request.protocol.name)
                and _matches(rule.sources, source)
                and _matches(rule.targets, target)
                and _matches(rule.users, request.user)
            ):
                return Decision(rule.allow, rule.name or f"rule {number}")
        return _NO_RULE


def _matches(wanted: tuple[str, ...], found: str | None) -> bool:
    return not wanted or found in wanted
