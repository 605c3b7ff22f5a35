"""Ways to cut an input into pieces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import strategies as st


def every_split(data: bytes) -> Iterator[list[bytes]]:
    """The whole, byte by byte, and every way to cut it in two."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(1, len(data)):
        yield [data[:i], data[i:]]


@st.composite
def cut(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> list[bytes]:
    """Some bytes, in pieces."""
    data = draw(contents)
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=20))
    bounds = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]
