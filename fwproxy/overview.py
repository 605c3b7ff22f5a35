"""A configuration in a few lines for people, and what in it is allowed but probably not meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from fwproxy.config import Config, ListenerConfig
from fwproxy.host import facts, shortcomings
from fwproxy.policy import Rule
from fwproxy.problems import shown


def overview(config: Config) -> Iterator[str]:
    """Yield the lines of a summary: what is configured, and what this host can do."""
    yield from _section("listeners", (_listener(each) for each in config.listeners))
    yield from _section(
        "networks",
        (f"{n.name}: {_list(n.prefixes)}; own: {_list(n.addresses)}" for n in config.networks),
    )
    yield from _section(
        "relations", (f"{r.source} to {r.target}: {r.kind.value}" for r in config.relations)
    )
    yield from _section("rules", (_rule(n, rule) for n, rule in enumerate(config.rules, 1)))
    yield from _section("secondary connections", _differences(config.secondary, everything=True))
    yield from _section("data path, where not the default", _differences(config.datapath))
    yield from _section("limits, where not the default", _differences(config.limits))
    yield from _section("this host", (f"{label}: {value}" for label, value in facts()))


def warnings(config: Config) -> Iterator[str]:
    """Yield what is allowed but probably not meant."""
    if config.networks and not config.rules:
        yield "there are networks but no rules, so that everything is denied"
    elif config.rules and not any(rule.allow for rule in config.rules):
        yield "no rule allows anything, so that everything is denied"
    if len(config.networks) > 1 and not config.relations:
        yield "there are networks but no relations, so that nothing passes from one to another"
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
    return f"{listener.name}: {kind}, {listener.protocol}, on {listener.bind}{target}"


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


def _differences(section: Any, *, everything: bool = False) -> Iterator[str]:
    for attribute in attrs.fields(type(section)):
        value = getattr(section, attribute.name)
        if everything:
            yield f"{attribute.name} = {shown(value)}"
        elif value != attribute.default:
            yield f"{attribute.name} = {shown(value)} (default {shown(attribute.default)})"


def _unused_settings(config: Config) -> Iterator[str]:
    protocols = {protocol.name: protocol for protocol in config.protocols}
    used = {name for each in config.listeners for name in protocols[each.protocol].filters}
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
