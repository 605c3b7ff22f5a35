import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.errors import FwproxyError
from fwproxy.kit.lines import ForbiddenByteError, LineError, LineReader, LineTooLongError


def outcome(reader, pieces):
    """The lines, and the classes of the errors in their places."""
    items = [item for piece in pieces for item in reader.feed(piece)]
    return [type(item) if isinstance(item, LineError) else item for item in items]


def every_split(data):
    """The whole, byte by byte, and every way to cut it in two."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(1, len(data)):
        yield [data[:i], data[i:]]


LONG, FORBIDDEN = LineTooLongError, ForbiddenByteError

TABLE = [
    # options, input, lines, bytes left
    ({}, b"", [], 0),
    ({}, b"USER a\r\n", [b"USER a"], 0),
    ({}, b"USER a\n", [b"USER a"], 0),
    ({}, b"A\r\nB\nC", [b"A", b"B"], 1),
    ({}, b"\r\n\n\r\n", [b"", b"", b""], 0),
    ({}, b"A\r", [], 2),
    ({}, b"A\rB\r\nC\r\n", [FORBIDDEN, b"C"], 0),
    ({}, b"A\r\r\nC\r\n", [FORBIDDEN, b"C"], 0),
    ({}, b"A\0\r\nC\r\n", [FORBIDDEN, b"C"], 0),
    ({}, b"\0\n", [FORBIDDEN], 0),
    ({}, b"A\r\0B\r\nC\r\n", [FORBIDDEN, b"C"], 0),
    ({"accept_cr_nul": True}, b"A\r\0B\r\n", [b"A\r\0B"], 0),
    ({"accept_cr_nul": True}, b"A\r\0\0B\r\n", [FORBIDDEN], 0),
    ({"accept_cr_nul": True}, b"A\r\r\0B\r\n", [FORBIDDEN], 0),
    ({"accept_cr_nul": True}, b"A\0B\r\n", [FORBIDDEN], 0),
    ({"accept_lf": False}, b"A\r\nB\r\n", [b"A", b"B"], 0),
    ({"accept_lf": False}, b"A\nB\r\nC\r\n", [FORBIDDEN, b"C"], 0),
    ({"accept_lf": False}, b"A\n\r\n", [FORBIDDEN], 0),
    ({"accept_lf": False}, b"A\rB\r\nC\r\n", [FORBIDDEN, b"C"], 0),
    ({"accept_lf": False}, b"A\r\r\nC\r\n", [FORBIDDEN, b"C"], 0),
    ({"accept_lf": False}, b"A\n", [], 2),
    ({"keep_ends": True}, b"A\r\nB\nC", [b"A\r\n", b"B\n"], 1),
    ({"keep_ends": True, "accept_lf": False}, b"A\r\n\r\n", [b"A\r\n", b"\r\n"], 0),
    # ten bytes are the limit of every case
    ({}, b"0123456789\r\nB\r\n", [b"0123456789", b"B"], 0),
    ({}, b"0123456789\nB\n", [b"0123456789", b"B"], 0),
    ({}, b"0123456789A\r\nB\r\n", [LONG, b"B"], 0),
    ({}, b"0123456789A\nB\r\n", [LONG, b"B"], 0),
    ({}, b"0123456789\r\r\nB\r\n", [LONG, b"B"], 0),
    ({}, b"0123456789\rB\r\nC\r\n", [LONG, b"C"], 0),
    ({}, b"0123456789\0\r\nB\r\n", [LONG, b"B"], 0),
    ({}, b"\r\n0123456789AB", [b"", LONG], 0),
    ({}, b"0123456789\r", [], 11),
    ({"accept_lf": False}, b"0123456789\r\nB\r\n", [b"0123456789", b"B"], 0),
    ({"accept_lf": False}, b"0123456789A\nB\r\nC\r\n", [LONG, b"C"], 0),
    ({"accept_lf": False}, b"0123456789A\rB\nC\r\nD\r\n", [LONG, b"D"], 0),
    ({"accept_lf": False}, b"0123456789AB\r\r\r\nD\r\n", [LONG, b"D"], 0),
    ({"accept_lf": False}, b"0123456789AB\r", [LONG], 1),
]


@pytest.mark.parametrize(("options", "data", "lines", "left"), TABLE)
def test_lines_are_the_same_for_every_split(options, data, lines, left):
    for pieces in every_split(data):
        reader = LineReader(10, **options)
        assert outcome(reader, pieces) == lines, pieces
        assert reader.pending == left


@given(
    data=st.lists(
        st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"\r\0", b"a", b"bcd", b"0123456789"])
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 200)),
    accept_lf=st.booleans(),
    accept_cr_nul=st.booleans(),
    keep_ends=st.booleans(),
)
def test_segmentation_never_changes_the_lines(data, cuts, accept_lf, accept_cr_nul, keep_ends):
    options = {"accept_lf": accept_lf, "accept_cr_nul": accept_cr_nul, "keep_ends": keep_ends}
    whole, pieces = LineReader(10, **options), LineReader(10, **options)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    cut = [data[a:b] for a, b in itertools.pairwise(bounds)]
    assert outcome(whole, [data]) == outcome(pieces, cut)
    assert whole.pending == pieces.pending <= 11


@given(st.lists(st.binary(max_size=10).filter(lambda b: not set(b) & {0, 10, 13})))
def test_good_lines_come_out_unchanged(lines):
    reader = LineReader(10)
    assert reader.feed(b"".join(line + b"\r\n" for line in lines)) == lines


@given(st.binary())
def test_kept_ends_lose_nothing_but_faulty_lines(data):
    reader = LineReader(1000, keep_ends=True)
    items = reader.feed(data)
    if not any(isinstance(item, LineError) for item in items):
        assert b"".join(items) + reader.take_pending() == data


def test_the_tail_of_an_overlong_line_is_never_a_line():
    reader = LineReader(10)
    assert outcome(reader, [b"USER " + b"x" * 10]) == [LONG]
    assert reader.feed(b"DELE /etc/passwd") == []
    assert reader.feed(b"\r\nNOOP\r\n") == [b"NOOP"]


def test_an_overlong_line_is_reported_once_and_held_no_longer():
    reader = LineReader(10)
    assert outcome(reader, [b"x" * 11]) == [LONG]
    for _ in range(100):
        assert reader.feed(b"x" * 100_000) == []
        assert reader.pending == 0


def test_pending_bytes_can_be_taken_when_lines_end_here():
    reader = LineReader(10)
    assert reader.feed(b"AUTH TLS\r\n\x16\x03\x01") == [b"AUTH TLS"]
    assert reader.take_pending() == b"\x16\x03\x01"
    assert reader.pending == 0
    assert reader.feed(b"NOOP\r\n") == [b"NOOP"]


def test_errors_say_what_is_wrong():
    (long, forbidden) = LineReader(3).feed(b"abcd\r\n\0\rb\r\n")
    assert "max_line_length, 3" in str(long)
    assert str(forbidden) == "a line holds a NUL and a bare CR"
    assert isinstance(long, FwproxyError)
