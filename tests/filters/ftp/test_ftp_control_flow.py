"""The control filter by itself: how many commands at once, and the end of both sides."""

from __future__ import annotations

import pytest
from scripted import SERVER_V4, Script

from fwproxy import Endpoint, Verdict
from fwproxy.events import EstablishedConnection
from fwproxy_filters.ftp.client_side import MAX_WAITING

PASV_REPLY = b"227 Entering Passive Mode (192,0,2,1,200,1)\r\n"
SERVER = Endpoint(SERVER_V4, 2000)


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
