"""Filters by name, as installed packages offer them under the entry-point group `fwproxy.filters`.

A package says `[project.entry-points."fwproxy.filters"] NAME = "module:FilterClass"`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import attrs

from fwproxy.config.config import Config
from fwproxy.config.structure import structure
from fwproxy.errors import ConfigError
from fwproxy.filter import Filter
from fwproxy.problems import Place, Problem, describe, no_such
from fwproxy.protocol import BUILT_IN

GROUP = "fwproxy.filters"


@attrs.frozen
class Offer:
    """One filter that an installed package offers.

    Attributes:
        name: what configuration calls it.
        target: `module:class`.
        package: the distribution's name and version; empty if it is not known.
        filter_class: the class, or None if it cannot be used.
        error: why it cannot be used; empty if it can.
    """

    name: str
    target: str
    package: str
    filter_class: type[Filter] | None
    error: str = ""


def offers() -> tuple[Offer, ...]:
    """Import every filter on offer, in the order of their names; none of them raises."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return tuple(_offer(name, entries) for name, entries in sorted(found.items()))


def available() -> dict[str, type[Filter]]:
    """Return the filters that can be used, by name; `offers` tells about the others."""
    return {offer.name: offer.filter_class for offer in offers() if offer.filter_class}


def find(name: str) -> type[Filter]:
    """Return the filter called *name*, and import no other.

    Raises:
        ConfigError: there is none, or it cannot be used; the message says why.
    """
    entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not entries:
        raise ConfigError(no_such("filter", name, entry_points(group=GROUP).names))
    offer = _offer(name, entries)
    if offer.filter_class is None:
        raise ConfigError(f'the filter "{name}" cannot be used: {offer.error}')
    return offer.filter_class


def settings_for(
    filter_class: type[Filter], *layers: Mapping[str, Any], at: Place | None = None
) -> Any:
    """Make the settings of a filter; keys of later *layers* win. None if it has no settings.

    Args:
        filter_class: the filter.
        layers: tables such as `[filters.NAME]` and a listener's `[listeners.filters.NAME]`.
        at: where in the configuration the last layer stands, for messages.

    Raises:
        ConfigError: a key is unknown or a value wrong; the message has one line per problem.
    """
    place = ("filters", filter_class.name) if at is None else at
    merged = {key: value for layer in layers for key, value in layer.items()}
    if filter_class.settings_class is not None:
        return structure(merged, filter_class.settings_class, place)
    if merged:
        problem = f'the filter "{filter_class.name}" has no settings'
        raise ConfigError.at(place, problem, describe(place))
    return None


def check(config: Config) -> None:
    """See whether every filter that *config* needs or sets up is there and accepts its settings.

    Raises:
        ConfigError: with every problem, each at its place in the configuration.
    """
    problems = list(_problems(config))
    if problems:
        message = "\n".join(f"{describe(place)}: {problem}" for place, problem in problems)
        raise ConfigError(message, problems)


def _problems(config: Config) -> Iterator[Problem]:
    broken = set()
    for place, name in _named(config):
        troubles = list(_trouble(name, (), place))
        yield from troubles
        broken.update([name] if troubles else [])
    used = {name for each in config.listeners for name in config.filters_under(each)}
    sound = set()
    for name in dict.fromkeys([*config.filters, *sorted(used - broken)]):
        troubles = list(_trouble(name, (config.filters.get(name, {}),), at=("filters", name)))
        yield from troubles
        sound.update([] if troubles else [name])
    for number, listener in enumerate(config.listeners):
        for name, table in listener.filters.items():
            place = ("listeners", number, "filters", name)
            known = config.filters_under(listener)
            if name not in known:
                what = f"the protocol {listener.protocol}" if listener.protocol else "any protocol"
                yield place, no_such(f"filter in {what}", name, known)
            elif name in sound:
                yield from _trouble(name, (config.filters.get(name, {}), table), place)


def _named(config: Config) -> Iterator[tuple[Place, str]]:
    """Yield the filters that protocols name; those of a built-in one count where it is used."""
    for number, protocol in enumerate(config.protocols):
        for item, name in enumerate(() if protocol in BUILT_IN else protocol.filters):
            yield ("protocols", number, "filters", item), name
    for number, listener in enumerate(config.listeners):
        for item, name in enumerate(listener.use_filters or ()):
            yield ("listeners", number, "use_filters", item), name
        if listener.use_filters is None:
            for used in config.protocols_of(listener):
                for name in used.filters if used in BUILT_IN else ():
                    yield ("listeners", number, "protocol"), name
    for number, rule in enumerate(config.rules):
        for item, name in enumerate(rule.use_filters or ()):
            yield ("rules", number, "use_filters", item), name


def _trouble(name: str, layers: tuple[Mapping[str, Any], ...], at: Place) -> Iterator[Problem]:
    try:
        filter_class = find(name)
        if layers:
            settings_for(filter_class, *layers, at=at)
    except ConfigError as error:
        yield from error.problems or [(at, str(error))]


def _offer(name: str, entries: list[EntryPoint]) -> Offer:
    packages = sorted({_package(entry) for entry in entries})
    if len({entry.value for entry in entries}) > 1:
        error = f"two packages offer it: {' and '.join(packages)}; remove one"
        return Offer(name, entries[0].value, ", ".join(packages), None, error)
    try:
        loaded = entries[0].load()
        filter_class = _checked(loaded, name)
    except Exception as error:  # noqa: BLE001 - importing runs code of others
        reason = f"{type(error).__name__}: {error}"
        return Offer(name, entries[0].value, packages[0], None, reason)
    return Offer(name, entries[0].value, packages[0], filter_class)


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""


def _checked(loaded: object, name: str) -> type[Filter]:
    if not (isinstance(loaded, type) and issubclass(loaded, Filter)):
        raise ConfigError(f"{loaded!r} is not a subclass of fwproxy.Filter")
    if getattr(loaded, "name", None) != name:
        called = getattr(loaded, "name", None)
        raise ConfigError(f"its name is {called!r}, not {name!r} as its package says")
    if loaded.settings_class is not None and not attrs.has(loaded.settings_class):
        raise ConfigError("its settings_class is not an attrs class")
    return loaded
