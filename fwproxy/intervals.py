"""Sets of whole numbers, and maps from nested ranges, that a binary search looks up.

A set is the sorted tuple of the numbers where membership changes: from the first one on it holds
them, from the second one on not, and so forth. So a number is a member if an odd number of bounds
is at or below it, equal sets are equal tuples, and combining two is one walk along both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Bounds = tuple[int, ...]

_T = TypeVar("_T")


def union_of(ranges: Iterable[tuple[int, int]]) -> Bounds:
    """Return the set of all numbers in *ranges*, each from its first to before its second end."""
    bounds: list[int] = []
    for low, end in sorted(ranges):
        if bounds and low <= bounds[-1]:
            bounds[-1] = max(bounds[-1], end)
        else:
            bounds += (low, end)
    return tuple(bounds)


def combine(one: Bounds, other: Bounds, keep: Callable[[int, int], int]) -> Bounds:
    """Return the set of numbers for which *keep* holds; it gets 1 for each set that has them."""
    bounds: list[int] = []
    i = j = inside = 0
    while i < len(one) or j < len(other):
        if j == len(other) or (i < len(one) and one[i] < other[j]):
            at, i = one[i], i + 1
        elif i == len(one) or other[j] < one[i]:
            at, j = other[j], j + 1
        else:
            at, i, j = one[i], i + 1, j + 1
        if keep(i & 1, j & 1) != inside:
            inside ^= 1
            bounds.append(at)
    return tuple(bounds)


def ranges_of(bounds: Bounds) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a set, each from its first to before its second end."""
    return zip(bounds[::2], bounds[1::2], strict=True)


class NestedMap(Generic[_T]):
    """A map from ranges that are apart or nested; the innermost one has a number's value.

    Prefixes of addresses are such ranges, and the innermost one is the longest prefix. They are
    flattened once, so that a look-up is one search however many there are.
    """

    def __init__(self, ranges: Iterable[tuple[int, int, _T]]) -> None:
        self._starts: list[int] = []
        self._values: list[_T | None] = []
        self._flatten(sorted(ranges, key=lambda each: (each[0], -each[1])))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def _flatten(self, ranges: list[tuple[int, int, _T]]) -> None:
        around: list[tuple[int, _T]] = []
        for low, end, value in ranges:
            self._leave(around, low)
            self._turn(low, value)
            around.append((end, value))
        self._leave(around, None)

    def _leave(self, around: list[tuple[int, _T]], until: int | None) -> None:
        """Fall back to the next outer range at the end of each that ends before *until*."""
        while around and (until is None or around[-1][0] <= until):
            end, _ = around.pop()
            self._turn(end, around[-1][1] if around else None)

    def _turn(self, at: int, value: _T | None) -> None:
        if self._starts and self._starts[-1] == at:
            self._starts.pop()
            self._values.pop()
        if (self._values[-1] if self._values else None) != value:
            self._starts.append(at)
            self._values.append(value)

    def get(self, number: int) -> _T | None:
        """Return the value at *number*, or None."""
        place = bisect_right(self._starts, number)
        return self._values[place - 1] if place else None

    def numbers_of(self, value: _T) -> Bounds:
        """Return the numbers that have this value."""
        ends = [*self._starts[1:], 0]  # the last range is the one after all others: it has no value
        each = zip(self._starts, ends, self._values, strict=True)
        return union_of((low, end) for low, end, found in each if found == value)
