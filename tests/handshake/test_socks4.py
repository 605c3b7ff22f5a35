"""SOCKS 4 and 4a: every request at every cut, and every wrong one refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import drive, essence, in_two

from fwproxy.address import Endpoint, HostName
from fwproxy.handshake.base import Command, Outcome, Refusal, Request
from fwproxy.handshake.socks4 import Socks4

REJECTED = bytes([0, 91, 0, 0, 0, 0, 0, 0])


def requested(data: bytes, *, needs_login: bool = False):
    return drive(Socks4(needs_login=needs_login), [data])


@pytest.mark.parametrize(
    ("data", "command", "destination"),
    [
        (b"\4\1\0\x15\xc6\x33\x64\x09\0", Command.CONNECT, Endpoint("198.51.100.9", 21)),
        (b"\4\2\0\x15\xc6\x33\x64\x09anna\0", Command.BIND, Endpoint("198.51.100.9", 21)),
        (b"\4\1\x01\xbb\0\0\0\1\0a.example\0", Command.CONNECT, HostName("a.example", 443)),
        (b"\4\1\x01\xbb\0\0\0\xffme\0::1\0", Command.CONNECT, Endpoint("::1", 443)),
        (b"\4\1\x01\xbb\0\0\0\x09\x000.0.0.9\0", Command.CONNECT, Endpoint("0.0.0.9", 443)),
        (b"\4\2\0\0\0\0\0\0\0", Command.BIND, Endpoint("0.0.0.0", 0)),
        (b"\4\1\0\1\1\2\3\4" + b"u" * 255 + b"\0", Command.CONNECT, Endpoint("1.2.3.4", 1)),
    ],
)
def test_a_request_is_read_at_every_cut_and_what_follows_is_left(data, command, destination):
    for pieces in in_two(data + b"more"):
        steps, rest = drive(Socks4(needs_login=False), pieces)
        assert essence(steps) == [(command, destination)]
        assert rest == b"more"
        assert steps[0].used == len(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\4\3\0\1\1\2\3\4\0", "no command"),
        (b"\4\0\0\1\1\2\3\4\0", "no command"),
        (b"\4\1\0\1\0\0\0\1\0\0", "empty host name"),
        (b"\4\1\0\1\0\0\0\1\0a b\0", "host"),
        (b"\4\1\0\1\0\0\0\1\0\xff\xfe\0", "host name"),
        (b"\4\1\0\1\1\2\3\4" + b"u" * 256, "too long"),
        (b"\4\1\0\1\0\0\0\1\0" + b"n" * 256, "too long"),
        (b"\5\1\0", "no version"),
    ],
)
def test_a_wrong_request_is_rejected(data, reason):
    (refusal,), _ = requested(data)
    assert isinstance(refusal, Refusal)
    assert refusal.data == REJECTED
    assert reason in refusal.reason


def test_where_users_log_in_nobody_comes_by_socks4():
    (refusal,), _ = requested(b"\4\1\0\1\1\2\3\4anna\0", needs_login=True)
    assert refusal.data[:2] == bytes([0, 93])


@pytest.mark.parametrize("outcome", Outcome)
def test_there_is_yes_and_no(outcome):
    reply = Socks4(needs_login=False).reply(outcome, Endpoint("192.0.2.7", 258))
    code = 90 if outcome is Outcome.GRANTED else 91
    assert reply == bytes([0, code, 1, 2, 192, 0, 2, 7])


def test_an_address_of_ipv6_has_no_room_but_its_port_is_told():
    reply = Socks4(needs_login=False).reply(Outcome.GRANTED, Endpoint("::1", 258))
    assert reply == bytes([0, 90, 1, 2, 0, 0, 0, 0])


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_anything_ends_in_a_request_a_refusal_or_patience(pieces):
    steps, _ = drive(Socks4(needs_login=False), [b"\4", *pieces])
    assert all(isinstance(step, Request | Refusal) for step in steps)
    assert len(steps) <= 1
