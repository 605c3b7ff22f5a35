import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.errors import InvalidArgumentError
from fwproxy.testing import every_split
from fwproxy.testing.strategies import cut
from fwproxy_filters.ftp.errors import FtpSyntaxError, MalformedReplyError
from fwproxy_filters.ftp.replies import ReplyLine, ReplyReader, format_reply

BAD = MalformedReplyError


def read(pieces, **options):
    reader = ReplyReader(**options)
    return [item for piece in pieces for item in reader.feed(piece)]


def outcome(items):
    """Replies as (code, raw lines), and the class of an error."""
    replies = []
    for item in items:
        if isinstance(item, MalformedReplyError):
            replies.append(BAD)
        elif item.is_first:
            replies.append((item.code, [item.raw]))
        else:
            assert item.code == replies[-1][0]
            replies[-1][1].append(item.raw)
    return replies


GOOD = [
    (b"220 Ready\r\n", [(220, [b"220 Ready\r\n"])]),
    (b"220 \r\n", [(220, [b"220 \r\n"])]),
    (b"631 c2VjcmV0\r\n", [(631, [b"631 c2VjcmV0\r\n"])]),
    (b"150 Wait\r\n226 Done\r\n", [(150, [b"150 Wait\r\n"]), (226, [b"226 Done\r\n"])]),
    (b"220-a\r\n220 b\r\n", [(220, [b"220-a\r\n", b"220 b\r\n"])]),
    (b"220-\r\n\r\n220 \r\n", [(220, [b"220-\r\n", b"\r\n", b"220 \r\n"])]),
    # a code alone (small embedded servers) gets its space
    (b"331\r\n", [(331, [b"331 \r\n"])]),
    (b"220-a\r\n220\r\n", [(220, [b"220-a\r\n", b"220 \r\n"])]),
    # free text in between, with and without a code in front
    (
        b"211-Features:\r\n MDTM\r\n\r\n\tSIZE\r\n211 End\r\n",
        [(211, [b"211-Features:\r\n", b" MDTM\r\n", b"\r\n", b"\tSIZE\r\n", b"211 End\r\n"])],
    ),
    (
        b"230-a\r\n230-b\r\n220-c\r\n 230 d\r\n230 e\r\n",
        [(230, [b"230-a\r\n", b"230-b\r\n", b"220-c\r\n", b" 230 d\r\n", b"230 e\r\n"])],
    ),
    (
        b"213-Status follows:\r\ndrwxr-xr-x 2 0 0 4096 Nov 21 20:20 .\r\n213 End\r\n",
        [
            (
                213,
                [
                    b"213-Status follows:\r\n",
                    b"drwxr-xr-x 2 0 0 4096 Nov 21 20:20 .\r\n",
                    b"213 End\r\n",
                ],
            )
        ],
    ),
    # lines that some client would take for the last one are padded
    (
        b"230-a\r\n226 b\r\n2301 c\r\n4045 d\r\n404\r\n230 e\r\n",
        [
            (
                230,
                [
                    b"230-a\r\n",
                    b" 226 b\r\n",
                    b" 2301 c\r\n",
                    b"4045 d\r\n",
                    b"404\r\n",
                    b"230 e\r\n",
                ],
            )
        ],
    ),
    (
        b"220-a\r\n227 Entering Passive Mode (1,2,3,4,5,6)\r\n220 b\r\n",
        [
            (
                220,
                [
                    b"220-a\r\n",
                    b" 227 Entering Passive Mode (1,2,3,4,5,6)\r\n",
                    b"220 b\r\n",
                ],
            )
        ],
    ),
    (b"220 \xff\xff\xe9 \xe5\x90\x8d\r\n", [(220, [b"220 \xff\xff\xe9 \xe5\x90\x8d\r\n"])]),
]

