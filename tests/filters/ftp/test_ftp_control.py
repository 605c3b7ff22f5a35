"""The control filter by itself: commands one way, replies the other, and the end of both."""

from __future__ import annotations

import pytest
from scripted import SERVER_V4, Script

from fwproxy import Endpoint, Verdict
from fwproxy.errors import ConfigError
from fwproxy.events import EstablishedConnection
from fwproxy_filters.ftp.client_side import MAX_WAITING
from fwproxy_filters.ftp.settings import FtpSettings

SERVER = Endpoint(SERVER_V4, 2000)
PASV_REPLY = b"227 Entering Passive Mode (192,0,2,1,200,1)\r\n"
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


# AUTH, with TLS let through.

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


# Pipelining.


def test_a_server_gets_only_so_many_commands_at_once():
    with Script(max_pipelined=3) as script:
        script.client(b"".join(b"CWD %d\r\n" % n for n in range(10)))
        assert script.got() == b"CWD 0\r\nCWD 1\r\nCWD 2\r\n"
        script.server(b"250 a\r\n")
        assert script.got() == b"CWD 3\r\n"
        script.server(b"250-a\r\n", b"250 b\r\n250 c\r\n250 d\r\n")
        assert script.got() == b"CWD 4\r\nCWD 5\r\nCWD 6\r\n"
        script.client(b"CWD 10\r\n")
        for n in range(7):
            script.server(b"250 %d\r\n" % n)
        assert script.got() == b"CWD 7\r\nCWD 8\r\nCWD 9\r\nCWD 10\r\n"


def test_a_long_pipeline_needs_no_recursion():
    commands = b"NOOP\r\n" * 10_000
    with Script(max_pipelined=1) as script:
        script.client(commands)
        for _ in range(10_000):
            script.server(b"200 Ok\r\n")
        assert script.got() == commands
        assert script.heard() == b"200 Ok\r\n" * 10_000
        assert script.is_in_step


def test_refused_commands_count_as_well():
    with Script(max_pipelined=2) as script:
        script.client(b"NOOP\r\nLPSV\r\nPWD\r\nLPSV\r\n")
        assert script.got() == b"NOOP\r\n"
        script.server(b"200 Ok\r\n")
        assert script.got() == b"PWD\r\n"


