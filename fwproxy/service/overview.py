"""A configuration in a few lines for people, and what in it is allowed but probably not meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from fwproxy.config.config import Config, LedgerConfig
from fwproxy.config.listeners import ListenerConfig
from fwproxy.config.resolver import ResolverConfig
from fwproxy.config.shared import SharedConfig
from fwproxy.log import get_logger
from fwproxy.policy.networks import Networks
from fwproxy.policy.words import (
    filters_line,
    listed,
    rule_lines,
    scope_line,
    strange_addresses,
    unreachable_rules,
)
from fwproxy.problems import shown
from fwproxy.protocol import BUILT_IN, ProtocolDefinition
from fwproxy.service.host import facts, shortcomings
from fwproxy.service.kernel_abilities import abilities


def overview(config: Config) -> Iterator[str]:
    """Yield the lines of a summary: what is configured, and what this host can do."""
    lines = (line for each in config.listeners for line in _listener(each))
    yield from _section("listeners", lines)
    own = (each for each in config.protocols if each not in BUILT_IN)
    yield from _section("protocols, besides the built-in ones", map(_protocol, own))
    yield from _section(
        "networks",
        (f"{n.name}: {listed(n.prefixes)}; own: {listed(n.addresses)}" for n in config.networks),
    )
    yield from _section(
        "relations", (f"{r.source} to {r.target}: {r.kind.value}" for r in config.relations)
    )
    numbered = enumerate(config.rules, 1)
    yield from _section("rules", (line for n, rule in numbered for line in rule_lines(n, rule)))
    if any(rule.times for rule in config.rules):
        yield from _section("times", [f"zone {config.times.zone or 'of this host'}"])
    yield from _section("secondary connections", _differences(config.secondary, everything=True))
    if config.shared.is_used:
        yield from _section("shared redirections", _shared(config.shared))
    yield from _section("data path, where not the default", _differences(config.datapath))
    yield from _section("names", _names(config.resolver))
    yield from _section("process, where not the default", _differences(config.process))
    yield from _section("ledger", _ledger(config.ledger))
    yield from _section("limits, where not the default", _differences(config.limits))
    found = [*facts(), *abilities(config, get_logger())]
    yield from _section("this host", (f"{label}: {value}" for label, value in found))


def warnings(config: Config) -> Iterator[str]:
    """Yield what is allowed but probably not meant."""
    if config.networks and not config.rules:
        yield "there are networks but no rules, so that everything is denied"
    elif config.rules and not any(rule.allow for rule in config.rules):
        yield "no rule allows anything, so that everything is denied"
    unused = list(_without_effect(config))
    if unused:
        yield f"without effect in this version: {'; '.join(unused)}"
    networks = Networks(config.networks, config.relations)
    yield from unreachable_rules(config.rules, networks)
    yield from strange_addresses(networks)
    yield from _unused_settings(config)
    yield from _pool(config)
    yield from shortcomings(config)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield title
        yield from (f"  {line}" for line in found)


def _listener(listener: ListenerConfig) -> Iterator[str]:
    target = f" to {listener.upstream}" if listener.upstream else ""
    kind = listener.kind.value
    advertised = f", as {listener.advertise}" if listener.advertise else ""
    protocol = listener.protocol or "the protocol by port"
    way = f"{kind}, {protocol}, on {listener.bind}{advertised}{target}"
    yield "; ".join([f"{listener.name}: {way}", *_arrangements(listener)])
    if listener.use_filters is not None:
        yield f"  {filters_line(listener.use_filters)}"
    if listener.secondary is not None:
        yield f"  {scope_line(listener.secondary)}"


def _arrangements(listener: ListenerConfig) -> Iterator[str]:
    if listener.users is not None:
        yield f"users of {listener.users}"
    if listener.source == "client":
        yield "servers see the client's address"
    if listener.proxy_protocol != "off":
        yield f"PROXY headers of {listed(listener.trusted)}: {listener.proxy_protocol}"
    if listener.send_proxy:
        yield f"sends PROXY headers of version {listener.send_proxy}"


def _protocol(protocol: ProtocolDefinition) -> str:
    parts = [f"{protocol.name}: {protocol.transport.value}"]
    if protocol.ports:
        parts.append(f"ports {listed(protocol.port_ranges)}")
    if protocol.secondary:
        parts.append(f"secondary {listed(protocol.secondary)}")
    parts.append(f"filters {listed(protocol.filters)}")
    return "; ".join(parts)


def _shared(shared: SharedConfig) -> Iterator[str]:
    yield f"ports {shared.ports}, open for {shared.linger:g} seconds after their last use"
    for entry in shared.allow:
        names, prefixes = listed(entry.names), listed(entry.prefixes)
        parts = [names if entry.names else prefixes]
        if entry.names and entry.prefixes:
            parts.append(f"in {prefixes}")
        parts.append(f"port {listed(map(str, entry.ports))}" if entry.ports else "every port")
        yield f"allowed: {' '.join(parts)}"
    for each in shared.targets:
        told = f", as {each.advertise}" if each.advertise else ""
        only = f" for listener {each.listener}" if each.listener else ""
        yield f"{each.target} on port {each.port}{told}{only}"


def _names(resolver: ResolverConfig) -> Iterator[str]:
    if resolver.kind == "dns":
        own = listed(str(server) for server in resolver.servers)
        asked = own if resolver.servers else "the servers of /etc/resolv.conf"
        yield f"asked of {asked}, for {resolver.timeout:g} seconds at most"
        yield f"remembered for as long as the answer says, {resolver.max_ttl:g} seconds at most"


def _ledger(ledger: LedgerConfig) -> Iterator[str]:
    if ledger.file is not None:
        yield f"written to {ledger.file}, while at most {ledger.queue} lines wait for the disk"
    yield f"the last {ledger.history} permissions that have ended are remembered"


def _differences(section: Any, *, everything: bool = False) -> Iterator[str]:
    for attribute in attrs.fields(type(section)):
        value = getattr(section, attribute.name)
        if everything:
            yield f"{attribute.name} = {shown(value)}"
        elif value != attribute.default:
            yield f"{attribute.name} = {shown(value)} (default {shown(attribute.default)})"


def _without_effect(config: Config) -> Iterator[str]:
    """Name the keys that nothing makes use of."""
    rules = [rule.name or str(n) for n, rule in enumerate(config.rules, 1) if rule.users]
    if rules and not any(listener.users for listener in config.listeners):
        yield (
            f"[[rules]] {', '.join(rules)} (no listener has users, so that rules with users never "
            "match)"
        )
    keys = [line.partition(" = ")[0] for line in _differences(config.resolver)]
    if keys and config.resolver.kind == "system":
        yield f'[resolver] {", ".join(keys)} (only kind = "dns" asks servers)'


def _unused_settings(config: Config) -> Iterator[str]:
    used = {name for each in config.listeners for name in config.filters_under(each)}
    for name in config.filters:
        if name not in used:
            yield f"[filters.{name}] is set, but no listener has a protocol with this filter"


def _pool(config: Config) -> Iterator[str]:
    ports = config.secondary.ports
    for listener in config.listeners:
        if ports.first <= listener.bind.port <= ports.last:
            yield (
                f'listener "{listener.name}" is on port {listener.bind.port}, inside the pool '
                f"{ports} for secondary connections"
            )
