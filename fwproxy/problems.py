"""How places in a configuration and what is wrong there are worded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

Place = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""

Problem = tuple[Place, str]
"""Where, and what is wrong there."""


def describe(place: Place, data: Any = None) -> str:
    """Say a place as people do: `[limits] max_sessions`, `[[listeners]] "ftp" bind`.

    With the document as *data*, elements of arrays are called by their names.
    """
    if not place:
        return ""
    end = max((i for i, step in enumerate(place) if isinstance(step, str)), default=0)
    if isinstance(_look_up(data, place), dict) and isinstance(place[-1], int):
        end = len(place)
    table, key = place[:end], place[end:]
    words = [_table(table, data)] if table else []
    if key:
        items = "".join(f", item {step + 1}" for step in key[1:] if isinstance(step, int))
        words.append(f"{key[0]}{items}")
    return " ".join(words)


def unknown(name: object, known: Iterable[str], what: str = "key") -> str:
    """Say that *name* is unknown, and what comes nearest."""
    names = sorted(known)
    near = nearest(name, names)
    if near:
        return f'unknown {what}; did you mean "{near}"?'
    return f"unknown {what}; there is " + (", ".join(names) or f"no {what} here")


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no *what* called *name*, and what comes nearest."""
    near = nearest(name, known)
    hint = f'; did you mean "{near}"?' if near else ""
    return f'there is no {what} "{name}"{hint}'


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that *name* may have been meant to be."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return near[0] if near else None


def shown(value: object) -> str:
    """Return a value as it is written in TOML, shortened."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = f'"{value}"'
    elif isinstance(value, Mapping):
        text = "a table"
    else:
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _look_up(data: Any, place: Place) -> Any:
    try:
        for step in place:
            data = data[step]
    except (LookupError, TypeError):
        return None
    return data


def _table(place: Place, data: Any) -> str:
    name = ".".join(step for step in place if isinstance(step, str))
    text = f"[[{name}]]" if isinstance(place[-1], int) else f"[{name}]"
    indexes = [(i, step) for i, step in enumerate(place) if isinstance(step, int)]
    if not indexes:
        return text
    last, index = indexes[-1]
    element = _look_up(data, place[: last + 1])
    label = element.get("name") if isinstance(element, dict) else None
    return f"{text} {shown(label)}" if isinstance(label, str) else f"{text} number {index + 1}"
