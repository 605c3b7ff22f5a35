"""A configuration in a few lines for people, and what in it is allowed but probably not meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from fwproxy.config import Config
from fwproxy.host import facts, shortcomings
from fwproxy.listener_config import ListenerConfig
from fwproxy.policy import Rule
from fwproxy.problems import shown
from fwproxy.protocol import BUILT_IN, ProtocolDefinition
from fwproxy.shared_config import SharedConfig


def overview(config: Config) -> Iterator[str]:
    """Yield the lines of a summary: what is configured, and what this host can do."""
    yield from _section("listeners", (_listener(each) for each in config.listeners))
    own = (each for each in config.protocols if each not in BUILT_IN)
    yield from _section("protocols, besides the built-in ones", map(_protocol, own))
    yield from _section(
        "networks",
        (f"{n.name}: {_list(n.prefixes)}; own: {_list(n.addresses)}" for n in config.networks),
    )
    yield from _section(
        "relations", (f"{r.source} to {r.target}: {r.kind.value}" for r in config.relations)
    )
    yield from _section("rules", (_rule(n, rule) for n, rule in enumerate(config.rules, 1)))
    yield from _section("secondary connections", _differences(config.secondary, everything=True))
    if config.shared.is_used:
        yield from _section("shared redirections", _shared(config.shared))
    yield from _section("data path, where not the default", _differences(config.datapath))
    yield from _section("limits, where not the default", _differences(config.limits))
    yield from _section("this host", (f"{label}: {value}" for label, value in facts()))


def warnings(config: Config) -> Iterator[str]:
    """Yield what is allowed but probably not meant."""
    if config.networks and not config.rules:
        yield "there are networks but no rules, so that everything is denied"
    elif config.rules and not any(rule.allow for rule in config.rules):
        yield "no rule allows anything, so that everything is denied"
    unused = list(_without_effect(config))
    if unused:
        yield f"without effect in this version: {'; '.join(unused)}"
    yield from _unused_settings(config)
    yield from _pool(config)
    yield from shortcomings(config)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield title
        yield from (f"  {line}" for line in found)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _listener(listener: ListenerConfig) -> str:
    target = f" to {listener.upstream}" if listener.upstream else ""
    kind = listener.kind.value
    advertised = f", as {listener.advertise}" if listener.advertise else ""
    protocol = listener.protocol or "the protocol by port"
    way = f"{kind}, {protocol}, on {listener.bind}{advertised}{target}"
    return "; ".join([f"{listener.name}: {way}", *_arrangements(listener)])


def _arrangements(listener: ListenerConfig) -> Iterator[str]:
    if listener.users is not None:
        yield f"users of {listener.users}"
    if listener.source == "client":
        yield "servers see the client's address"
    if listener.proxy_protocol != "off":
        yield f"PROXY headers of {_list(listener.trusted)}: {listener.proxy_protocol}"
    if listener.send_proxy:
        yield f"sends PROXY headers of version {listener.send_proxy}"


def _protocol(protocol: ProtocolDefinition) -> str:
    parts = [f"{protocol.name}: {protocol.transport.value}"]
    if protocol.ports:
        parts.append(f"ports {_list(map(str, protocol.ports))}")
    if protocol.secondary:
        parts.append(f"secondary {_list(protocol.secondary)}")
    parts.append(f"filters {_list(protocol.filters)}")
    return "; ".join(parts)


def _rule(number: int, rule: Rule) -> str:
    parts = [rule.name or str(number), "allow" if rule.allow else "deny"]
    parts.append(_list(rule.protocols) if rule.protocols else "every protocol")
    if rule.sources:
        parts.append(f"from {_list(rule.sources)}")
    if rule.targets:
        parts.append(f"to {_list(rule.targets)}")
    if rule.users:
        parts.append(f"for {_list(rule.users)}")
    return f"{parts[0]}: {' '.join(parts[1:])}"


def _shared(shared: SharedConfig) -> Iterator[str]:
    yield f"ports {shared.ports}, open for {shared.linger:g} seconds after their last use"
    for entry in shared.allow:
        names, prefixes = _list(entry.names), _list(entry.prefixes)
        parts = [names if entry.names else prefixes]
        if entry.names and entry.prefixes:
            parts.append(f"in {prefixes}")
        parts.append(f"port {_list(map(str, entry.ports))}" if entry.ports else "every port")
        yield f"allowed: {' '.join(parts)}"
    for each in shared.targets:
        told = f", as {each.advertise}" if each.advertise else ""
        only = f" for listener {each.listener}" if each.listener else ""
        yield f"{each.target} on port {each.port}{told}{only}"


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


def _unused_settings(config: Config) -> Iterator[str]:
    used = {name for each in config.listeners for name in config.filters_of(each)}
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
