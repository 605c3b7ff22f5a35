"""The control filter by itself: what goes through, what is refused, and lines that must not be."""

from __future__ import annotations

import pytest
from scripted import Script

from fwproxy.errors import ConfigError
from fwproxy_filters.ftp.settings import FtpSettings

NOT_A_COMMAND = b"500 Syntax error, this line is not a command\r\n"


# What goes through as it is.


@pytest.mark.parametrize(
    ("said", "got"),
    [
        (b"USER joe\r\n", b"USER joe\r\n"),
        (b"user joe\r\n", b"USER joe\r\n"),
        (b"uSeR joe\n", b"USER joe\r\n"),
        (b"NOOP\r\n", b"NOOP\r\n"),
        (b"CWD  two blanks \r\n", b"CWD  two blanks \r\n"),
        (b"REST 1000\r\n", b"REST 1000\r\n"),
        (b"ALLO 10 R 5\r\n", b"ALLO 10 R 5\r\n"),
        (b"OPTS UTF8 ON\r\n", b"OPTS UTF8 ON\r\n"),
        (b"OPTS MLST type;size;\r\n", b"OPTS MLST type;size;\r\n"),
        (b"STAT\r\nSTAT -a /dir\r\n", b"STAT\r\nSTAT -a /dir\r\n"),
        (b"ACCT secret\r\n", b"ACCT secret\r\n"),
        (b"SITE CHMOD 644 f\r\n", b"SITE CHMOD 644 f\r\n"),
        ("RETR Grüße-日本.txt\r\n".encode(), "RETR Grüße-日本.txt\r\n".encode()),
        (b"RETR caf\xe9\r\n", b"RETR caf\xe9\r\n"),
        (b"RETR \xff\xffname\r\n", b"RETR \xff\xffname\r\n"),
        (b"RETR na\xffme\r\n", b"RETR na\xffme\r\n"),
        (b"RETR a\r\0b\r\n", b"RETR a\r\0b\r\n"),
        (b"RNFR a\r\nRNTO b\r\n", b"RNFR a\r\nRNTO b\r\n"),
        (b"MLSD\r\n", b"MLSD\r\n"),
        (b"STOU\r\n", b"STOU\r\n"),
        (b"XPWD\r\n", b"XPWD\r\n"),
    ],
)
def test_commands_go_on(said, got):
    with Script() as script:
        script.client(said)
        assert script.got() == got
        assert script.heard() == b""


@pytest.mark.parametrize(
    "reply",
    [
        b"200 Ok\r\n",
        b"214-Help\r\n USER PASS\r\n\r\n QUIT\r\n214 End\r\n",
        b"332 Need account\r\n",
        b"150 Opening\r\n226 Done\r\n",
        b'257 "/a "" b" is the directory\r\n',
        "250 Grüße\r\n".encode(),
        b"250 caf\xe9 \xff\r\n",
        b"631 protected\r\n",
    ],
)
def test_replies_go_on(reply):
    with Script() as script:
        assert script.ask(b"HELP", reply) == reply
        assert script.is_in_step


def test_a_server_that_is_not_ready_yet():
    with Script(greeted=False) as script:
        script.server(b"120 Ready in 1 minute\r\n")
        assert script.heard() == b"120 Ready in 1 minute\r\n"
        script.client(b"LPSV\r\n")
        assert script.heard() == b""
        script.server(b"220-Welcome\r\n220 Ready\r\n")
        assert script.heard() == (
            b"220-Welcome\r\n220 Ready\r\n502 LPSV cannot work through a proxy\r\n"
        )


def test_a_server_that_turns_everybody_away():
    with Script(greeted=False) as script:
        script.server(b"421 Too many users\r\n")
        script.server_ends()
        assert script.heard() == b"421 Too many users\r\n"
        assert script.has_hung_up


def test_replies_with_bare_line_feeds_if_allowed():
    with Script(greeted=False, accept_lf_replies=True) as script:
        script.server(b"220-a\n220 b\n")
        assert script.heard() == b"220-a\r\n220 b\r\n"


def test_features_that_cannot_work_are_left_out():
    reply = b"211-Features\r\n AUTH TLS\r\n PBSZ\r\n PROT\r\n EPSV\r\n LPSV\r\n MDTM\r\n211 End\r\n"
    with Script() as script:
        heard = script.ask(b"FEAT", reply)
        assert heard == b"211-Features\r\n EPSV\r\n MDTM\r\n211 End\r\n"
    with Script(tls="opaque") as script:
        assert b" AUTH TLS\r\n PBSZ\r\n PROT\r\n EPSV\r\n" in script.ask(b"FEAT", reply)


