"""`docs/statements.md` is true: each statement has a test, and its table is that of the code."""

import re
from pathlib import Path

import pytest

from fwproxy import SecondaryFlags
from fwproxy.secondary.flag_rules import ADDRESS_FLAGS, REFUSED

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "statements.md").read_text(encoding="utf-8")
TESTS = [*(ROOT / "tests").rglob("test_*.py")]


def numbers_of_tests():
    found = set()
    for path in TESTS:
        for first, second in re.findall(r"def test_s(\d+)_(?:(?:to_)?s(\d+)_)?", path.read_text()):
            found |= {int(first), int(second or first)}
    return found


def test_every_statement_has_a_test_that_is_named_by_its_number():
    described = {int(number) for number in re.findall(r"^\| S(\d+) \|", TEXT, re.MULTILINE)}
    assert described == set(range(42, max(described) + 1))
    assert {*range(1, 42), *described} - numbers_of_tests() == set()


def test_no_test_is_named_by_a_number_that_nobody_knows():
    described = {int(number) for number in re.findall(r"^\| S(\d+) \|", TEXT, re.MULTILINE)}
    assert numbers_of_tests() <= {*range(1, 42), *described}


def flag_table():
    head, _, *rows = re.search(r"^\| flag \|.*(?:\n\|.*)+", TEXT, re.MULTILINE)[0].splitlines()
    calls = re.findall(r"`(\w+)`", head)
    for row in rows:
        name, *answers = [cell.strip() for cell in row.strip("|").split("|")]
        flags = ADDRESS_FLAGS if name.startswith("ALLOW_ADDRESSES") else SecondaryFlags[name]
        for flag in flags:
            yield from ((call, flag, answer) for call, answer in zip(calls, answers, strict=True))


@pytest.mark.parametrize(("call", "flag", "answer"), list(flag_table()))
def test_the_table_of_flags_is_that_of_the_code(call, flag, answer):
    assert (flag in REFUSED[call]) == (answer == "no")


def test_the_table_of_flags_is_whole():
    assert {call for call, _, _ in flag_table()} == set(REFUSED)
    assert {flag for _, flag, _ in flag_table()} == set(SecondaryFlags)
