"""What the client hears of pipelined, aborted, lost and broken transfers; it stays in step."""

from __future__ import annotations

import gc
import warnings

import pytest
from scripted import CLIENT_V6, Script

from fwproxy_filters.ftp.channel import ARRIVAL_PATIENCE

PASSIVE = b"PASV\r\n", b"227 Entering Passive Mode (192,0,2,1,200,1)\r\n"


# The same through the whole filter: what the client hears, and whether it is in step afterwards.


def logged_in() -> Script:
    script = Script()
    assert script.ask(b"USER joe", b"331 Password?\r\n") == b"331 Password?\r\n"
    assert script.ask(b"PASS x", b"230 Ok\r\n") == b"230 Ok\r\n"
    script.got()
    return script


def transferring() -> Script:
    """Return a script in the middle of a RETR in passive mode."""
    script = logged_in()
    script.client(PASSIVE[0]).server(PASSIVE[1])
    script.come().established()
    script.client(b"RETR f\r\n").server(b"150 Here it comes\r\n")
    assert script.heard().endswith(b"150 Here it comes\r\n")
    script.got()
    return script


@pytest.mark.parametrize(
    "replies",
    [
        b"426 Failure writing network stream.\r\n225 No transfer to ABOR.\r\n",
        b"426 Failure writing network stream.\r\n226 ABOR successful.\r\n",
        b"226 Transfer complete.\r\n225 No transfer to ABOR.\r\n",
        b"225 ABOR command successful; data channel closed.\r\n",
        b"225 Aborted\r\n425 Transfer aborted\r\n",
        b"226 Transfer complete.\r\n502 ABOR not implemented\r\n",
        b"426-Transfer\r\n426 aborted\r\n226-Abort\r\n226 successful\r\n",
    ],
)
@pytest.mark.parametrize("follows", [b"", b"NOOP\r\n"])
def test_abor_leaves_the_channel_in_step(replies, follows):
    with transferring() as script:
        script.client(b"\xff\xf4\xff\xf2ABOR\r\n")
        assert script.got() == b"\xff\xf4\xff\xf2ABOR\r\n"
        script.server(replies)
        assert script.heard() == replies
        if follows:
            assert script.ask(b"NOOP", b"200 Ok\r\n") == b"200 Ok\r\n"
        assert script.is_in_step
        script.client(PASSIVE[0]).server(PASSIVE[1])
        assert script.heard().startswith(b"227 Entering Passive Mode (10,0,0,1,")


def test_pipelined_abor_and_refused_command_keep_their_order():
    with transferring() as script:
        script.client(b"ABOR\r\nLPSV\r\n").server(b"426 Aborted\r\n")
        assert script.heard() == b"426 Aborted\r\n"
        script.server(b"226 Abort ok\r\n")
        assert script.heard() == b"226 Abort ok\r\n502 LPSV cannot work through a proxy\r\n"
        assert script.is_in_step


def test_refused_command_behind_a_silent_abor_is_not_lost():
    with transferring() as script:
        script.client(b"ABOR\r\nLPSV\r\n").server(b"225 Aborted\r\n")
        assert script.heard() == b"225 Aborted\r\n"
        script.client(b"LPRT 1\r\n")
        assert script.heard() == (
            b"502 LPSV cannot work through a proxy\r\n502 LPRT cannot work through a proxy\r\n"
        )


def test_stat_during_a_transfer_with_many_lines():
    status = b"211-Status\r\n 226 not the end\r\n211 End\r\n"
    with transferring() as script:
        script.client(b"STAT\r\n").server(status)
        assert script.heard() == status
        script.server(b"226 Done\r\n")
        assert script.heard() == b"226 Done\r\n"
        assert script.is_in_step


def test_pipelined_commands_keep_their_order_with_refused_ones_between():
    with logged_in() as script:
        script.client(b"NOOP\r\nLPSV\r\nCWD a\r\nBANANA\r\nSYST\r\n")
        assert script.got() == b"NOOP\r\nCWD a\r\nSYST\r\n"
        assert script.heard() == b""
        script.server(b"200 a\r\n250-b\r\n250 b\r\n215 c\r\n")
        assert [line[:3] for line in script.heard().splitlines()] == [
            b"200", b"502", b"250", b"250", b"500", b"215",
        ]  # fmt: skip