def test_only_the_reply_to_feat_is_edited():
    reply = b"214-Help\r\n AUTH TLS\r\n LPSV\r\n214 End\r\n"
    with Script() as script:
        assert script.ask(b"HELP", reply) == reply


# Command policy: what is refused never reaches the server, and the channel stays in step.


@pytest.mark.parametrize(
    ("settings", "said", "code"),
    [
        ({}, b"LPRT 4,4,10,0,0,8,2,20,1", 502),
        ({}, b"LPSV", 502),
        ({}, b"CPSV", 502),
        ({}, b"BANANA", 500),
        ({}, b"", 500),
        ({}, b" NOOP", 500),
        ({}, b"PASV x", 501),
        ({}, b"RETR", 501),
        ({}, b"RETR ", 501),
        ({}, b"AUTH TLS", 534),
        ({}, b"AUTH SSL", 534),
        ({}, b"AUTH", 501),
        ({}, b"PBSZ 0", 503),
        ({}, b"PROT P", 503),
        ({}, b"CCC", 503),
        ({}, b"NO\xffOP", 500),
        ({"read_only": True}, b"STOR f", 550),
        ({"read_only": True}, b"STOU", 550),
        ({"read_only": True}, b"DELE f", 550),
        ({"read_only": True}, b"MDTM 20200101000000 f", 550),
        ({"read_only": True}, b"SITE CHMOD 644 f", 550),
        ({"read_only": True, "unknown_commands": "pass"}, b"BANANA", 550),
        ({"deny": ["dele"]}, b"DELE f", 502),
        ({"allow": ["USER", "PASS"]}, b"NOOP", 502),
        ({"allow": ["USER"]}, b"BANANA", 502),
        ({"allow": ["USER", "LPSV"]}, b"LPSV", 502),
        ({"argument_limits": {"user": 3}}, b"USER four", 501),
        ({"argument_limits": {"CWD": 0}}, b"CWD /", 501),
    ],
)
def test_commands_that_are_refused(settings, said, code):
    with Script(**settings) as script:
        script.client(said + b"\r\n")
        assert script.heard().startswith(b"%d " % code)
        assert script.got() == b""
        script.client(b"USER joe\r\n" if settings.get("argument_limits") is None else b"PWD\r\n")
        script.server(b"331 Next\r\n")
        assert script.heard() == b"331 Next\r\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"read_only": True}, b"RETR f"),
        ({"read_only": True}, b"MDTM f"),
        ({"read_only": True}, b"SITE HELP"),
        ({"deny": ["DELE"]}, b"RMD d"),
        ({"allow": ["USER"]}, b"USER joe"),
        ({"allow": ["BANANA"]}, b"BANANA"),
        ({"unknown_commands": "pass"}, b"BANANA split"),
        ({"argument_limits": {"USER": 3}}, b"USER joe"),
    ],
)
def test_commands_that_are_allowed(settings, said):
    with Script(**settings) as script:
        script.client(said + b"\r\n")
        assert script.got() == said + b"\r\n"
        assert script.heard() == b""


@pytest.mark.parametrize("settings", [{"max_pipelined": 0}, {"argument_limits": {"USER": -1}}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ConfigError):
        FtpSettings(**settings)


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.1", b"EHLO me"])
def test_another_protocol_is_hung_up_on(request_line, log):
    with Script() as script:
        script.client(request_line + b"\r\nUSER joe\r\nPORT 10,0,0,8,20,1\r\n")
        assert script.heard() == b"421 This is FTP\r\n"
        assert script.got() == b""
        assert script.has_hung_up
        script.server(b"331 too late\r\n")
        assert script.heard() == b""
        assert not script.calls
    assert {line["event"] for line in log if line["log_level"] == "warning"} == {"another protocol"}


# Lines and replies that must not be.


@pytest.mark.parametrize(
    "line",
    [
        b"RETR " + b"x" * 9000,
        b"RETR a\0b",
        b"RETR a\rNOOP",
        b"USER joe\r\r",
        b"\0" * 20,
    ],
)
def test_faulty_lines_are_answered_and_dropped(line):
    with Script() as script:
        script.client(line + b"\r\n" + b"NOOP\r\n").server(b"200 Ok\r\n")
        assert script.heard() == NOT_A_COMMAND + b"200 Ok\r\n"
        assert script.got() == b"NOOP\r\n"
        assert script.is_in_step


def test_a_line_feed_in_an_argument_is_the_end_of_the_command():
    with Script() as script:
        script.client(b"CWD a\nDELE b\r\n")
        assert script.got() == b"CWD a\r\nDELE b\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        b"200 a\rb\r\n",
        b"200 a\nb\r\n",
        b"200 a\0b\r\n",
        b"200" + b"x" * 20_000,
        b"200a\r\n",
        b"what?\r\n",
        b"\r\n",
        b"099 low\r\n",
        b"\xff\xfd\x18200 telnet\r\n",
    ],
)
def test_unreadable_replies_end_the_connection(reply, log):
    with Script() as script:
        script.client(b"PORT 10,0,0,8,20,1\r\n").server(reply)
        assert script.heard() == (
            b"421 The server's reply cannot be read, closing the connection\r\n"
        )
        assert script.has_hung_up
        assert not script.open
        script.server(b"200 more\r\n").client(b"NOOP\r\n")
        assert script.heard() == b""
        assert script.got().count(b"\r\n") == 1
    assert [line["event"] for line in log if line["log_level"] == "warning"] == ["reply refused"]


