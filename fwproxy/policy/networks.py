"""Networks and their relations: which network a host is in, and what may pass between two."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import attrs

from fwproxy.address import IpFilter, is_loopback, number_of, parse_ip, prefix_numbers
from fwproxy.errors import InvalidArgumentError
from fwproxy.intervals import NestedMap

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
            prefix_numbers(prefix)
        for address in self.addresses:
            parse_ip(address)


@attrs.frozen(slots=True)
class Relation:
    """How traffic from *source* to *target* is carried: `nat` or `route`."""

    source: str
    target: str
    kind: NetworkRelation


class Networks:
    """The networks that there are. A host is in the one with the longest prefix that holds it.

    Without networks there is one, where everything is routed. The proxy's own host, that is its
    loopback addresses where no prefix holds them, is routed to every network.

    Attributes:
        by_name: the networks.
        relations: between them.
        translates: whether servers see addresses of the proxy that are configured, across NAT.

    Raises:
        InvalidArgumentError: two networks have the same prefix, or a relation names a network
            that is not there.
    """

    def __init__(
        self, networks: Iterable[Network] = (), relations: Iterable[Relation] = ()
    ) -> None:
        self.by_name = {network.name: network for network in networks}
        self.relations = tuple(relations)
        self._kinds = {(r.source, r.target): r.kind for r in self.relations}
        prefixes = [
            (*prefix_numbers(prefix), network.name)
            for network in self.by_name.values()
            for prefix in network.prefixes
        ]
        self._map = NestedMap(prefixes)
        self.translates = any(
            self.by_name[name].addresses
            for relation in self.relations
            for name in (relation.source, relation.target)
            if relation.kind is NetworkRelation.NAT and name in self.by_name
        )
        for problem in self.problems():
            raise InvalidArgumentError(problem)

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        for number, relation in enumerate(self.relations, 1):
            for name in (relation.source, relation.target):
                if not self.has(name):
                    yield f"relation {number} names the network {name!r}, which is unknown"
        for one, other, prefix in same_prefixes(self.by_name.values()):
            yield f"the networks {one!r} and {other!r} both have the prefix {prefix}"

    def has(self, name: str) -> bool:
        """Tell whether there is a network of this name."""
        return name in self.by_name or (not self.by_name and name == ANY_NETWORK)

    def of(self, host: str) -> str | None:
        """Return the name of the network that holds *host*, by the longest prefix."""
        return self._map.get(number_of(host)) if self.by_name else ANY_NETWORK

    def hosts_of(self, name: str | None) -> IpFilter:
        """Return the hosts of a network, without those that a longer prefix gives to another."""
        if name == ANY_NETWORK and not self.by_name:
            return IpFilter.everyone()
        return IpFilter() if name is None else IpFilter.of_numbers(self._map.numbers_of(name))

    def relation(self, source: str, target: str) -> NetworkRelation:
        """Return how the host *source* is related to the host *target*."""
        if not self.by_name:
            return NetworkRelation.ROUTE
        here, there = self.of(source), self.of(target)
        if here is None or there is None:
            own = (here or is_loopback(source)) and (there or is_loopback(target))
            return NetworkRelation.ROUTE if own else NetworkRelation.NONE
        return self.between(here, there)

    def between(self, here: str, there: str) -> NetworkRelation:
        """Return how one network is related to another."""
        if here == there:
            return NetworkRelation.SAME
        if (here, there) in self._kinds:
            return self._kinds[here, there]
        back = self._kinds.get((there, here), NetworkRelation.NONE)
        return NetworkRelation.REVERSE_NAT if back is NetworkRelation.NAT else back

    def facing(self, network: str | None, version: int, prefer: str | None = None) -> str | None:
        """Return the proxy's own address in a network, or None.

        Args:
            network: its name.
            version: 4 or 6.
            prefer: the address to take if it is one of them, instead of the first.
        """
        found = self.by_name.get(network or "")
        fitting = [a for a in (found.addresses if found else ()) if (":" in a) == (version == 6)]
        return prefer if prefer in fitting else next(iter(fitting), None)

    def beyond(self, network: str | None) -> list[str]:
        """Return the networks that one has relations with, those across NAT first."""
        ranks = [NetworkRelation.NAT, NetworkRelation.ROUTE]
        found = [
            (ranks.index(kind), name)
            for name in self.by_name
            if network is not None
            and name != network
            and (kind := self.between(network, name)) in ranks
        ]
        return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def same_prefixes(networks: Iterable[Network]) -> Iterator[tuple[str, str, str]]:
    """Yield prefixes that two networks have, with the names of both."""
    owners: dict[tuple[int, int], str] = {}
    for network in networks:
        for prefix in network.prefixes:
            owner = owners.setdefault(prefix_numbers(prefix), network.name)
            if owner != network.name:
                yield owner, network.name, prefix
