"""Primary connections that the kernel lets through: a rule for a listener, and no proxy.

Where clients are redirected to a listener whose protocol no filter reads, the proxy would only
copy bytes. The kernel can let such connections go on to their servers, as far as the policy allows
them; what it does not allow still comes to the listener, which refuses it. As no log has a line
about them and no limit counts them, the operator has to require the kernel path.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from fwproxy.address import IpNetwork, parse_prefix
from fwproxy.config.listeners import ListenerKind
from fwproxy.datapath.kernel.passage import Passage
from fwproxy.engine.engine import Engine
from fwproxy.errors import KernelPathError
from fwproxy.listeners.base import Listener
from fwproxy.policy.policy import AccessRequest, NetworkRelation, Policy
from fwproxy.policy.rules import Rule, RuleKind

MAX_PASSAGES = 256
"""Pairs of prefixes of one listener; with more of them the proxy decides by itself."""


def let_through(engine: Engine, listener: Listener) -> None:
    """Let a listener's connections through in the kernel, if nobody is to look at them."""
    path = engine.kernel.path
    config = listener.config
    # Without a protocol of its own it finds one by the port, and that may have filters.
    if path is None or config.kind is not ListenerKind.REDIRECT or config.protocol is None:
        return
    if listener.services.usual.terms.bound_filters:
        return
    if engine.config.datapath.kernel != "require":
        return  # nobody hears of what is let through, and that is for the operator to say
    found = list(itertools.islice(passages(engine.policy, listener), MAX_PASSAGES + 1))
    reason = config.why_not_in_kernel or _hindrance(engine, listener, found)
    if not reason:
        try:
            path.let_through(found)
        except KernelPathError as error:
            reason = str(error)
    if reason:
        engine.log.info("listener is not let through", listener=config.name, reason=reason)
    else:
        engine.log.info(
            "listener is let through in the kernel", listener=config.name,
            ports=", ".join(map(str, listener.services.usual.protocol.ports)),
        )  # fmt: skip


def _hindrance(engine: Engine, listener: Listener, found: list[Passage]) -> str:
    policy = engine.policy
    if engine.quotas.for_clients:
        return "clients have quotas"
    if any(_says_more(rule) for rule in policy.rules):
        return "rules say more than yes or no to networks"
    if policy.map.translates:
        return "servers see an address that is configured"
    protocol = listener.services.usual.protocol
    if not protocol.ports:
        return f"the protocol {protocol.name} has no ports"
    if len(found) > MAX_PASSAGES:
        return f"more than {MAX_PASSAGES} pairs of prefixes"
    return "" if any(each.is_open for each in found) else "the rules do not allow it to anybody"


def _says_more(rule: Rule) -> bool:
    more = rule.times or rule.users or rule.kind is not RuleKind.ACCESS
    return bool(more) or not rule.is_plain


def passages(policy: Policy, listener: Listener) -> Iterator[Passage]:
    """Yield what a policy says of each pair of prefixes, the longest first, as it does itself."""
    version, protocol = listener.config.bind.version, listener.services.usual.protocol
    if not policy.networks:
        anybody = "::" if version == 6 else "0.0.0.0"
        decision = policy.decide(AccessRequest(protocol, anybody, anybody))
        yield Passage(version, protocol.transport, protocol.ports, is_open=decision.allowed)
        return
    for (source, here), (target, there) in itertools.product(_members(policy, version), repeat=2):
        decision = policy.decide(AccessRequest(protocol, here, there))
        yield Passage(
            version,
            protocol.transport,
            protocol.ports,
            source,
            target,
            is_open=decision.allowed,
            is_translated=policy.relation(here, there)
            not in {NetworkRelation.ROUTE, NetworkRelation.SAME},
        )


def _members(policy: Policy, version: int) -> list[tuple[str, str]]:
    """Return each prefix, the longest first, with an address that belongs to it and no other."""
    found = [
        (prefix, name)
        for name, network in policy.networks.items()
        for prefix in map(parse_prefix, network.prefixes)
        if prefix.version == version
    ]
    found.sort(key=lambda pair: -pair[0].prefixlen)
    members = []
    for prefix, name in found:
        # What the prefixes inside of this one leave over begins where one of them ends.
        starts = [prefix.network_address]
        starts += [each.broadcast_address + 1 for each, _ in found if _has_next(each, prefix)]
        own = (str(each) for each in starts if policy.network_of(str(each)) == name)
        member = next(own, None)
        if member is not None:
            members.append((str(prefix), member))
    return members


def _has_next(inner: IpNetwork, outer: IpNetwork) -> bool:
    """Tell whether a prefix is inside of another, and does not end with it."""
    end = int(inner.broadcast_address)
    return int(outer.network_address) <= end < int(outer.broadcast_address)
