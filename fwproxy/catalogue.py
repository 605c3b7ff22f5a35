"""The installed filters as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from rich import box
from rich.markup import escape
from rich.table import Table

from fwproxy.problems import shown
from fwproxy.protocol import BUILT_IN
from fwproxy.registry import Offer


@attrs.frozen
class Setting:
    """One setting of a filter: its name and type in words, and its default as TOML."""

    name: str
    type: str
    default: str


def settings_of(offer: Offer) -> Iterator[Setting]:
    """Yield the settings of a filter, in the order of its settings class."""
    cls = offer.filter_class.settings_class if offer.filter_class else None
    if cls is None:
        return
    for attribute in attrs.fields(cls):
        kind = attribute.type
        words = kind.__name__ if isinstance(kind, type) else str(kind)
        yield Setting(attribute.name, words, _default(attribute))


def protocols_of(name: str) -> list[str]:
    """Return the protocols whose primary connections a filter reads."""
    return [protocol.name for protocol in BUILT_IN if name in protocol.filters]


def table(offers: Iterable[Offer]) -> Table:
    """Return the filters as a table for a terminal."""
    made = Table("filter", "protocols", "settings", "package", box=box.SIMPLE, pad_edge=False)
    for offer in offers:
        if offer.error:
            settings = f"[red]cannot be used: {escape(offer.error)}[/red]"
        else:
            settings = escape("\n".join(f"{s.name} = {s.default}" for s in settings_of(offer)))
        made.add_row(
            escape(offer.name), ", ".join(protocols_of(offer.name)), settings, escape(offer.package)
        )
    return made


def as_json(offers: Iterable[Offer]) -> str:
    """Return the filters as a JSON array of objects."""
    found = [
        {
            "name": offer.name,
            "target": offer.target,
            "package": offer.package,
            "protocols": protocols_of(offer.name),
            "settings": [attrs.asdict(setting) for setting in settings_of(offer)],
            "error": offer.error or None,
        }
        for offer in offers
    ]
    return json.dumps(found, indent=2, ensure_ascii=False)


def _default(attribute: attrs.Attribute[Any]) -> str:
    default: Any = attribute.default
    if default is attrs.NOTHING:
        return "(required)"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        if default.takes_self:
            return "(computed)"
        default = default.factory()
    if isinstance(default, list | tuple | set | frozenset):
        return f"[{', '.join(shown(each) for each in default)}]"
    return shown(getattr(default, "value", default))