def test_own_replies_do_not_come_inside_a_reply_that_nobody_asked_for():
    with logged_in() as script:
        script.server(b"421-Idle\r\n")
        script.client(b"LPSV\r\n")
        assert script.heard() == b"421-Idle\r\n"
        script.server(b"421 Bye\r\n")
        assert script.heard() == b"421 Bye\r\n502 LPSV cannot work through a proxy\r\n"


def test_one_421_is_passed_on_whatever_was_asked():
    for command in (b"NOOP", b"PASV", b"PORT 10,0,0,8,20,1", b"RETR f", b"AUTH TLS"):
        with Script(tls="opaque", data_mode="active") as script:
            script.ask(command, b"421-Time-out\r\n421 Bye\r\n")
            script.client(b"NOOP\r\n")
            assert script.got().endswith(b"NOOP\r\n")
            script.server_ends()
            assert script.has_hung_up


def test_421_is_heard_unaltered_by_a_client_whose_command_was_converted():
    with Script(CLIENT_V6, data_mode="passive") as script:
        assert script.ask(b"EPRT |2|fd00::8|2000|", b"421 Bye\r\n") == b"421 Bye\r\n"


# A data connection that could not be made: the client is told, the server's late word swallowed.


def lost_transfer() -> Script:
    """Return a script whose server takes a RETR without knowing that its data port is refused."""
    script = logged_in()
    script.client(PASSIVE[0]).server(PASSIVE[1])
    script.heard()
    data = script.come()
    script.client(b"RETR f\r\n")
    script.got()
    data.fail()
    return script


def test_a_lost_data_connection_is_told_at_once():
    with lost_transfer() as script:
        assert script.heard() == b"425 Cannot open a data connection\r\n"
        script.client(b"LPSV\r\nNOOP\r\n")
        assert script.heard() == b"502 LPSV cannot work through a proxy\r\n"
        assert script.got() == b"NOOP\r\n"
        script.server(b"150-Wait\r\n150 more\r\n425-No\r\n425 connection\r\n200 Noop\r\n")
        assert script.heard() == b"200 Noop\r\n"
        assert script.is_in_step


def test_a_lost_data_connection_is_told_after_the_replies_before_it():
    with logged_in() as script:
        script.client(PASSIVE[0]).server(PASSIVE[1])
        script.heard()
        data = script.come()
        script.client(b"NOOP\r\nRETR f\r\nLPSV\r\n")
        data.fail()
        assert script.heard() == b""
        script.server(b"200-a\r\n")
        script.server(b"200 b\r\n")
        assert script.heard() == (
            b"200-a\r\n200 b\r\n425 Cannot open a data connection\r\n"
            b"502 LPSV cannot work through a proxy\r\n"
        )


def test_a_lost_data_connection_is_not_told_inside_another_reply():
    with logged_in() as script:
        script.client(PASSIVE[0]).server(PASSIVE[1])
        script.heard()
        data = script.come()
        script.client(b"RETR f\r\nSTAT\r\n").server(b"150 Wait\r\n211-Status\r\n")
        data.fail()
        assert script.heard() == b"150 Wait\r\n211-Status\r\n"
        script.server(b" fine\r\n211 End\r\n")
        assert script.heard() == b" fine\r\n211 End\r\n425 Cannot open a data connection\r\n"
        script.server(b"425 At last\r\n")
        assert script.heard() == b""
        assert script.is_in_step


def test_a_channel_lost_before_the_transfer_never_reaches_the_server():
    with logged_in() as script:
        script.client(PASSIVE[0]).server(PASSIVE[1])
        script.come().fail()
        script.heard(), script.got()
        script.client(b"RETR f\r\n")
        assert script.heard() == b"425 Cannot open a data connection\r\n"
        assert script.got() == b""
        assert script.is_in_step


