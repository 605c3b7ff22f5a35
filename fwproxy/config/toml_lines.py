"""The line on which each key of a TOML document stands, which tomllib does not tell.

The text must be one that tomllib has read: this scanner skips values and never judges them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from fwproxy.problems import Place

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))[ \t]*(\.?)""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\]|\\.)*"|'[^']*\'''', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def line_of(lines: dict[Place, int], place: Place) -> int | None:
    """Return the line of *place*, or of the nearest thing that contains it."""
    for end in range(len(place), 0, -1):
        if place[:end] in lines:
            return lines[place[:end]]
    return None


def scan(text: str) -> dict[Place, int]:
    """Return the line, counted from 1, of every table and key; a table that comes twice, the first.

    Raises:
        ValueError: *text* is not TOML.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Place, int] = {}
        self._lengths: dict[Place, int] = {}

    def scan(self) -> dict[Place, int]:
        table: Place = ()
        while not self._skip_blank():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _skip_blank(self) -> bool:
        """Skip spaces, lines and comments; tell whether that was all."""
        self._match(_BLANK)
        return self._at == len(self._text)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not TOML at character {self._at}")
        self._at = match.end()
        return match

    def _take(self, mark: str) -> bool:
        found = self._text.startswith(mark, self._at)
        self._at += len(mark) * found
        return found

    def _note(self, place: Place, offset: int) -> None:
        self._lines.setdefault(place, self._text.count("\n", 0, offset) + 1)

    def _keys(self) -> Iterator[str]:
        more = True
        while more:
            quoted, literal, bare, dot = self._match(_KEY).groups()
            more = bool(dot)
            yield bare or literal or tomllib.loads(f'key = "{quoted or ""}"')["key"]

    def _header(self) -> Place:
        start = self._at
        is_array = self._take("[[")
        if not is_array:
            self._at += 1
        keys = list(self._keys())
        self._at += 2 if is_array else 1
        place: Place = ()
        for key in keys[:-1]:
            place = self._inside((*place, key))
        place = (*place, keys[-1])
        if is_array:
            self._lengths[place] = self._lengths.get(place, 0) + 1
            self._note(place, start)
            place = self._inside(place)
        self._note(place, start)
        return place

    def _inside(self, place: Place) -> Place:
        """Return where keys of a table go: in an array of tables, to its last element."""
        return (*place, self._lengths[place] - 1) if place in self._lengths else place

    def _pair(self, table: Place) -> None:
        start, place = self._at, table
        for key in self._keys():
            place = (*place, key)
            self._note(place, start)
        self._at += 1  # the equals sign
        self._value(place)

    def _value(self, place: Place) -> None:
        self._skip_blank()
        if self._take("["):
            self._items("]", place)
        elif self._take("{"):
            self._items("}", place)
        elif self._text.startswith(('"', "'"), self._at):
            self._match(_STRING)
        else:
            self._match(_SCALAR)

    def _items(self, end: str, place: Place) -> None:
        number = 0
        while not self._skip_blank() and not self._take(end):
            if end == "}":
                self._pair(place)
            else:
                self._note((*place, number), self._at)
                self._value((*place, number))
            number += 1
            self._skip_blank()
            self._take(",")
