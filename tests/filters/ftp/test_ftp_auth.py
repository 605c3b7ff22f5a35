"""The control filter by itself: AUTH, and what follows it, where TLS is let through."""

from __future__ import annotations

import pytest
from scripted import Script

from fwproxy_filters.ftp.client_side import MAX_WAITING

PASV_REPLY = b"227 Entering Passive Mode (192,0,2,1,200,1)\r\n"
HELLO = b"\x16\x03\x01\x00\xc8PORT 10,0,0,8,20,1\r\n\xff\xf4\0"


def test_tls_goes_through_untouched(log):
    with Script(tls="opaque") as script:
        script.client(b"AUTH TLS\r\n")
        assert script.got() == b"AUTH TLS\r\n"
        script.server(b"234 Go\r\n")
        assert script.heard() == b"234 Go\r\n"
        script.client(HELLO[:7], HELLO[7:]).server(b"227 (9,9,9,9,9,9)\r\n", HELLO)
        assert script.got() == HELLO
        assert script.heard() == b"227 (9,9,9,9,9,9)\r\n" + HELLO
        assert not script.calls
        script.client_ends()
        assert script.play.server.has_ended
        assert not script.play.client.has_ended
        script.server(b"last words").server_ends()
        assert script.heard() == b"last words"
        assert script.play.client.has_ended
    assert "the control connection is opaque from here on" in [line["event"] for line in log]


@pytest.mark.parametrize("tail", [b"\x16\x03\x03 tail", b"227 (9,9,9,9,9,9)\r\n220 x", b"x\n\0\n"])
def test_bytes_after_the_answer_to_auth_are_not_touched(tail):
    for head in (b"234 Go\r\n", b"234-Go\r\n227 on\r\n234 now\r\n"):
        edited = head.replace(b"\r\n227 on", b"\r\n 227 on")
        data = head + tail
        for cut in range(1, len(data)):
            with Script(tls="opaque") as script:
                script.client(b"AUTH TLS\r\n").server(data[:cut], data[cut:])
                assert script.heard() == edited + tail


def test_a_server_that_refuses_tls_goes_on_being_read():
    with Script(tls="opaque") as script:
        assert script.ask(b"AUTH TLS", b"502 No\r\n") == b"502 No\r\n"
        assert script.ask(b"PASV", PASV_REPLY).startswith(b"227 Entering Passive Mode (10,0,0,1,")
        assert script.got() == b"AUTH TLS\r\nPASV\r\n"


def test_gssapi_is_opaque_from_its_challenge_on():
    with Script(tls="opaque") as script:
        script.client(b"AUTH GSSAPI\r\n").server(b"334 Go on\r\n")
        script.client(b"ADAT QUJD\r\nBANANA").server(b"235 ADAT=QUJD\r\n?")
        assert script.got() == b"AUTH GSSAPI\r\nADAT QUJD\r\nBANANA"
        assert script.heard() == b"334 Go on\r\n235 ADAT=QUJD\r\n?"


def test_what_follows_auth_too_early_is_tls_if_the_server_agrees():
    with Script(tls="opaque") as script:
        script.client(b"AUTH TLS\r\n").client(HELLO)
        assert script.got() == b"AUTH TLS\r\n"
        script.server(b"234 Go\r\n")
        assert script.got() == HELLO


def test_what_follows_auth_too_early_are_commands_if_the_server_refuses():
    with Script(tls="opaque") as script:
        script.client(b"AUTH TLS\r\n").client(b"PORT 9,9,9,9,9,9\r\nNO").client(b"OP\r\n")
        script.got()
        script.server(b"504 No\r\n")
        assert script.heard() == b"504 No\r\n501 This address is not allowed\r\n"
        assert script.got() == b"NOOP\r\n"


def test_what_follows_auth_too_early_is_bounded():
    with Script(tls="opaque") as script:
        script.client(b"AUTH TLS\r\n", b"x" * MAX_WAITING)
        assert not script.has_hung_up
        script.client(b"x")
        assert script.heard() == b"421 Too much before the answer to AUTH\r\n"
        assert script.has_hung_up


@pytest.mark.parametrize(
    "said",
    [b"AUTH TLS\r\nNOOP\r\n", b"AUTH TLS\r\nNO", b"AUTH TLS\r\n\xff", b"NOOP\r\nAUTH TLS\r\n"],
)
def test_auth_must_be_alone(said):
    with Script(tls="opaque") as script:
        script.client(said)
        script.server(b"200 Ok\r\n")
        assert b"503 AUTH must be sent alone\r\n" in script.heard()
        assert b"AUTH" not in script.got()
        assert not script.control.is_opaque


def test_unused_permissions_end_where_reading_ends():
    with Script(tls="opaque") as script:
        script.ask(b"PASV", PASV_REPLY)
        assert len(script.open) == 1
        script.ask(b"AUTH TLS", b"234 Go\r\n")
        assert not script.open
