"""The installed filters as a table for people and as JSON for programs."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import attrs
from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fwproxy.problems import shown
from fwproxy.protocol import BUILT_IN
from fwproxy.registry import Offer


@attrs.frozen
class Setting:
    """One setting of a filter: its name, its default as TOML, and what else it may be."""

    name: str
    default: str
    values: str


def settings_of(offer: Offer) -> Iterator[Setting]:
    """Yield the settings of a filter, in the order of its settings class."""
    cls = offer.filter_class.settings_class if offer.filter_class else None
    if cls is None:
        return
    attrs.resolve_types(cls)
    for attribute in attrs.fields(cls):
        if attribute.init:
            yield Setting(attribute.name, _default(attribute), _values(attribute.type))


def protocols_of(name: str) -> list[str]:
    """Return the protocols whose primary connections a filter reads."""
    return [protocol.name for protocol in BUILT_IN if name in protocol.filters]


def tables(offers: Iterable[Offer]) -> Iterator[RenderableType]:
    """Yield for each filter a heading, and a table of its settings or why it cannot be used."""
    for offer in offers:
        protocols = ", ".join(protocols_of(offer.name)) or "no built-in protocol"
        yield Text.assemble((offer.name, "bold"), f" for {protocols}, from {offer.package}")
        if offer.error:
            yield Text(f"  cannot be used: {offer.error}", "red")
            continue
        made = Table("setting", "default", "values", box=box.SIMPLE_HEAD)
        made.columns[0].no_wrap = True
        for setting in settings_of(offer):
            made.add_row(*(escape(cell) for cell in attrs.astuple(setting)))
        yield made if made.rows else Text("  no settings\n")


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
    return _toml(default)


def _toml(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return shown(getattr(value, "value", value))


def _values(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(str(choice) for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " | ".join(str(member.value) for member in kind)
    plain = {bool: "true | false", str: "string", int: "whole number", float: "number"}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) in {tuple, list, set, frozenset}:
        return f"list of: {_values(get_args(kind)[0])}"
    if get_origin(kind) is not None and issubclass(get_origin(kind), Mapping):
        return f"table of: {_values(get_args(kind)[1])}"
    return getattr(kind, "__name__", str(kind))
