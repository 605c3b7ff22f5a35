"""Settings classes of filters: strict types, places of problems, and words that help."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import pytest
from attrs import validators

from fwproxy.address import Endpoint
from fwproxy.config.structure import structure
from fwproxy.errors import ConfigError
from fwproxy.problems import describe, no_such, shown


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Part:
    count: int = attrs.field(validator=validators.ge(1))
    tags: frozenset[str] = frozenset()


@attrs.frozen
class Settings:
    name: str = "x"
    strict: bool = True
    wait: float = 1.0
    mode: Literal["a", "b", 3] = "a"
    colour: Colour = Colour.RED
    server: Endpoint | None = None
    parts: tuple[Part, ...] = ()
    by_name: Mapping[str, Part] = attrs.field(factory=dict)
    verbs: list[str] = attrs.field(factory=list)
    limit: int = attrs.field(default=5, validator=[validators.ge(1), validators.le(9)])
    low: int = 0
    high: int = attrs.field(default=9)
    hidden: int = attrs.field(default=1, init=False)

    @high.validator
    def _above_low(self, attribute: attrs.Attribute[int], value: int) -> None:
        if value <= self.low:
            raise ValueError("must be above low")


def test_everything_at_once() -> None:
    data: dict[str, Any] = {
        "name": "n",
        "strict": False,
        "wait": 2,
        "mode": 3,
        "colour": "blue",
        "server": "[::1]:21",
        "parts": [{"count": 1}, {"count": 2, "tags": ["a", "a"]}],
        "by_name": {"k": {"count": 3}},
        "verbs": ["RETR"],
        "limit": 9,
        "low": 1,
        "high": 2,
    }
    assert structure(data, Settings) == Settings(
        name="n",
        strict=False,
        wait=2.0,
        mode=3,
        colour=Colour.BLUE,
        server=Endpoint("::1", 21),
        parts=(Part(1), Part(2, frozenset({"a"}))),
        by_name={"k": Part(3)},
        verbs=["RETR"],
        limit=9,
        low=1,
        high=2,
    )
    assert structure({}, Settings) == Settings()


@pytest.mark.parametrize(
    ("data", "place", "text"),
    [
        ({"nam": 1}, ("nam",), 'unknown key; did you mean "name"?'),
        ({"hidden": 1}, ("hidden",), "unknown key; there is by_name, colour, high, limit"),
        ({"name": 1}, ("name",), "must be a string, not 1"),
        ({"strict": 1}, ("strict",), "must be true or false, not 1"),
        ({"strict": "yes"}, ("strict",), 'must be true or false, not "yes"'),
        ({"wait": True}, ("wait",), "must be a number, not true"),
        ({"mode": "c"}, ("mode",), 'must be one of a, b, 3, not "c"'),
        ({"mode": "3"}, ("mode",), "must be one of a, b, 3"),
        ({"colour": "rad"}, ("colour",), 'must be one of red, blue, not "rad"; did you mean "red"'),
        ({"server": "x"}, ("server",), "'x' is not of the form host:port"),
        ({"parts": {"count": 1}}, ("parts",), "must be an array of tables"),
        ({"parts": [5]}, ("parts", 0), "must be a table, not 5"),
        ({"parts": [{"count": 1}, {}]}, ("parts", 1, "count"), "missing"),
        ({"parts": [{"count": 0}]}, ("parts", 0, "count"), "must be >= 1: 0"),
        ({"parts": [{"count": 1, "tags": [1]}]}, ("parts", 0, "tags", 0), "must be a string"),
        ({"by_name": {"k": {"count": 0}}}, ("by_name", "k", "count"), "must be >= 1: 0"),
        ({"by_name": []}, ("by_name",), "must be a table, not []"),
        ({"verbs": "RETR"}, ("verbs",), 'must be a list, not "RETR"'),
        ({"limit": 10}, ("limit",), "must be <= 9: 10"),
        ({"low": 5, "high": 5}, (), "must be above low"),
    ],
)
def test_problems(data: dict[str, Any], place: tuple[str | int, ...], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        structure(data, Settings, at=("filters", "x"))
    [(found, problem)] = caught.value.problems
    assert found == ("filters", "x", *place)
    assert problem.startswith(text)


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        structure({"nam": 1, "wait": "x", "limit": 0, "parts": [{}, 1]}, Settings, ("filters", "x"))
    places = {place for place, _ in caught.value.problems}
    assert places == {
        ("filters", "x", "nam"),
        ("filters", "x", "wait"),
        ("filters", "x", "limit"),
        ("filters", "x", "parts", 0, "count"),
        ("filters", "x", "parts", 1),
    }
    assert '[filters.x] wait: must be a number, not "x"' in str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((), ""),
        (("limits",), "limits"),
        (("limits", "max_buffer"), "[limits] max_buffer"),
        (("listeners", 0, "bind"), '[[listeners]] "ftp" bind'),
        (("listeners", 0), '[[listeners]] "ftp"'),
        (("listeners", 1, "bind"), "[[listeners]] number 2 bind"),
        (("listeners", 0, "filters", "ftp", "x"), '[listeners.filters.ftp] "ftp" x'),
        (("rules", 5, "from", 1), "[[rules]] number 6 from, item 2"),
    ],
)
def test_places_in_words(place: tuple[str | int, ...], words: str) -> None:
    data = {"listeners": [{"name": "ftp"}, {}], "limits": {}}
    assert describe(place, data) == words


def test_values_and_names_in_words() -> None:
    assert shown("x" * 100) == '"' + "x" * 56 + "..."
    assert shown({"a": 1}) == "a table"
    assert no_such("filter", "fpt", ["ftp"]) == 'there is no filter "fpt"; did you mean "ftp"?'
    assert no_such("filter", "sip", ["ftp"]) == 'there is no filter "sip"'
