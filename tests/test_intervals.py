"""Sets of numbers and maps from nested ranges, against plain ones."""

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.intervals import NestedMap, combine, ranges_of, union_of

TOP = 20
RANGES = st.lists(
    st.tuples(st.integers(0, TOP), st.integers(1, 6)).map(lambda pair: (pair[0], sum(pair))),
    max_size=6,
)


def members(ranges):
    return {number for low, end in ranges for number in range(low, end)}


@given(RANGES)
def test_a_union_holds_what_its_ranges_hold_and_has_one_form(ranges):
    made = union_of(ranges)
    assert members(ranges_of(made)) == members(ranges)
    assert list(made) == sorted(set(made))
    assert made == union_of(reversed(ranges)) == union_of(ranges_of(made))


@pytest.mark.parametrize("keep", [operator.or_, operator.and_, operator.gt, operator.xor])
@given(RANGES, RANGES)
def test_sets_combine_like_sets(keep, one, other):
    found = set(members(ranges_of(combine(union_of(one), union_of(other), keep))))
    expected = {n for n in range(2 * TOP) if keep(n in members(one), n in members(other))}
    assert found == expected


# Prefixes of a universe of 32 numbers: apart or nested, as those of addresses are.
PREFIXES = st.lists(
    st.tuples(st.integers(0, 31), st.integers(0, 5)).map(
        lambda pair: (pair[0] >> pair[1] << pair[1], (pair[0] >> pair[1] << pair[1]) + 2 ** pair[1])
    ),
    max_size=8,
    unique=True,
)


@given(PREFIXES)
def test_the_innermost_range_has_a_number(prefixes):
    named = [(low, end, f"{low}-{end}") for low, end in prefixes]
    made = NestedMap(named)
    assert bool(made) is bool(prefixes)
    found = {}
    for number in range(-1, 34):
        holding = [each for each in named if each[0] <= number < each[1]]
        best = min(holding, key=lambda each: each[1] - each[0], default=(0, 0, None))[2]
        assert made.get(number) == best
        found.setdefault(best, set()).add(number)
    for _, _, name in named:
        assert members(ranges_of(made.numbers_of(name))) == found.get(name, set())


def test_neighbours_of_the_same_value_are_one_range():
    made = NestedMap([(0, 4, "a"), (4, 8, "a"), (8, 12, "b")])
    assert made.numbers_of("a") == (0, 8)
    assert made.numbers_of("c") == ()
