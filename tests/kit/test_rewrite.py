"""Messages with other bytes in them: nothing else differs but what counts those bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwproxy.kit.places import Edit
from fwproxy.kit.rewrite import (
    RewriteError,
    apply_edits,
    bulk,
    counted,
    fix_content_length,
    read_bulk,
    read_counted,
)

LONGEST = 1 << 20


@given(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5), st.binary(max_size=5))))
@settings(max_examples=100)
def test_what_is_not_edited_stays(parts):
    """Each part is kept bytes, bytes that go, and those that come instead."""
    message, edits = b"", []
    for kept, old, new in parts:
        start = len(message) + len(kept)
        message += kept + old + b"|"
        edits.append(Edit(start, start + len(old), new))
    wanted = b"".join(kept + new + b"|" for kept, _, new in parts)
    assert apply_edits(message, reversed(edits), max_length=LONGEST) == wanted


@pytest.mark.parametrize(
    "edits",
    [
        [Edit(0, 3, b""), Edit(2, 4, b"")],
        [Edit(3, 2, b"")],
        [Edit(-1, 2, b"")],
        [Edit(0, 7, b"")],
        [Edit(0, 0, b"12345")],
    ],
)
def test_edits_that_make_no_sense(edits):
    with pytest.raises(RewriteError):
        apply_edits(b"abcdef", edits, max_length=10)


@pytest.mark.parametrize("spelled", [">h", ">i", "<i", ">B", "<Q"])
@given(before=st.binary(max_size=9), old=st.binary(max_size=99), new=st.binary(max_size=99))
@settings(max_examples=30)
def test_a_length_prefix_follows_its_bytes(spelled, before, old, new):
    message = before + counted(old, spelled) + b"after"
    found = read_counted(message, len(before), spelled, max_length=99)
    assert found.data == old
    changed = apply_edits(message, [found.edit(new)], max_length=LONGEST)
    assert changed == before + counted(new, spelled) + b"after"


@pytest.mark.parametrize("message", [b"", b"\0", b"\0\x02a", b"\xff\xffab", b"\0\x09123456789"])
def test_a_length_that_is_wrong(message):
    with pytest.raises(RewriteError):
        read_counted(message, 0, ">h", max_length=8)


def test_a_length_that_has_no_room():
    with pytest.raises(RewriteError):
        counted(bytes(256), ">B")


@given(old=st.binary(max_size=99), new=st.binary(max_size=99))
@settings(max_examples=50)
def test_a_bulk_string_follows_its_bytes(old, new):
    message = b"*2\r\n" + bulk(old) + bulk(b"after")
    found = read_bulk(message, 4, max_length=99)
    assert found.data == old
    changed = apply_edits(message, [found.edit(new)], max_length=LONGEST)
    assert changed == b"*2\r\n" + bulk(new) + bulk(b"after")


@pytest.mark.parametrize(
    "message",
    [
        b"", b"$", b"$-1\r\n", b"$01\r\na\r\n", b"$1\na\r\n", b"$2\r\na\r\n", b"$1\r\nab",
        b"$9\r\n123456789\r\n", b"$99999999999\r\n", b"$+1\r\na\r\n",
    ],
)  # fmt: skip
def test_a_bulk_string_that_is_wrong(message):
    with pytest.raises(RewriteError):
        read_bulk(message, 0, max_length=8)


@given(st.binary(max_size=40), st.integers(0, 40))
@settings(max_examples=100)
def test_garbage_is_an_error_or_what_stands_there(message, start):
    for read, write in (
        (lambda: read_bulk(message, start, max_length=30), bulk),
        (lambda: read_counted(message, start, ">B", max_length=30), lambda d: counted(d, ">B")),
    ):
        try:
            found = read()
        except RewriteError:
            continue
        assert message[found.start : found.end] == write(found.data)


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length ", b"l"])
def test_content_length_is_that_of_the_body(name):
    head = b"INVITE x SIP/2.0\r\n" + name + b": 3\r\nVia: y\r\n\r\n"
    assert fix_content_length(head + b"12345") == head.replace(b": 3", b": 5") + b"12345"
    assert fix_content_length(head) == head.replace(b": 3", b": 0")


@given(st.binary(max_size=60), st.integers(0, 99))
@settings(max_examples=50)
def test_nothing_but_the_length_differs(body, length):
    message = b"A: b\r\nContent-Length: %d\r\nC: d\r\n\r\n%b" % (length, body)
    fixed = fix_content_length(message)
    assert fixed == b"A: b\r\nContent-Length: %d\r\nC: d\r\n\r\n%b" % (len(body), body)


def test_without_a_body_nothing_is_needed():
    message = b"OPTIONS x SIP/2.0\r\nVia: y\r\n\r\n"
    assert fix_content_length(message) == message


@pytest.mark.parametrize(
    "head",
    [
        b"A: b\r\n\r\n",
        b"Content-Length: 3\r\nl: 3\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: x\r\n\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: +3\r\n\r\n",
        b"Content-Length: 3\r\n",
    ],
)
def test_a_message_whose_length_is_in_doubt(head):
    with pytest.raises(RewriteError):
        fix_content_length(head + b"abc")


def test_a_long_head_takes_no_time():
    head = b"l:" + b" " * 200_000 + b"x\r\n\r\n"
    with pytest.raises(RewriteError, match="how long"):
        fix_content_length(head + b"abc")
