"""The forms of USER, OPEN and SITE at a gateway, read without one."""

from __future__ import annotations

import time

import pytest

from fwproxy import Endpoint
from fwproxy.address import HostName
from fwproxy_filters.ftp.errors import FtpSyntaxError
from fwproxy_filters.ftp.login_forms import (
    HOW,
    HOW_TO_USERS,
    GatewayPassword,
    LoginRequest,
    parse_server,
    parse_user,
)

HOST, AT_HOST = HostName("ftp.example", 21), HostName("ftp.example", 2121)
NOT_ITS_USER = "No user of the gateway is expected, log in as user@host or user@host:port"
IN_PASS, AT_END, IN_ACCT = GatewayPassword.PASS, GatewayPassword.END_OF_PASS, GatewayPassword.ACCT


@pytest.mark.parametrize(
    ("argument", "request_"),
    [
        (b"anna", LoginRequest(None, None, "anna", IN_PASS)),
        (b" anna ", LoginRequest(None, None, "anna", IN_PASS)),
        (b"anna lee", LoginRequest(None, None, "anna lee", IN_PASS)),
        (b"caf\xc3\xa9", LoginRequest(None, None, "caf\xe9", IN_PASS)),
        (b"21", LoginRequest(None, None, "21", IN_PASS)),
        (b"anna@ftp.example", LoginRequest(HOST, None, "anna", IN_PASS)),
        (b"anna@ftp.example:2121", LoginRequest(AT_HOST, None, "anna", IN_PASS)),
        (b"anna lee@ftp.example", LoginRequest(HOST, None, "anna lee", IN_PASS)),
        (b"anna@[::1]", LoginRequest(Endpoint("::1", 21), None, "anna", IN_PASS)),
        (b"joe@anna@ftp.example", LoginRequest(HOST, b"joe", "anna", AT_END)),
        (b"joe@anna@ftp.example:2121", LoginRequest(AT_HOST, b"joe", "anna", AT_END)),
        (b"joe@corp@anna@ftp.example", LoginRequest(HOST, b"joe@corp", "anna", AT_END)),
        (b"@@anna@ftp.example", LoginRequest(HOST, b"@", "anna", AT_END)),
        (b"joe x@anna y@ftp.example", LoginRequest(HOST, b"joe x", "anna y", AT_END)),
        (b"caf\xe9@anna@ftp.example", LoginRequest(HOST, b"caf\xe9", "anna", AT_END)),
        (b"joe@ftp.example anna", LoginRequest(HOST, b"joe", "anna", IN_ACCT)),
        (b"joe@ftp.example:2121 anna", LoginRequest(AT_HOST, b"joe", "anna", IN_ACCT)),
        (b"joe@corp@ftp.example  anna lee", LoginRequest(HOST, b"joe@corp", "anna lee", IN_ACCT)),
        (b"joe@ftp.example 123456", LoginRequest(HOST, b"joe", "123456", IN_ACCT)),
        (b"joe@ftp.example 21a", LoginRequest(HOST, b"joe", "21a", IN_ACCT)),
    ],
)
def test_a_user_who_has_yet_to_log_in(argument, request_):
    assert parse_user(argument, must_log_in=True) == request_


@pytest.mark.parametrize(
    "argument",
    [
        b"", b"@", b"@host", b"joe@ anna@host",
        b"joe@", b"joe@@host", b"@anna@", b"joe@anna@", b"joe@anna@:21",
        b"joe@anna@h\xc3\xb6st", b"joe@anna@host:x", b"joe@anna@host:65536", b"anna@host:",
        b"anna@2001:db8::1", b"joe@host: anna", b"joe@ anna", b"joe@a/b anna",
        b"joe@host 21", b"joe@host 0", b"joe@host 99999", b"joe@host 21 anna",
    ],
)  # fmt: skip
def test_nothing_that_a_user_who_has_yet_to_log_in_can_mean(argument):
    """A number behind the host may be a port or a user, and nobody knows which."""
    with pytest.raises(FtpSyntaxError) as caught:
        parse_user(argument, must_log_in=True)
    assert (caught.value.reply_code, caught.value.text) == (530, HOW_TO_USERS)


@pytest.mark.parametrize(
    ("argument", "user", "server"),
    [
        (b"joe@ftp.example 21", b"joe", HOST),
        (b"joe@ftp.example  2121", b"joe", AT_HOST),
        (b"joe@ftp.example 02121", b"joe", AT_HOST),
        (b"joe x@ftp.example 2121", b"joe x", AT_HOST),
        (b"joe@[::1] 2121", b"joe", Endpoint("::1", 2121)),
        (b"joe@anna@ftp.example", b"joe@anna", HOST),
        (b"joe@anna@ftp.example 2121", b"joe@anna", AT_HOST),
    ],
)
def test_a_user_who_need_not_log_in(argument, user, server):
    assert parse_user(argument, must_log_in=False) == LoginRequest(server, user)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (b"joe", HOW),
        (b"joe@host:21 21", HOW),
        (b"joe@[::1]:21 21", HOW),
        (b"joe@host 65536", HOW),
        (b"joe@2001:db8::1 21", HOW),
        (b"joe@host anna", NOT_ITS_USER),
        (b"joe@host 123456", NOT_ITS_USER),
    ],
)
def test_nothing_that_a_user_who_need_not_log_in_can_mean(argument, text):
    with pytest.raises(FtpSyntaxError) as caught:
        parse_user(argument, must_log_in=False)
    assert (caught.value.reply_code, caught.value.text) == (530, text)


@pytest.mark.parametrize(
    ("argument", "server"),
    [
        (b"ftp.example", HOST),
        (b" ftp.example ", HOST),
        (b"ftp.example:2121", AT_HOST),
        (b"ftp.example 2121", AT_HOST),
        (b"192.0.2.1", Endpoint("192.0.2.1", 21)),
        (b"[2001:db8::1]", Endpoint("2001:db8::1", 21)),
        (b"[2001:db8::1]:2121", Endpoint("2001:db8::1", 2121)),
    ],
)
def test_a_server_without_a_user(argument, server):
    assert parse_server(argument) == LoginRequest(server)


@pytest.mark.parametrize(
    "argument",
    [
        b"", b" ", b"joe@host", b"host:", b"host:x", b"host 65536", b"host 123456", b"host x",
        b"host 21 21", b"h\xc3\xb6st", b"CHMOD 644 f", b"UTIME f 20260101 UTC",
    ],
)  # fmt: skip
def test_no_server(argument):
    with pytest.raises(FtpSyntaxError) as caught:
        parse_server(argument)
    assert (caught.value.reply_code, caught.value.text) == (
        501,
        "Name a server, as host or host:port",
    )


LONG = 100_000  # with the square of that a test would take minutes


@pytest.mark.parametrize(
    "argument",
    [
        b"a@" * LONG + b" x@", b" " * LONG + b"@", b"@" * LONG, b"a" + b"@" * LONG + b" ",
        b"a@b" + b" " * LONG + b"@", b"a@b" + b" " * LONG + b"x@", b"a@b" + b" 1" * LONG + b"@",
        b"a@b " + b"1" * LONG + b"@", b"a" * LONG + b"@" + b"b" * LONG + b"@",
    ],
    ids=lambda argument: f"{argument[:6].decode()}...{argument[-3:].decode()}",
)  # fmt: skip
@pytest.mark.parametrize("must_log_in", [True, False])
def test_no_line_takes_long(argument, must_log_in):
    start = time.process_time()
    with pytest.raises(FtpSyntaxError):
        parse_user(argument, must_log_in=must_log_in)
    assert time.process_time() - start < 2