MALFORMED = [
    b"\r\n",
    b"Welcome\r\n",
    b" 220 Ready\r\n",
    b"22 Ready\r\n",
    b"2200 Ready\r\n",
    b"220Ready\r\n",
    b"220\tReady\r\n",
    b"220_Ready\r\n",
    b"099 a\r\n",
    b"700 a\r\n",
    b"999 a\r\n",
    b"-20 a\r\n",
    b"+20 a\r\n",
    b"2 0 a\r\n",
    b"\xd9\xa2\xd9\xa2\xd9\xa0 a\r\n",
    b"SSH-2.0-x\r\n",
    b"HTTP/1.1 400 Bad Request\r\n",
    b"\x15\x03\x01\0\x02\x02\r\n",
    # injections
    b"220 a\n220 b\r\n",
    b"220 a\r220 b\r\n",
    b"220 a\0b\r\n",
    b"220-a\r\n b\n220 c\r\n220 d\r\n",
    b"220-a\r\n b\rc\r\n220 d\r\n",
    b"220-a\r\n \0\r\n220 d\r\n",
    b"220 a\r\r\n",
    b"220 a\r\0\r\n",
    # a line that is too long
    b"220 " + b"x" * 100 + b"\r\n",
    b"220-a\r\n" + b"x" * 101 + b"\r\n220 b\r\n",
    b"x" * 101,
]


@pytest.mark.parametrize(("data", "replies"), GOOD)
def test_replies_are_read_in_every_split(data, replies):
    for pieces in every_split(data):
        assert outcome(read(pieces)) == replies, pieces


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:40]))
def test_nothing_follows_a_malformed_reply(data):
    expected = outcome(read([b"200 ok\r\n" + data], max_line_length=100))
    assert expected[0] == (200, [b"200 ok\r\n"])
    assert expected[-1] is BAD
    for pieces in every_split(b"200 ok\r\n" + data + b"\r\n226 more\r\n"):
        assert outcome(read(pieces, max_line_length=100)) == expected


def test_a_reply_has_a_bounded_number_of_lines():
    data = b"211-a\r\n" + b" x\r\n" * 8 + b"211 b\r\n"
    assert outcome(read([data], max_lines=10))[-1] is not BAD
    assert outcome(read([data], max_lines=9))[-1] is BAD


def test_a_long_reply_passes_without_being_held():
    reader = ReplyReader()
    assert len(reader.feed(b"213-Status\r\n")) == 1
    chunk = b"-rw-r--r-- 1 ftp ftp 0 Jan 01 2020 name\r\n" * 1000
    for _ in range(100):
        assert len(reader.feed(chunk)) == 1000
    (last,) = reader.feed(b"213 End\r\n")
    assert last.is_last
    assert reader.is_between_replies


def test_the_reader_knows_whether_it_is_between_replies():
    reader = ReplyReader()
    assert reader.is_between_replies
    reader.feed(b"22")
    assert not reader.is_between_replies
    reader.feed(b"0-a\r\n")
    assert not reader.is_between_replies
    reader.feed(b"220 b\r\n")
    assert reader.is_between_replies
    reader.feed(b"oops\r\n")
    assert not reader.is_between_replies


def test_lf_alone_may_be_accepted_and_becomes_crlf():
    items = read([b"220-a\n b\n220\n200 c\r\n"], accept_lf=True)
    assert outcome(items) == [
        (220, [b"220-a\r\n", b" b\r\n", b"220 \r\n"]),
        (200, [b"200 c\r\n"]),
    ]


def test_pending_bytes_can_be_taken_when_replies_end_here():
    reader = ReplyReader()
    assert len(reader.feed(b"234 go\r\n\x16\x03")) == 1
    assert reader.take_pending() == b"\x16\x03"
    assert reader.is_between_replies


