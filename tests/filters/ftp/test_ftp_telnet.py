import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.testing import every_split
from fwproxy.testing.strategies import cut
from fwproxy_filters.ftp.telnet import MAX_SUBNEGOTIATION, TelnetSignal, TelnetStripper, unescape

NONE, IP, SYNCH = TelnetSignal.NONE, TelnetSignal.INTERRUPT, TelnetSignal.SYNCH
NEGOTIATION, OTHER = TelnetSignal.NEGOTIATION, TelnetSignal.OTHER

TABLE = [
    # input, output, signals, refusals
    (b"NOOP\r\n", b"NOOP\r\n", NONE, b""),
    (b"\xff\xf4\xff\xf2ABOR\r\n", b"ABOR\r\n", IP | SYNCH, b""),
    (b"\xff\xf2ABOR\r\n", b"ABOR\r\n", SYNCH, b""),
    (b"RETR a\r\n\xff\xf4\xffABOR\r\n", b"RETR a\r\n\xffABOR\r\n", IP, b""),
    (b"NO\xff\xf1OP\r\n", b"NOOP\r\n", OTHER, b""),
    (b"\xff\xf6\xff\xf3\xff\xf5\xff\xf7\xff\xf8\xff\xf9X", b"X", OTHER, b""),
    # options are refused
    (b"\xff\xfb\x01NOOP\r\n", b"NOOP\r\n", NEGOTIATION, b"\xff\xfe\x01"),
    (b"\xff\xfd\x03NOOP\r\n", b"NOOP\r\n", NEGOTIATION, b"\xff\xfc\x03"),
    (b"\xff\xfc\x01\xff\xfe\x03NOOP\r\n", b"NOOP\r\n", NEGOTIATION, b""),
    (b"\xff\xfd\x03" * 5 + b"\xff\xfb\x01", b"", NEGOTIATION, b"\xff\xfc\x03\xff\xfe\x01"),
    (b"\xff\xfa\x18\x00vt100\xff\xf0NOOP\r\n", b"NOOP\r\n", NEGOTIATION, b""),
    (b"\xff\xfa\xff\xf0X", b"X", NEGOTIATION, b""),
    (b"\xff\xf0X", b"X", OTHER, b""),
    # names with a byte 255
    (b"DELE \xff\xff.txt\r\n", b"DELE \xff\xff.txt\r\n", NONE, b""),
    (b"DELE \xff.txt\r\n", b"DELE \xff.txt\r\n", NONE, b""),
    (b"DELE \xff\r\n", b"DELE \xff\r\n", NONE, b""),
    (b"DELE \xff\xef\r\n", b"DELE \xff\xef\r\n", NONE, b""),
    (b"DELE \xff\xff\xf4\r\n", b"DELE \xff\xff\xf4\r\n", NONE, b""),
    (b"DELE \xff\xff\xff\xf4x\r\n", b"DELE \xff\xffx\r\n", IP, b""),
    (b"DELE \xff\xfb\r\n", b"DELE \xff\xfb\r\n", NONE, b""),
    (b"DELE \xff\xfe\n", b"DELE \xff\xfe\n", NONE, b""),
    (b"DELE \xff\xfa.txt\r\n", b"DELE \xff\xfa.txt\r\n", NONE, b""),
    (b"\xff\xfa\r\n\xff\xf0X", b"\xff\xfa\r\nX", OTHER, b""),
    (
        "STOR na\u00efve \u540d.txt\r\n".encode(),
        "STOR na\u00efve \u540d.txt\r\n".encode(),
        NONE,
        b"",
    ),
]


@pytest.mark.parametrize(("data", "output", "signals", "refusals"), TABLE)
def test_commands_are_taken_out_and_letters_stay(data, output, signals, refusals):
    for pieces in every_split(data):
        stripper = TelnetStripper()
        assert b"".join(map(stripper.feed, pieces)) == output, pieces
        assert stripper.pending == 0
        assert stripper.take_signals() == signals
        assert stripper.take_refusals() == refusals
        assert stripper.take_signals() == NONE
        assert stripper.take_refusals() == b""


PIECES = st.lists(
    st.one_of(
        st.sampled_from([b"\xff", b"\xfa", b"\xff\xf0", b"\r\n", b"\n", b"a", b"x" * 100]),
        st.sampled_from([b"\xff\xf4", b"\xff\xf2", b"\xfb", b"\xfd", b"\x01"]),
        st.binary(max_size=4),
    )
).map(b"".join)


@given(cut(PIECES))
def test_segmentation_never_changes_the_result(pieces):
    whole, parts = TelnetStripper(), TelnetStripper()
    data = b"".join(pieces)
    assert whole.feed(data) == b"".join(map(parts.feed, pieces))
    assert whole.pending == parts.pending < MAX_SUBNEGOTIATION
    assert whole.take_signals() == parts.take_signals()
    assert whole.take_refusals() == parts.take_refusals()


@given(PIECES)
def test_line_ends_are_never_taken_away(data):
    stripper = TelnetStripper()
    output = stripper.feed(data + b"\n")
    assert output.count(b"\n") == data.count(b"\n") + 1
    assert stripper.pending == 0


@given(PIECES.filter(lambda data: b"\xfa" not in data))
def test_a_stripped_stream_holds_no_commands(data):
    once = TelnetStripper().feed(data)
    again = TelnetStripper()
    assert again.feed(once) == once
    assert again.take_signals() == NONE


@given(st.binary().filter(lambda data: b"\xff" not in data))
def test_other_bytes_pass_untouched(data):
    stripper = TelnetStripper()
    assert stripper.feed(data) is data


@pytest.mark.parametrize(("length", "stripped"), [(252, True), (253, False), (5000, False)])
def test_a_subnegotiation_is_bounded(length, stripped):
    data = b"\xff\xfa" + b"x" * length + b"\xff\xf0"
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        stripper = TelnetStripper()
        output = b"".join(map(stripper.feed, pieces))
        assert output == (b"" if stripped else data[:-2])


def test_refusals_that_nobody_takes_stay_few():
    stripper = TelnetStripper()
    for option in list(range(256)) * 10:
        stripper.feed(bytes((255, 251, option)) + bytes((255, 253, option)))
    assert len(stripper.take_refusals()) <= 2 * 256 * 3


def test_names_are_unescaped():
    assert unescape(b"a\xff\xffb\r\0c") == b"a\xffb\rc"
    assert unescape(b"a\xffb") == b"a\xffb"