def test_a_permission_that_has_expired_is_a_lost_channel():
    with logged_in() as script:
        script.client(PASSIVE[0]).server(PASSIVE[1])
        script.heard(), script.got()
        script.play.advance(61)
        script.client(b"RETR f\r\n")
        assert script.heard() == b"425 Cannot open a data connection\r\n"
        assert script.got() == b""


@pytest.mark.parametrize(
    ("replies", "heard"),
    [
        (b"426 x\r\n226 y\r\n", b"226 y\r\n"),
        (b"225 only one\r\n", b"225 only one\r\n"),
        (b"425 x\r\n225 y\r\n", b"225 y\r\n"),
    ],
)
def test_abor_of_a_lost_transfer_is_answered(replies, heard):
    with lost_transfer() as script:
        assert script.heard() == b"425 Cannot open a data connection\r\n"
        script.client(b"ABOR\r\n").server(replies)
        assert script.heard() == heard
        assert script.is_in_step


# The end of a transfer whose client's side failed.


@pytest.mark.parametrize(
    ("reply_", "heard"),
    [
        (b"226 Done\r\n", b"426 The data connection was broken\r\n"),
        (b"226-So many\r\n226 bytes\r\n", b"426 The data connection was broken\r\n"),
        (b"250 Done\r\n", b"426 The data connection was broken\r\n"),
        (b"426 Broken\r\n", b"426 Broken\r\n"),
        (b"451-Oh\r\n451 no\r\n", b"451-Oh\r\n451 no\r\n"),
    ],
)
def test_a_broken_data_connection_is_no_success(reply_, heard):
    with transferring() as script:
        script.data[-1].fail()
        assert script.heard() == b""
        script.server(reply_)
        assert script.heard() == heard
        assert script.is_in_step


@pytest.mark.parametrize("replies", [b"226 Abort ok\r\n426 Broken\r\n", b"225 Aborted\r\n"])
def test_whoever_aborts_hears_what_the_server_says(replies):
    """ProFTPD may answer the ABOR of an upload before the upload."""
    with transferring() as script:
        script.client(b"ABOR\r\n")
        script.data[-1].fail()
        script.server(replies)
        assert script.heard() == replies
        script.client(b"NOOP\r\n").server(b"200 Ok\r\n")
        assert script.heard() == b"200 Ok\r\n"
        assert script.is_in_step


def test_a_data_connection_that_breaks_between_the_lines_of_its_success():
    with transferring() as script:
        script.server(b"226-So many\r\n")
        script.data[-1].fail()
        script.server(b"226 bytes\r\n")
        assert script.heard() == b"226-So many\r\n226 bytes\r\n"
        assert script.is_in_step


def active_transfer(patience: float = 10.0) -> Script:
    """Return a script whose server has connected, while the client is still being reached."""
    script = Script(patience=patience)
    script.ask(b"PORT 10,0,0,8,20,1", b"200 Ok\r\n")
    script.data[-1].server_comes()
    script.client(b"RETR f\r\n").server(b"150 Go\r\n226 Done\r\n")
    assert script.heard() == b"150 Go\r\n"
    script.got()
    return script


def test_success_waits_for_the_client_to_be_reached():
    with active_transfer() as script:
        script.client(b"NOOP\r\n")
        assert script.got() == b"NOOP\r\n"
        script.server(b"200 Noop\r\n")
        assert script.heard() == b""
        script.data[-1].established()
        script.play.settle()
        assert script.heard() == b"226 Done\r\n200 Noop\r\n"
        assert script.is_in_step


def test_no_success_when_the_client_cannot_be_reached():
    with active_transfer() as script:
        script.data[-1].fail()
        script.play.settle()
        assert script.heard() == b"425 Cannot open a data connection\r\n"
        assert script.is_in_step


def test_no_success_when_the_client_is_not_reached_in_time():
    with active_transfer(patience=0.02) as script:
        script.wait()
        assert script.heard() == b"425 Cannot open a data connection\r\n"
        assert not script.open
        assert script.is_in_step