@pytest.mark.parametrize(
    "reply",
    [b"227 (192,0,2,1,200,1)\r\n", b"229 (|||5000|)\r\n", b"227-a\r\n227 (1,2,3,4,5,6)\r\n"],
)
@pytest.mark.parametrize("command", [b"", b"NOOP\r\n", b"RETR f\r\n", b"PWD\r\n"])
def test_an_address_that_nobody_asked_for_ends_the_connection(command, reply):
    with Script() as script:
        script.client(command).server(reply)
        assert script.heard() == (
            b"421 The server's reply cannot be read, closing the connection\r\n"
        )
        assert script.has_hung_up
        assert not script.calls


def test_a_reply_cannot_hide_another_in_its_lines():
    reply = b"211-Status\r\n227 (9,9,9,9,9,9)\r\n200 Ok\r\n211 End\r\n"
    with Script() as script:
        assert script.ask(b"STAT", reply) == (
            b"211-Status\r\n 227 (9,9,9,9,9,9)\r\n 200 Ok\r\n211 End\r\n"
        )


# Telnet.


@pytest.mark.parametrize("lead", [b"\xff\xf4\xff\xf2", b"\xff\xf2", b"\xff\xf4\xff\xf2NOOP\r\n"])
def test_synch_before_abor_reaches_the_server_as_urgent_data(lead):
    between = lead.removeprefix(b"\xff\xf4").removeprefix(b"\xff\xf2")
    data = lead + b"ABOR\r\n"
    for cut in range(1, len(data)):
        with Script() as script:
            script.client(data[:cut], data[cut:])
            assert script.got() == between + b"\xff\xf4\xff\xf2ABOR\r\n"
            assert script.play.server.urgent == [b"\xff\xf4\xff\xf2"]
            assert script.heard() == b""


def test_abor_without_synch_is_not_urgent():
    with Script() as script:
        script.client(b"\xff\xf4ABOR\r\n")
        assert script.got() == b"ABOR\r\n"
        assert not script.play.server.urgent


def test_one_synch_is_for_one_abor():
    with Script() as script:
        script.client(b"\xff\xf2ABOR\r\nABOR\r\n")
        assert script.got() == b"\xff\xf4\xff\xf2ABOR\r\nABOR\r\n"


def test_telnet_options_are_refused_and_kept_from_the_server():
    with Script() as script:
        script.client(b"\xff\xfb\x18NO\xff\xfd\x01OP\r\n")
        assert script.got() == b"NOOP\r\n"
        assert script.heard() == b"\xff\xfe\x18\xff\xfc\x01"


# Secrets.


def test_secrets_are_never_logged(log):
    with Script() as script:
        for line in (
            b"USER joe",
            b"PASS hunter2",
            b"pass hunter2",
            b"ACCT hunter2",
            b"SITE PSWD hunter2",
            b"PASS hunter2 \xff\xfe",
            b"PASS hunter2" + b"x" * 9000,
            b"PASS hunter2\0",
            b" PASS hunter2",
        ):
            script.client(line + b"\r\n").server(b"230 hunter2\r\n")
        script.server(b"hunter2\r\n")
    assert "hunter2" not in repr(log)
    commands = [line["command"] for line in log if line["event"] == "command"]
    assert commands[:4] == ["USER joe", "PASS ****", "PASS ****", "ACCT ****"]
