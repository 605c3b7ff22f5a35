"""What in networks, relations, rules and protocols does not fit together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from fwproxy.bounds import PortRange
from fwproxy.policy.networks import Network, Relation, same_prefixes
from fwproxy.policy.rules import Rule, RuleKind
from fwproxy.policy.scope import Scope
from fwproxy.problems import Place, no_such
from fwproxy.protocol import ProtocolDefinition

Trouble = tuple[str, Place, str]
"""What it is about in words, its place, and what is wrong."""


def _unknown(
    subject: str, place: Place, what: str, names: Iterable[str], known: Collection[str]
) -> Iterator[Trouble]:
    for name in names:
        if name not in known:
            yield subject, place, no_such(what, name, known)


def network_problems(
    networks: Sequence[Network], relations: Sequence[Relation], names: Collection[str]
) -> Iterator[Trouble]:
    """Yield what is wrong with networks and relations; *names* are those of the networks."""
    for one, other, prefix in same_prefixes(networks):
        place = ("networks", other, "prefixes")
        yield f"network {other!r}", place, f"the network {one} has the prefix {prefix} too"
    for n, relation in enumerate(relations):
        subject = f"relation {n + 1}"
        for key, name in (("from", relation.source), ("to", relation.target)):
            yield from _unknown(subject, ("relations", n, key), "network", [name], names)


def rule_problems(
    rules: Sequence[Rule],
    protocols: Collection[str],
    networks: Collection[str],
    pools: Sequence[PortRange],
) -> Iterator[Trouble]:
    """Yield what is wrong with the rules, given the names that they may use."""
    for n, rule in enumerate(rules):
        subject, place = f"rule {rule.name or n + 1}", ("rules", n)
        yield from _unknown(subject, (*place, "protocols"), "protocol", rule.protocols, protocols)
        yield from _unknown(subject, (*place, "from"), "network", rule.sources, networks)
        yield from _unknown(subject, (*place, "to"), "network", rule.targets, networks)
        for key in () if rule.allow else rule.only_if_allowed:
            yield subject, (*place, key), "is for rules that allow something"
        if rule.proxy_mode != "full" and rule.kind is not RuleKind.PUBLISH:
            problem = 'is for rules with kind = "publish"'
            yield subject, (*place, "proxy_mode"), problem
        yield from scope_problems(rule.secondary, subject, place, networks, pools)


def scope_problems(
    scope: Scope | None,
    subject: str,
    place: Place,
    networks: Collection[str],
    pools: Sequence[PortRange],
) -> Iterator[Trouble]:
    """Yield what is wrong with a scope, given the networks and the ranges of ports."""
    if scope is not None:
        for key, problem in scope.problems(networks, pools):
            yield subject, (*place, "secondary", key), problem


def protocol_problems(protocols: Sequence[ProtocolDefinition]) -> Iterator[Trouble]:
    """Yield what is wrong with protocol definitions."""
    names = [protocol.name for protocol in protocols]
    ids = [protocol.id for protocol in protocols]
    for n, protocol in enumerate(protocols):
        subject, place = f"protocol {protocol.name!r}", ("protocols", n)
        if protocol.name in names[:n]:
            yield subject, (*place, "name"), "another protocol has this name"
        elif protocol.id in ids[:n]:
            other = names[ids.index(protocol.id)]
            yield subject, (*place, "id"), f"the protocol {other} has this id too"
        yield from _unknown(subject, (*place, "secondary"), "protocol", protocol.secondary, names)
