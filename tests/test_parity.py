"""`docs/api-parity.md` is true: its names and tests exist, and no name of the API is missing."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import fwproxy
from fwproxy import Connection, DataFilter, Filter, IpFilter, SecondaryFlags, Session, Verdict
from fwproxy import errors as all_errors
from fwproxy.connection.calls import ConnectionCalls
from fwproxy.events import Event
from fwproxy.filter import FilterSocket, Priority, SessionFilter
from fwproxy.session.calls import SessionCalls

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "api-parity.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith(("| original", "| |"))
]
STATEMENTS = {int(row[0][1:]): row for row in ROWS if re.fullmatch(r"S\d\d", row[0])}
NAMES = sorted(set(re.findall(r"`((?:fwproxy\.[a-z_.]+\.)?[A-Z]\w+(?:\.\w+)*)`", TEXT)))
MODEL_ONLY = {"CreateNetworkSocket", "HostAccessCheck", "PRIVATE", "PORT"}
"""What the text names as the model's."""


def all_tests() -> set[str]:
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
    return found


def has(owner: type, name: str) -> bool:
    """Tell whether objects of a class have an attribute, those that only __init__ sets included."""
    classes = [cls for cls in owner.__mro__ if cls.__module__.startswith("fwproxy")]
    return hasattr(owner, name) or any(
        name in vars(cls).get("__annotations__", {})
        or re.search(rf"\bself\.{name}\b.*=", inspect.getsource(cls))
        for cls in classes
    )


def resolves(dotted: str) -> bool:
    parts = dotted.split(".")
    owner: object = fwproxy
    if parts[0] == "fwproxy":
        owner, parts = importlib.import_module(".".join(parts[:2])), parts[2:]
    elif parts[0] == "FilterSocket":
        return has(FilterSocket, parts[1])
    for part in parts:
        if inspect.isclass(owner):
            return has(owner, part)
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def test_every_python_name_exists() -> None:
    assert [name for name in NAMES if name not in MODEL_ONLY and not resolves(name)] == []


def test_every_test_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert named - all_tests() == set()


def test_every_row_has_a_name_and_a_test() -> None:
    wrong = [
        row for row in ROWS
        if len(row) != 3 or "`test_" not in row[2] or (row[0][0] != "S" and "`" not in row[1])
    ]  # fmt: skip
    assert wrong == []


def public_names(owner: type) -> set[str]:
    return {f"{owner.__name__}.{name}" for name in vars(owner) if not name.startswith("_")}


def members_that_a_page_must_have() -> set[str]:
    wanted = {f"SecondaryFlags.{flag.name}" for flag in SecondaryFlags if flag.value}
    wanted |= {f"Verdict.{verdict.name}" for verdict in Verdict}
    wanted |= {f"Priority.{priority.name}" for priority in Priority}
    wanted |= {f"fwproxy.events.{event.__name__}" for event in Event.__subclasses__()}
    wanted |= {f"fwproxy.errors.{name}" for name in leaf_errors()}
    for owner in (Filter, SessionFilter, DataFilter, FilterSocket):
        wanted |= public_names(owner)
    for calls, owner in ((SessionCalls, Session), (ConnectionCalls, Connection)):
        for name, value in vars(calls).items():
            if not name.startswith("_") and inspect.isfunction(value):
                wanted.add(f"{owner.__name__}.{name}")
    wanted |= public_names(IpFilter)
    return wanted - NOT_OF_THE_MODEL


NOT_OF_THE_MODEL = {
    "Connection.connect",  # a gateway's, which the model has not
    "Connection.is_denied", "Connection.is_played_by", "Connection.takes_filters",
    "Connection.place", "Connection.close",  # the engine's own
    "Filter.settings",
    "IpFilter.only", "IpFilter.everyone",  # short for a filter and its first inclusion
    "IpFilter.of_numbers", "IpFilter.spans",
}  # fmt: skip


def leaf_errors() -> list[str]:
    kinds = [
        kind for kind in vars(all_errors).values()
        if inspect.isclass(kind) and issubclass(kind, all_errors.CallError)
    ]  # fmt: skip
    return [kind.__name__ for kind in kinds if not is_group(kind)]


def is_group(kind: type) -> bool:
    return kind.__name__ in {"CallError", "DeniedError", "AddressError"}


def test_nothing_of_the_api_is_missing() -> None:
    assert members_that_a_page_must_have() - set(NAMES) == set()


@pytest.mark.parametrize("number", range(1, 42))
def test_every_statement_names_its_tests(number: int) -> None:
    names = re.findall(r"`(test_\w+)`", STATEMENTS[number][2])
    assert names
    for name in names:
        first, to, second = re.match(r"test_s(\d\d)_(?:(to_)?s(\d\d)_)?", name).groups()
        low, high = int(first), int(second or first)
        assert low <= number <= high if to else number in {low, high}


def test_the_check_itself_notices_what_is_not_there() -> None:
    wrong = ["Session.bind_for_nobody", "fwproxy.events.Nothing", "Nothing", "FilterSocket.sing"]
    assert not any(resolves(name) for name in wrong)
    assert all(resolves(name) for name in ["Session.client_address", "DataFilter.to_client"])