def test_a_flood_is_not_read_until_the_server_has_answered():
    with Script(max_pipelined=1, patience=600.0) as script:
        flood = b"NOOP\r\n" * (MAX_WAITING // 6 + 1)
        script.client(flood)
        assert not script.is_waiting
        script.client(b"PWD\r\n")
        assert script.is_waiting
        for _ in range(MAX_WAITING // 6 + 1):
            assert script.got() == b"NOOP\r\n"
            script.server(b"200 Ok\r\n")
        assert not script.is_waiting
        assert script.got() == b"PWD\r\n"


def test_a_flood_at_a_server_that_does_not_answer_is_hung_up_on(log):
    with Script(max_pipelined=1, patience=0.02) as script:
        script.client(b"NOOP\r\n" * (MAX_WAITING // 6 + 1), b"PWD\r\n")
        script.wait()
        assert script.heard() == b"421 Too many commands for this server\r\n"
        assert script.has_hung_up
    assert [line for line in log if line["log_level"] == "warning"]


def test_nothing_follows_pasv_until_it_is_answered():
    with Script() as script:
        script.client(b"PASV\r\nRETR f\r\nQUIT\r\n")
        assert script.got() == b"PASV\r\n"
        script.server(PASV_REPLY)
        assert script.got() == b"RETR f\r\nQUIT\r\n"
        assert len(script.open) == 1
        script.come().fail()
        assert script.heard().endswith(b"425 Cannot open a data connection\r\n")


def test_commands_that_come_while_a_port_is_bound_wait():
    with Script() as script:
        script.hold()
        script.client(b"PORT 10,0,0,8,20,1\r\nNOOP\r\n", b"PWD\r\n").server(b"421 x\r\n")
        assert script.got() == b""
        script.let_go()
        assert script.got() == b"PORT 198,51,100,1,156,64\r\nNOOP\r\nPWD\r\n"


# Ends.


def test_the_server_hears_of_the_clients_end_after_the_last_command():
    with Script(max_pipelined=1) as script:
        script.client(b"PASV\r\nQUIT\r\n").client_ends()
        assert not script.play.server.has_ended
        script.server(PASV_REPLY)
        assert script.got() == b"PASV\r\nQUIT\r\n"
        assert script.play.server.has_ended
        assert not script.open
        script.server(b"221 Bye\r\n")
        assert script.heard().endswith(b"221 Bye\r\n")


def test_the_clients_end_leaves_a_transfer_its_data_connection():
    with Script() as script:
        script.ask(b"PASV", PASV_REPLY)
        script.client(b"RETR f\r\n").client_ends()
        assert script.play.server.has_ended
        assert len(script.open) == 1
        script.come().established()
        script.server(b"150 Go\r\n226 Done\r\n")
        assert script.heard().endswith(b"226 Done\r\n")


def test_the_clients_end_withdraws_what_nobody_will_use():
    with Script() as script:
        script.ask(b"PASV", PASV_REPLY)
        script.client_ends()
        assert not script.open


def test_an_incomplete_command_is_dropped_at_the_end():
    with Script() as script:
        script.client(b"DELE fil").client_ends()
        assert script.got() == b""


def test_the_servers_end_is_the_end():
    with Script() as script:
        script.client(b"NOOP\r\nPORT 10,0,0,8,20,1\r\n")
        script.server(b"200 O").server_ends()
        assert script.heard() == b""
        assert script.has_hung_up
        assert not script.open
        script.client(b"NOOP\r\n")
        assert script.got().count(b"NOOP") == 1


def test_the_servers_end_leaves_an_open_data_connection_its_last_bytes():
    with Script() as script:
        script.ask(b"PASV", PASV_REPLY)
        data = script.come()
        data.established()
        script.client(b"RETR f\r\nQUIT\r\n").server(b"150 Go\r\n226 Done\r\n221 Bye\r\n")
        script.server_ends()
        assert script.play.client.has_ended
        assert not script.play.server.has_ended
        script.client(b"NOOP\r\n")
        assert b"NOOP" not in script.got()
        data.end()
        assert script.play.server.has_ended


def test_the_filter_may_be_gone_when_the_last_data_connection_ends():
    with Script() as script:
        script.ask(b"PASV", PASV_REPLY)
        data = script.come()
        data.established()
        script.server_ends()
        script.end()
        data.end()
        assert not script.play.server.has_ended


def test_a_client_that_reads_nothing_is_cut_off(log):
    with Script(max_buffer=16 * 1024) as script:
        script.play.client.stall()
        script.client(b"LPSV\r\n" * 500)
        assert script.play.client.is_reset
    assert "the client reads no replies" in [line["event"] for line in log]


def test_quit_withdraws_what_was_not_used():
    for command in (b"QUIT", b"REIN"):
        with Script() as script:
            script.ask(b"PASV", PASV_REPLY)
            script.client(command + b"\r\n")
            assert not script.open


@pytest.mark.parametrize("command", [b"QUIT", b"REIN", b"PASV", b"PORT 10,0,0,8,20,2"])
def test_a_transfer_keeps_its_data_connection_whatever_follows(command):
    with Script() as script:
        script.ask(b"PASV", PASV_REPLY)
        script.client(b"RETR f\r\n" + command + b"\r\n")
        script.come().established()
        script.server(b"150 Go\r\n226 Done\r\n")
        assert script.heard() == b"150 Go\r\n226 Done\r\n"


def test_rein_lifts_epsv_all():
    with Script() as script:
        script.client(b"EPSV ALL\r\nPASV\r\n")
        assert script.heard() == (
            b"200 EPSV ALL command successful\r\n503 PASV is not allowed after EPSV ALL\r\n"
        )
        script.ask(b"REIN", b"220 Again\r\n")
        script.got()
        script.client(b"PASV\r\n")
        assert script.got() == b"PASV\r\n"


def test_a_permission_that_is_given_after_the_end_is_withdrawn():
    with Script() as script:
        script.hold()
        script.client(b"PORT 10,0,0,8,20,1\r\n")
        script.server(b"?\r\n")
        assert script.has_hung_up
        script.let_go()
        assert script.calls
        assert not script.open


def test_the_end_while_a_port_is_being_bound():
    with Script() as script:
        script.hold()
        script.client(b"PORT 10,0,0,8,20,1\r\nPASV\r\n")
        script.end()
        script.let_go()
        assert not script.open


def test_a_connection_that_comes_for_a_withdrawn_channel_is_denied():
    with Script() as script:
        script.ask(b"PASV", PASV_REPLY)
        channel = script.control.channel
        script.ask(b"PASV", b"500 no\r\n")
        late = script.late(channel)
        established = EstablishedConnection(late, SERVER, SERVER, channel)
        assert script.control.owner.firewall_event_handler(established) is Verdict.DENY
        late.kill()


def test_a_connection_that_is_being_made_is_withdrawn_by_the_next_pasv():
    with Script() as script:
        script.ask(b"PASV", PASV_REPLY)
        data = script.come()
        script.ask(b"PASV", b"500 no\r\n")
        assert data.is_closed
        assert not script.open
