"""SOCKS 5: every message at every cut, logins, and the right reply to every wrong one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import drive, essence, in_two

from fwproxy.address import Endpoint, HostName
from fwproxy.handshake.base import Command, Outcome, Refusal, Request
from fwproxy.handshake.socks5 import Socks5

HELLO, WELCOME = b"\5\1\0", b"\5\0"
NOWHERE = b"\0\1\0\0\0\0\0\0"
V6 = bytes.fromhex("20010db8000000000000000000000009")


def told(code):
    return bytes([5, code]) + NOWHERE


@pytest.mark.parametrize(
    ("request_", "command", "destination"),
    [
        (b"\5\1\0\1\xc6\x33\x64\x09\0\x15", Command.CONNECT, Endpoint("198.51.100.9", 21)),
        (b"\5\2\0\1\0\0\0\0\0\0", Command.BIND, Endpoint("0.0.0.0", 0)),
        (b"\5\3\0\4" + V6 + b"\x01\xbb", Command.ASSOCIATE, Endpoint("2001:db8::9", 443)),
        (b"\5\1\0\3\x09a.example\0\x50", Command.CONNECT, HostName("a.example", 80)),
        (b"\5\1\0\3\5[::1]\0\x50", Command.CONNECT, Endpoint("::1", 80)),
        (b"\5\1\xff\3\x071.2.3.4\0\x50", Command.CONNECT, Endpoint("1.2.3.4", 80)),
    ],
)
def test_a_client_without_login_is_understood_at_every_cut(request_, command, destination):
    for pieces in in_two(HELLO + request_ + b"more"):
        steps, rest = drive(Socks5(needs_login=False), pieces)
        assert essence(steps) == [WELCOME, (command, destination)]
        assert rest == b"more"


@pytest.mark.parametrize(("password", "is_right"), [(b"secret", True), (b"wrong", False)])
def test_a_login_is_read_at_every_cut(password, is_right):
    login = b"\1\4anna" + bytes([len(password)]) + password
    request = b"\5\1\0\1\1\2\3\4\0\1"
    for pieces in in_two(b"\5\2\0\2" + login + request):
        steps, rest = drive(Socks5(needs_login=True), pieces, passwords={"anna": b"secret"})
        found = essence(steps)
        assert found[:2] == [b"\5\2", ("anna", password)]
        if is_right:
            assert found[2:] == [b"\1\0", (Command.CONNECT, Endpoint("1.2.3.4", 1))]
            assert not rest
        else:
            assert found[2:] == [(b"\1\1", "wrong user name or password")]


@pytest.mark.parametrize(
    ("needs_login", "offered"), [(True, b"\5\1\0"), (False, b"\5\1\2"), (False, b"\5\0")]
)
def test_a_client_that_cannot_do_the_method_is_told(needs_login, offered):
    (refusal,), _ = drive(Socks5(needs_login=needs_login), [offered])
    assert refusal.data == b"\5\xff"
    assert "cannot do method" in refusal.reason


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"\5\4\0\1\1\2\3\4\0\1", 7),
        (b"\5\0\0\1\1\2\3\4\0\1", 7),
        (b"\5\1\0\2\1\2\3\4\0\1", 8),
        (b"\5\1\0\0", 8),
        (b"\5\1\0\3\3a b\0\1", 1),
        (b"\5\1\0\3\0\0\1", 1),
        (b"\4\1\0\1\1\2\3\4\0\1", 1),
    ],
)
def test_a_wrong_request_has_the_code_that_says_why(request_, code):
    (_, refusal), _ = drive(Socks5(needs_login=False), [HELLO, request_])
    assert isinstance(refusal, Refusal)
    assert refusal.data == told(code)


def test_a_wrong_version_of_the_login_is_refused():
    (_, refusal), _ = drive(Socks5(needs_login=True), [b"\5\1\2", b"\5\1\0\1"])
    assert refusal.data == b"\1\1"


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.GRANTED, 0),
        (Outcome.FAILED, 1),
        (Outcome.NOT_ALLOWED, 2),
        (Outcome.NETWORK_UNREACHABLE, 3),
        (Outcome.HOST_UNREACHABLE, 4),
        (Outcome.NAME_UNKNOWN, 4),
        (Outcome.REFUSED, 5),
        (Outcome.TIMED_OUT, 6),
        (Outcome.UNSUPPORTED, 7),
        (Outcome.BUSY, 1),
    ],
)
def test_each_outcome_has_its_code(outcome, code):
    handshake = Socks5(needs_login=False)
    assert handshake.reply(outcome, Endpoint("0.0.0.0")) == told(code)
    v6 = handshake.reply(outcome, Endpoint("2001:db8::9", 258))
    assert v6 == bytes([5, code, 0, 4]) + V6 + b"\1\2"


def test_every_outcome_has_a_code():
    for outcome in Outcome:
        assert Socks5(needs_login=False).reply(outcome, Endpoint("0.0.0.0"))[0] == 5


@given(st.booleans(), st.lists(st.binary(max_size=60), max_size=8))
def test_anything_ends_in_a_request_a_refusal_or_patience(needs_login, pieces):
    passwords = {"": b""}  # the likeliest one to be guessed by chance
    steps, rest = drive(Socks5(needs_login=needs_login), [b"\5", *pieces], passwords=passwords)
    assert sum(isinstance(step, Request | Refusal) for step in steps) <= 1
    over = steps and isinstance(steps[-1], Request | Refusal)
    assert over or len(rest) < Socks5.max_size
