"""Every split of an input leads to the same, or the test hears which one does not."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy import DataFilter, Handled
from fwproxy.kit.lines import LineReader
from fwproxy.kit.primary_filter import PrimaryFilter
from fwproxy.testing import Script, assert_all_alike, assert_splits_agree, every_split
from fwproxy.testing.strategies import cut, endpoints


def test_every_split() -> None:
    assert list(every_split(b"abc")) == [
        [b"abc"],
        [b"a", b"b", b"c"],
        [b"a", b"bc"],
        [b"ab", b"c"],
    ]
    assert list(every_split(b"")) == [[b""], []]


@given(st.data())
def test_a_cut_loses_nothing(data: st.DataObject) -> None:
    whole = data.draw(st.binary(max_size=40))
    assert b"".join(data.draw(cut(st.just(whole)))) == whole


@given(endpoints(), endpoints(6))
def test_endpoints(one: object, six: object) -> None:
    assert one.port  # type: ignore[attr-defined]
    assert six.version == 6  # type: ignore[attr-defined]


def test_a_reader_whose_items_do_not_depend_on_the_cuts() -> None:
    def read(pieces: list[bytes]) -> list[object]:
        reader = LineReader(10)
        return list(itertools.chain.from_iterable(map(reader.feed, pieces)))

    assert assert_all_alike(read, every_split(b"one\r\ntwo\n")) == [b"one", b"two"]  # type: ignore[arg-type]


def test_one_whose_items_do() -> None:
    with pytest.raises(AssertionError, match=r"cut into \[b'a', b'b', b' ', b'c'\]"):
        assert_all_alike(lambda pieces: [piece.split() for piece in pieces], every_split(b"ab c"))


class Careless(DataFilter):
    """Looks for a word in each piece by itself."""

    def data_from_client(self, data: bytes) -> Handled:
        self.to_server.send(data.replace(b"secret", b"******"))
        return None


class CarelessFilter(PrimaryFilter):
    name = "careless"
    data_filter = Careless


def test_a_filter_that_depends_on_the_cuts() -> None:
    assert_splits_agree(lambda: Script(CarelessFilter), b"public")
    with pytest.raises(AssertionError, match="instead of"):
        assert_splits_agree(lambda: Script(CarelessFilter), b"a secret")


def test_either_side_with_something_before_and_after() -> None:
    outcome = assert_splits_agree(
        lambda: Script(CarelessFilter),
        b"ab",
        speaker="server",
        before=lambda script: script.client.send(b"hello"),
        after=lambda script: script.client.end(),
        splits=[[b"ab"], [b"a", b"", b"b"]],
    )
    assert outcome.to_server == b"hello"
    assert outcome.to_client == b"ab"
    assert (outcome.client_left, outcome.server_left) == ("open", "ended")
    assert [name for name, *_ in outcome.calls] == ["attach_data_filter"]
    assert outcome.open == ()