def pipelined_active_transfers() -> Script:
    """Return a script with two ports for the server, which says that it is done with the first."""
    script = logged_in()
    script.client(b"PORT 10,0,0,8,20,1\r\nRETR a\r\nPORT 10,0,0,8,20,2\r\nRETR b\r\n")
    script.server(b"200 Ok\r\n150 Go\r\n226 Done\r\n")
    script.got()
    return script


def test_a_server_is_waited_for_that_is_seen_only_after_it_said_it_was_done():
    with pipelined_active_transfers() as script:
        first, second = script.data
        assert script.heard() == b"200 Ok\r\n150 Go\r\n"
        first.server_comes()
        first.established()
        script.play.settle()
        assert not first.is_closed
        assert script.heard() == b"226 Done\r\n"
        script.server(b"200 Ok\r\n150 Go\r\n")
        second.server_comes()
        second.established()
        script.server(b"226 Done\r\n")
        assert script.heard() == b"200 Ok\r\n150 Go\r\n226 Done\r\n"
        assert script.is_in_step


def test_a_server_that_never_came_does_not_hold_up_the_next_transfer():
    with pipelined_active_transfers() as script:
        first, _ = script.data
        script.play.advance(ARRIVAL_PATIENCE + 0.01)
        assert script.heard() == b"200 Ok\r\n150 Go\r\n226 Done\r\n"
        assert first.is_closed
        script.server(b"200 Ok\r\n425 No\r\n")
        assert script.heard() == b"200 Ok\r\n425 No\r\n"
        assert script.is_in_step


def test_a_transfer_without_a_data_connection_is_the_servers_to_refuse():
    with logged_in() as script:
        assert script.ask(b"RETR f", b"425 Use PASV\r\n") == b"425 Use PASV\r\n"
        assert script.got() == b"RETR f\r\n"


def test_a_used_data_connection_does_not_spoil_the_next_transfer():
    with transferring() as script:
        script.data[-1].fail()
        script.server(b"426 Broken\r\n")
        assert script.heard() == b"426 Broken\r\n"
        assert script.ask(b"RETR f", b"150 a\r\n226 b\r\n") == b"150 a\r\n226 b\r\n"


@pytest.mark.parametrize("replies", [b"425 No\r\n", b"150 a\r\n226 b\r\n", b"150 a\r\n426 b\r\n"])
def test_what_a_transfer_has_not_used_is_withdrawn_if_the_next_has_its_own(replies):
    with logged_in() as script:
        script.client(PASSIVE[0]).server(PASSIVE[1])
        (first,) = script.actions
        script.client(b"RETR f\r\n" + PASSIVE[0])
        assert first.is_active
        script.server(replies)
        assert not first.is_active
        script.server(PASSIVE[1])
        assert script.actions[-1].is_active


def test_a_client_cannot_come_any_more_when_its_server_is_gone():
    with Script(data_mode="active") as script:
        script.ask(b"PASV", b"200 Ok\r\n")
        action, (data,) = script.actions[-1], script.data
        data.server_comes()
        assert action.is_active
        data.fail()
        assert not action.is_active
        script.heard(), script.got()
        script.client(b"RETR f\r\n")
        assert script.heard() == b"425 Cannot open a data connection\r\n"


@pytest.mark.parametrize("speaker", ["client", "server"])
def test_what_has_not_begun_when_the_connection_breaks_is_never_begun(speaker):
    """Python says so of coroutines that nobody has awaited: there must be none."""
    with warnings.catch_warnings(record=True) as caught, Script() as script:
        warnings.simplefilter("always")
        if speaker == "server":
            script.client(b"PASV\r\n")
        script.play.arrange = lambda descriptors: sorted(descriptors, reverse=speaker == "server")
        with script.play.at_once():
            if speaker == "client":
                script.client(b"PORT 10,0,0,8,20,1\r\n")
                script.play.server.reset()
            else:
                script.server(b"227 Entering Passive Mode (192,0,2,1,200,1)\r\n")
                script.play.client.reset()
        assert script.play.client.is_reset or script.play.server.is_reset
        assert not script.actions
        gc.collect()
    assert not caught
