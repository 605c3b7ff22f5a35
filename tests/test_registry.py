"""Filters from installed packages, here from packages made in a temporary directory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints
from pathlib import Path
from typing import Any

import attrs
import pytest

from fwproxy import registry
from fwproxy.address import Endpoint
from fwproxy.config.config import Config
from fwproxy.config.file import parse
from fwproxy.config.listeners import ListenerConfig
from fwproxy.errors import ConfigError
from fwproxy.filter import Filter
from fwproxy.protocol import BUILT_IN, FTP, ProtocolDefinition

SOURCE = """
import attrs
import fwproxy

@attrs.frozen
class Settings:
    depth: int = 1
    name: str = "x"

class Sound(fwproxy.Filter):
    name = "sound"
    settings_class = Settings

class Plain(fwproxy.Filter):
    name = "plain"

@attrs.frozen
class Required:
    depth: int

class Strict(fwproxy.Filter):
    name = "strict"
    settings_class = Required

class NotAFilter:
    name = "stranger"

class Unsettled(fwproxy.Filter):
    name = "unsettled"
    settings_class = dict
"""

Install = Callable[..., None]


@attrs.frozen
class Settings:
    depth: int = 1
    name: str = "x"


class Sound(Filter):
    name = "sound"
    settings_class = Settings


class Plain(Filter):
    name = "plain"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A function that installs a package with entry points and one module."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(package: str, source: str, **entries: str) -> None:
        module = f"{package}_module"
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{package}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        lines = [f"{name} = {module}:{target}" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines, ""]))
        importlib.invalidate_caches()
        made.append(module)

    yield make
    for module in made:
        sys.modules.pop(module, None)


def offer(name: str) -> registry.Offer:
    [found] = [each for each in registry.offers() if each.name == name]
    return found


def test_filters_of_other_packages_are_available(install: Install) -> None:
    install("extra", SOURCE, sound="Sound", plain="Plain")
    assert registry.available().keys() >= {"sound", "plain"}
    assert registry.find("sound") is registry.available()["sound"]
    assert issubclass(registry.find("sound"), Filter)
    assert offer("sound").package == "extra 1.5"
    assert offer("sound").target == "extra_module:Sound"


def test_the_filters_of_this_project_are_available() -> None:
    assert registry.find("ftp").name == "ftp"
    assert offer("ftp").package.startswith("fwproxy ")


@pytest.mark.parametrize(
    ("entries", "source", "error"),
    [
        ({"bad": "Sound"}, "import no_such_module", "ModuleNotFoundError: No module named 'no_su"),
        ({"bad": "Sound"}, "1 / 0", "ZeroDivisionError: division by zero"),
        ({"bad": "Missing"}, SOURCE, "AttributeError: module 'broken_module' has no attribute"),
        ({"bad": "Sound"}, SOURCE, "ConfigError: its name is 'sound', not 'bad' as its package sa"),
        ({"bad": "NotAFilter"}, SOURCE, "ConfigError: <class 'broken_module.NotAFilter'> is not "),
        ({"bad": "Unsettled"}, SOURCE.replace("unsettled", "bad"), "ConfigError: its settings_cla"),
    ],
)
def test_a_broken_filter_is_reported_and_stops_only_who_uses_it(
    install: Install, entries: dict[str, str], source: str, error: str
) -> None:
    install("broken", source, **entries)
    install("extra", SOURCE, sound="Sound")
    assert "bad" not in registry.available()
    assert "sound" in registry.available()
    assert offer("bad").error.startswith(error)
    assert offer("bad").filter_class is None
    with pytest.raises(ConfigError, match='the filter "bad" cannot be used: '):
        registry.find("bad")


def test_two_packages_with_one_name(install: Install) -> None:
    install("one", SOURCE, sound="Sound")
    install("two", SOURCE, sound="Sound")
    assert offer("sound").error == "two packages offer it: one 1.5 and two 1.5; remove one"


def test_an_unknown_filter_is_named_with_the_nearest_one(install: Install) -> None:
    install("extra", SOURCE, sound="Sound")
    with pytest.raises(ConfigError, match='there is no filter "sond"; did you mean "sound"'):
        registry.find("sond")


def test_a_filter_is_imported_only_when_it_is_asked_for(install: Install) -> None:
    install("extra", SOURCE, sound="Sound")
    install("broken", "raise SystemError", bad="Bad")
    registry.find("sound")
    assert "broken_module" not in sys.modules


def test_later_layers_of_settings_win() -> None:
    base, override = {"depth": 2, "name": "a"}, {"depth": 3}
    assert registry.settings_for(Sound, base, override) == Settings(3, "a")
    assert registry.settings_for(Sound) == Settings()
    assert registry.settings_for(Plain, {}) is None


@pytest.mark.parametrize(
    ("filter_class", "layer", "message"),
    [
        (Sound, {"dept": 1}, r'^\[filters\.sound\] dept: unknown key; did you mean "depth"\?$'),
        (Sound, {"depth": "1"}, r'^\[filters\.sound\] depth: must be a whole number, not "1"$'),
        (Plain, {"depth": 1}, r'^\[filters\] plain: the filter "plain" has no settings$'),
    ],
)
def test_wrong_settings(filter_class: type[Filter], layer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.settings_for(filter_class, layer)


def config_with(protocol: ProtocolDefinition, **tables: Any) -> Config:
    listener = ListenerConfig(
        name="a",
        bind=Endpoint("127.0.0.1", 0),
        protocol=protocol.name,
        upstream=Endpoint("127.0.0.1", 1),
        filters=tables.pop("of_listener", {}),
    )
    protocols = dict.fromkeys((*BUILT_IN, protocol))
    return Config((listener,), filters=tables, protocols=tuple(protocols))


def test_check_accepts_what_is_right(install: Install) -> None:
    install("extra", SOURCE, sound="Sound")
    protocol = ProtocolDefinition("p", filters=("sound",))
    registry.check(config_with(protocol, sound={"depth": 2}, of_listener={"sound": {"name": "y"}}))


@pytest.mark.parametrize(
    ("filters", "tables", "places"),
    [
        (("gone",), {}, {("protocols", 4, "filters", 0)}),
        (("sound", "gone"), {}, {("protocols", 4, "filters", 1)}),
        (("bad",), {}, {("protocols", 4, "filters", 0)}),
        (("strict",), {}, {("filters", "strict", "depth")}),
        # What only a listener sets is missing for the filter as a whole.
        (("strict",), {"of_listener": {"strict": {"depth": 1}}}, {("filters", "strict", "depth")}),
        (("sound",), {"gone": {}}, {("filters", "gone")}),
        (
            ("sound",),
            {"sound": {"x": 1, "depth": ""}},
            {("filters", "sound", "depth"), ("filters", "sound", "x")},
        ),
        (
            ("sound",),
            {"of_listener": {"sound": {"x": 1}}},
            {("listeners", 0, "filters", "sound", "x")},
        ),
        (("sound",), {"of_listener": {"plain": {}}}, {("listeners", 0, "filters", "plain")}),
        (
            ("sound",),  # a mistake of the common table is not repeated for each listener
            {"sound": {"x": 1}, "of_listener": {"sound": {"depth": 1}}},
            {("filters", "sound", "x")},
        ),
    ],
)
def test_check_finds_every_problem(
    install: Install, filters: tuple[str, ...], tables: Any, places: set[tuple[str | int, ...]]
) -> None:
    install("extra", SOURCE, sound="Sound", plain="Plain", strict="Strict")
    install("broken", "raise SystemError", bad="Bad")
    with pytest.raises(ConfigError) as caught:
        registry.check(config_with(ProtocolDefinition("p", filters=filters), **tables))
    assert {place for place, _ in caught.value.problems} == places


def test_the_filter_of_a_built_in_protocol_is_needed_where_the_protocol_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints())
    registry.check(config_with(ProtocolDefinition("p")))
    with pytest.raises(ConfigError) as caught:
        registry.check(config_with(FTP))
    assert [place for place, _ in caught.value.problems] == [("listeners", 0, "protocol")]


OWN_PROTOCOL = """
[[listeners]]
name = "a"
bind = "127.0.0.1:0"
upstream = "127.0.0.1:1"
protocol = "p"
[[protocols]]
name = "p"
filters = ["sound"]
"""


def test_a_protocol_of_a_file_names_its_filters(install: Install) -> None:
    install("extra", SOURCE, sound="Sound")
    assert parse(OWN_PROTOCOL, check=registry.check).protocols[0].filters == ("sound",)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (OWN_PROTOCOL.replace('"sound"', '"sond"'), '9: [[protocols]] "p" filters, item 1'),
        (
            f'{OWN_PROTOCOL}[[protocols]]\nname = "unused"\nfilters = ["sound",\n"sond"]',
            '13: [[protocols]] "unused" filters, item 2',
        ),
    ],
)
def test_a_protocol_of_a_file_names_its_filters_rightly(
    install: Install, text: str, place: str
) -> None:
    install("extra", SOURCE, sound="Sound")
    with pytest.raises(ConfigError) as caught:
        parse(text, "p.toml", registry.check)
    problem = 'there is no filter "sond"; did you mean "sound"?'
    assert str(caught.value) == f"p.toml:{place}: {problem}"


def test_settings_in_a_file_are_reported_with_their_lines() -> None:
    text = """
[[listeners]]
name = "a"
bind = "127.0.0.1:0"
upstream = "127.0.0.1:1"
protocol = "ftp"
[listeners.filters.ftp]
no_such_setting = 1
[filters.fpt]
x = 1
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, "p.toml", registry.check)
    first, second = str(caught.value).splitlines()
    assert first.startswith('p.toml:8: [listeners.filters.ftp] "a" no_such_setting: unknown key')
    assert second == 'p.toml:9: [filters] fpt: there is no filter "fpt"; did you mean "ftp"?'
