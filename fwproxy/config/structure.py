"""Plain mappings to attrs classes, strictly, with every problem of a document found at once.

Nothing is converted silently: a string is no number, 1 is no true, one string is no list of
strings. A hook reports what is wrong by raising `ConfigError` or `ValueError`; the text is what
follows "NAME: " in a message. Validators of attributes run with their attribute, so that their
problems have a place; those that need the whole instance run when it is made.
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import GenericAlias
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.cols import (
    homogenous_tuple_structure_factory,
    is_mapping,
    mapping_structure_factory,
)
from cattrs.errors import (
    BaseValidationError,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.gen import make_dict_structure_fn, override
from cattrs.gen._consts import AttributeOverride

from fwproxy.address import Destination, Endpoint, parse_destination
from fwproxy.errors import ConfigError
from fwproxy.problems import Place, Problem, describe, nearest, shown, unknown

Hook = Callable[[Any, Any], Any]

_T = TypeVar("_T")
_overrides: dict[type, dict[str, AttributeOverride]] = {}


def name_keys(cls: type, **keys: AttributeOverride) -> None:
    """Give attributes of *cls* other keys or hooks than their names and types say."""
    _overrides[cls] = keys


def structure(data: Mapping[str, Any], cls: type[_T], at: Place = ()) -> _T:
    """Make an instance of the attrs class *cls* from *data*, which was found at the place *at*.

    Raises:
        ConfigError: with all problems, each at its place.
    """
    try:
        return converter.structure(data, cls)
    except (BaseValidationError, ConfigError, ValueError) as error:
        problems = list(_problems(error, at))
        message = "\n".join(f"{describe(place)}: {text}" for place, text in problems)
        raise ConfigError(message, problems) from error


def _problems(error: BaseException, place: Place) -> Iterator[Problem]:
    if isinstance(error, ClassValidationError):
        named, others = error.group_exceptions()
        for part, attribute in named:
            yield from _problems(part, (*place, _key(error.cl, attribute.name)))
        for part in others:
            yield from _problems(part, place)
    elif isinstance(error, IterableValidationError):
        for part, item in error.group_exceptions()[0]:
            yield from _problems(part, (*place, item.index))
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(error.extra_fields):
            yield (*place, key), unknown(key, _keys(error.cl))
    elif isinstance(error, ConfigError) and error.problems:
        for inner, text in error.problems:
            yield (*place, *inner), text
    elif isinstance(error, KeyError):
        yield place, "missing"
    else:
        text = str(error.args[0]) if error.args else type(error).__name__
        yield place, text.removeprefix(f"'{place[-1] if place else ''}' ")


def _key(cls: type, attribute: str) -> str:
    return _overrides.get(cls, {}).get(attribute, override()).rename or attribute


def _keys(cls: type) -> list[str]:
    hidden = {name for name, how in _overrides.get(cls, {}).items() if how.omit}
    return [_key(cls, a.name) for a in attrs.fields(cls) if a.init and a.name not in hidden]


def _exactly(kind: type, words: str) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ConfigError(f"must be {words}, not {shown(value)}")
        return value

    return hook


def _number(value: Any, _: Any) -> float:
    if type(value) not in {int, float} or not math.isfinite(value):
        raise ConfigError(f"must be a number, not {shown(value)}")
    return float(value)


def one_of(value: Any, choices: Iterable[Any]) -> Any:
    """Return *value*, if it is one of *choices*.

    Raises:
        ConfigError: it is not; the message names the nearest one, or all.
    """
    known = list(choices)
    for choice in known:
        if value == choice and type(value) is type(choice):
            return value
    names = [str(choice) for choice in known]
    near = nearest(value, names)
    hint = f'; did you mean "{near}"?' if near else ""
    raise ConfigError(f"must be one of {', '.join(names)}, not {shown(value)}{hint}")


def _literal(value: Any, kind: Any) -> Any:
    return one_of(value, get_args(kind))


def _enum(value: Any, kind: Any) -> Any:
    return kind(one_of(value, [member.value for member in kind]))


def spelled(parse: Callable[[str], Any]) -> Hook:
    """Make a hook for a type that is written as a string, which *parse* reads."""

    def hook(value: Any, _: Any) -> Any:
        return parse(string(value, str))

    return hook


def _class_hook(cls: Any, using: cattrs.BaseConverter) -> Hook:
    attrs.resolve_types(cls)
    overrides = dict(_overrides.get(cls, {}))
    for attribute in attrs.fields(cls):
        how = overrides.get(attribute.name, override())
        if attribute.validator is not None and attribute.converter is None and not how.omit:
            overrides[attribute.name] = attrs.evolve(
                how, struct_hook=_validated(attribute, how.struct_hook, using)
            )
    made: Hook = make_dict_structure_fn(
        cls,
        using,
        _cattrs_forbid_extra_keys=True,
        **overrides,  # type: ignore[arg-type]
    )
    return _only(dict, "a table", made)


def _validated(
    attribute: attrs.Attribute[Any], hook: Hook | None, using: cattrs.BaseConverter
) -> Hook:
    def validate(value: Any, kind: Any) -> Any:
        made = hook(value, kind) if hook else using.structure(value, kind)
        assert attribute.validator is not None  # noqa: S101 - the caller looked
        with contextlib.suppress(AttributeError):  # it wants the instance, which is not made yet
            attribute.validator(None, attribute, made)
        return made

    return validate


def _only(kind: type, words: str, hook: Hook) -> Hook:
    def check(value: Any, target: Any) -> Any:
        if not isinstance(value, kind):
            raise ConfigError(f"must be {words}, not {shown(value)}")
        return hook(value, target)

    return check


_LISTS = {tuple: tuple, list: list, set: set, frozenset: frozenset, Sequence: tuple}


def _is_list(kind: Any) -> bool:
    origin, items = get_origin(kind), get_args(kind)
    return items[1:] == (...,) if origin is tuple else origin in _LISTS and bool(items)


def _list_hook(kind: Any, using: cattrs.BaseConverter) -> Hook:
    item = get_args(kind)[0]
    items_kind: Any = GenericAlias(tuple, (item, ...))
    made = homogenous_tuple_structure_factory(items_kind, using)
    origin = get_origin(kind)
    words = "an array of tables, with [[two brackets]]" if attrs.has(item) else "a list"

    def hook(value: Any, target: Any) -> Any:
        items = made(value, target)
        return items if origin is tuple else _LISTS[origin](items)

    return _only(list, words, hook)


def _table_hook(kind: Any, using: cattrs.BaseConverter) -> Hook:
    return _only(dict, "a table", mapping_structure_factory(kind, using))


def _is_literal(kind: Any) -> bool:
    return bool(get_origin(kind) is Literal)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _is_destination(kind: Any) -> bool:
    parts = {part for part in get_args(kind) if part is not type(None)}
    return parts == set(get_args(Destination))


def _destination(value: Any, _: Any) -> Destination:
    return parse_destination(string(value, str))


def _make_converter() -> cattrs.Converter:
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    made.register_structure_hook_factory(_is_list, _list_hook)
    made.register_structure_hook_factory(is_mapping, _table_hook)
    made.register_structure_hook_factory(attrs.has, _class_hook)
    made.register_structure_hook_func(_is_literal, _literal)
    made.register_structure_hook_func(_is_enum, _enum)
    made.register_structure_hook(str, string)
    made.register_structure_hook(int, _exactly(int, "a whole number"))
    made.register_structure_hook(bool, _exactly(bool, "true or false"))
    made.register_structure_hook(float, _number)
    made.register_structure_hook(Endpoint, spelled(Endpoint.parse))
    made.register_structure_hook_func(_is_destination, _destination)
    return made


string = _exactly(str, "a string")
converter = _make_converter()