def test_texts_are_read_and_replaced():
    first, second, third, last = read([b"211-a\r\n b\r\n211-c\r\n211 d\r\n"])
    assert [line.text for line in (first, second, third, last)] == [b"a", b" b", b"c", b"d"]
    assert first.with_text(b"x").raw == b"211-x\r\n"
    assert second.with_text(b" x").raw == b" x\r\n"
    assert third.with_text(b"x").raw == b"211-x\r\n"
    assert last.with_text(b"") == ReplyLine(211, is_first=False, is_last=True, raw=b"211 \r\n")
    (bare,) = read([b"331\r\n"])
    assert bare.text == b""
    assert bare.with_text(b"Password").raw == b"331 Password\r\n"
    for bad in (b"a\r", b"a\n", b"\0"):
        with pytest.raises(InvalidArgumentError):
            bare.with_text(bad)


def test_replies_are_formatted():
    assert format_reply(220, b"Ready") == b"220 Ready\r\n"
    assert format_reply(211, b"a", b"211 b", b"c") == b"211-a\r\n 211 b\r\n211 c\r\n"
    for code, *texts in [(99, b"a"), (700, b"a"), (220,), (220, b"a\r\n221 b"), (220, b"a", b"\0")]:
        with pytest.raises(InvalidArgumentError):
            format_reply(code, *texts)


TEXT = st.binary(max_size=20).filter(lambda text: not set(text) & {0, 10, 13})


@given(st.integers(100, 699), st.lists(TEXT, min_size=1, max_size=8))
def test_what_is_formatted_is_read_again(code, texts):
    (reply,) = outcome(read([format_reply(code, *texts)]))
    assert reply == (code, format_reply(code, *texts).splitlines(keepends=True))
    lines = read([format_reply(code, *texts)])
    assert lines[0].text == texts[0]
    assert lines[-1].text == texts[-1]
    assert [line.text[1:] for line in lines[1:-1]] == texts[1:-1]


STREAM = st.lists(
    st.one_of(
        st.sampled_from([b"220", b"211", b"404", b"-", b" ", b"x", b"\r\n", b"220 a\r\n", b"220-"]),
        st.sampled_from([b"\n", b"\r", b"\0"]) | st.binary(max_size=3),
    ),
    max_size=30,
).map(b"".join)


@given(cut(STREAM))
def test_segmentation_never_changes_the_replies(pieces):
    assert outcome(read([b"".join(pieces)])) == outcome(read(pieces))


def ends_by_rfc_959(code, line):
    return line.startswith(code + b" ")


def ends_after_any_code(code, line):
    return line[:3].isdigit() and line[3:4] == b" "


def ends_unless_hyphenated(code, line):
    return line[:3] == code and line[3:4] != b"-"


LINES = st.lists(
    st.sampled_from([b"220", b"230", b"404", b"22", b"", b" "]).flatmap(
        lambda head: st.sampled_from([b"-", b" ", b"", b"x", b"0"]).map(lambda tail: head + tail)
    ),
    max_size=12,
)


@given(LINES)
def test_every_client_sees_the_same_end_of_a_reply(lines):
    data = b"220-first\r\n" + b"".join(line + b"\r\n" for line in lines)
    for item in read([data])[1:]:
        if isinstance(item, MalformedReplyError) or item.is_first:
            break
        for ends in (ends_by_rfc_959, ends_after_any_code, ends_unless_hyphenated):
            assert ends(b"220", item.raw) == item.is_last, (ends, item)


@given(LINES)
def test_lines_change_by_a_space_at_most(lines):
    items = read([b"220-\r\n" + b"".join(line + b"\r\n" for line in lines)])[1:]
    for line, item in zip(lines, items, strict=False):
        if isinstance(item, MalformedReplyError):
            break
        assert item.raw[:-2] in (line, b" " + line, line + b" ")


def test_errors_keep_the_servers_words_from_the_client():
    (error,) = read([b"secret words\r\n"])
    assert isinstance(error, FtpSyntaxError)
    assert error.reply == b"421 The server's reply cannot be read, closing the connection\r\n"
    assert str(error) == "the server's reply cannot be read: a reply begins with no code"
