"""The lines of keys in TOML, compared with what tomllib reads."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from fwproxy.config.toml_lines import line_of, scan


def test_lines_of_every_spelling() -> None:
    text = '''\
# a comment with [brackets] = "and quotes"
top.dotted = 1 # comment
"quoted.key" = """
[not.a.table]
key = 1 \\""" " """
'literal' = \'\'\'
x = 'y' \'\'\'
array = [
  1, # one
  [2, "]"],
  { inline = true, other.dotted = "}" },
]

[ table . "sub.table" ]
a = 1979-05-27T07:32:00Z
[[list]]
x = 1
[list.inner]
y = 2
[[list]]
x = 3
[[list.deep]]
z = 4
[[list.deep]]
z = 5
'''
    lines = scan(text)
    expected = {
        ("top",): 2,
        ("top", "dotted"): 2,
        ("quoted.key",): 3,
        ("literal",): 6,
        ("array",): 8,
        ("array", 0): 9,
        ("array", 1): 10,
        ("array", 1, 1): 10,
        ("array", 2, "inline"): 11,
        ("array", 2, "other", "dotted"): 11,
        ("table", "sub.table"): 14,
        ("table", "sub.table", "a"): 15,
        ("list",): 16,
        ("list", 0, "inner", "y"): 19,
        ("list", 1): 20,
        ("list", 1, "x"): 21,
        ("list", 1, "deep", 0, "z"): 23,
        ("list", 1, "deep", 1, "z"): 25,
    }
    assert {place: lines[place] for place in expected} == expected
    assert line_of(lines, ("list", 1, "deep", 1, "unknown")) == 24
    assert line_of(lines, ("unknown",)) is None


def repr_toml(text: str) -> str:
    escaped = "".join(f"\\U{ord(c):08X}" if c in '"\\' or not c.isprintable() else c for c in text)
    return f'"{escaped}"'


keys = st.one_of(st.text("abc_-1", min_size=1), st.text(max_size=5).map(repr_toml))
values = st.recursive(
    st.one_of(st.integers().map(str), st.text(max_size=6).map(repr_toml), st.just("true")),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[ {', '.join(parts)} ]"),
    max_leaves=6,
)


@given(st.lists(st.tuples(keys, values), max_size=5), st.lists(keys, max_size=3, unique=True))
def test_the_scanner_finds_every_key_that_tomllib_finds(
    pairs: list[tuple[str, str]], tables: list[str]
) -> None:
    body = [f"{key} = {value}" for key, value in pairs]
    text = "\n".join(["[[t]]", *body, *(f"[t.{table}]\nk = 'v'" for table in tables)])
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = scan(text)
    for key, value in data["t"][0].items():
        assert ("t", 0, key) in lines
        if isinstance(value, dict):
            assert text.splitlines()[lines["t", 0, key, "k"] - 1] == "k = 'v'"
