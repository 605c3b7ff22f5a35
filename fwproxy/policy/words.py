"""Rules, and what they and listeners grant, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fwproxy.policy.networks import ANY_NETWORK, NetworkRelation, Networks
from fwproxy.policy.rules import Rule, RuleKind, RuleLimits
from fwproxy.policy.scope import CALLS, Scope


def listed(names: Iterable[object]) -> str:
    """Return names one after the other."""
    return ", ".join(map(str, names)) or "none"


def rule_lines(number: int, rule: Rule) -> Iterator[str]:
    """Yield what a rule says, in one line and further ones for its terms."""
    parts = ["allow" if rule.allow else "deny"]
    if rule.kind is RuleKind.PUBLISH:
        parts.insert(0, "publish," if rule.allow else "publishing,")
    parts.append(listed(rule.protocols) if rule.protocols else "every protocol")
    if rule.sources:
        parts.append(f"from {listed(rule.sources)}")
    if rule.targets:
        parts.append(f"to {listed(rule.targets)}")
    if rule.users:
        parts.append(f"for {listed(rule.users)}")
    if rule.times:
        parts.append(f"at {' and '.join(map(str, rule.times))}")
    yield f"{rule.name or number}: {' '.join(parts)}"
    if rule.allow and rule.kind is RuleKind.PUBLISH:
        full = rule.proxy_mode == "full"
        yield f"  the server sees {'the proxy' if full else 'the address of the client'}"
    yield from (f"  {line}" for line in _terms(rule))


def _terms(rule: Rule) -> Iterator[str]:
    if rule.use_filters is not None:
        yield filters_line(rule.use_filters)
    if rule.secondary is not None:
        yield scope_line(rule.secondary)
    if rule.limits is not None:
        yield f"at most {_limits(rule.limits)}"


def filters_line(names: tuple[str, ...]) -> str:
    """Say which filters are used instead of the protocol's."""
    return f"filters: {listed(names)}, instead of those of the protocol"


def scope_line(scope: Scope) -> str:
    """Say what filters may open."""
    parts = []
    if scope.max_permissions is not None:
        parts.append(f"at most {scope.max_permissions} permissions at a time")
    if scope.transports is not None:
        parts.append(f"only {listed(t.value for t in scope.transports)}")
    if scope.peers is not None:
        parts.append(f"with {listed(scope.peers)}")
    if scope.ports is not None:
        parts.append(f"on ports {scope.ports}")
    if scope.timeout is not None:
        parts.append(f"unused for at most {scope.timeout:g} seconds")
    if scope.calls is not None:
        parts.append(f"by {listed(CALLS[call] for call in scope.calls)}")
    return f"filters may open secondary connections: {'; '.join(parts) or 'any'}"


def _limits(limits: RuleLimits) -> str:
    parts = []
    if limits.max_connections is not None:
        parts.append(f"{limits.max_connections} connections")
    if limits.max_permissions is not None:
        parts.append(f"{limits.max_permissions} permissions")
    if limits.connection_rate is not None:
        rate, burst = limits.connection_rate, limits.connection_burst
        parts.append(f"{rate:g} new connections per second, {burst} at once")
    return "; ".join(parts) or "as many as there are"


def unreachable_rules(rules: Iterable[Rule], networks: Networks) -> Iterator[str]:
    """Yield rules that allow what the relations of the networks do not let pass."""
    if not networks.relations:
        return
    for number, rule in enumerate(rules, 1):
        if not rule.allow:
            continue
        pairs = [
            (one, other)
            for one in rule.sources or tuple(networks.by_name)
            for other in rule.targets or tuple(networks.by_name)
            if ANY_NETWORK not in {one, other}
        ]
        kinds = {networks.between(one, other) for one, other in pairs}
        name = rule.name or number
        if kinds == {NetworkRelation.NONE}:
            yield f"rule {name} allows nothing: its networks have no relation ([[relations]])"
        elif rule.kind is RuleKind.ACCESS and kinds <= {
            NetworkRelation.REVERSE_NAT,
            NetworkRelation.NONE,
        }:
            yield (
                f'rule {name} allows nothing: it needs kind = "publish" to let clients in against '
                "the direction of NAT"
            )


def strange_addresses(networks: Networks) -> Iterator[str]:
    """Yield own addresses of the proxy that are not in the network that they are listed in."""
    for network in networks.by_name.values():
        for address in network.addresses:
            found = networks.of(address)
            if found != network.name:
                where = f"in {found}" if found else "in no network"
                yield f"the proxy's address {address} of the network {network.name} is {where}"
