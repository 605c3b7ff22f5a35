"""Bytes that a running proxy must not be led astray by, from clients and from servers."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import psutil
import pytest

from .ends import Control, ScriptedClient, ScriptedServer, knock, reset, talking
from .proxy import Listener, Proxy, running_proxy, wait_until
from .terms import LOOPBACK, Target

MAX_LINE = 8192
NOISE = 4 << 20
MEMORY = 2 << 20
FTP = '[filters.ftp]\ndeny = ["DELE"]\n'
NOOP, NOOP_OK = b"NOOP\r\n", b"200 Ok\r\n"
MALFORMED_ACTIVE = {
    "PORT": 501,
    "PORT ": 501,
    "PORT 127,0,0,1,200": 501,
    "PORT 127,0,0,1,200,1,1": 501,
    "PORT 127,0,0,1,,1": 501,
    "PORT 127,0,0,256,200,1": 501,
    "PORT 127,0,0,1,256,1": 501,
    "PORT 127,0,0,1,0,0": 501,
    "PORT 127,0,0,1,0,21": 501,
    "PORT 127,0,0,01,200,1": 501,
    "PORT 127,0,0,+1,200,1": 501,
    "PORT 127,0,0,1,-1,1": 501,
    "PORT 127,0,0,1,200,1;": 501,
    "PORT 127,0,0,1,200,1 x": 501,
    "PORT 0x7f,0,0,1,200,1": 501,
    "PORT 127.0.0.1.200.1": 501,
    "PORT ١٢٧,0,0,1,200,1": 501,
    "PORT 127,0,0,1,200,99999999999999999999": 501,
    "PORT 127,0,0,1,200,1 127,0,0,1,200,2": 501,
    "EPRT": 501,
    "EPRT |1|127.0.0.1|": 501,
    "EPRT |1|127.0.0.1|51201": 501,
    "EPRT |1|127.0.0.1|0|": 501,
    "EPRT |1|127.0.0.1|65536|": 501,
    "EPRT |1|127.0.0.1|1023|": 501,
    "EPRT |1|127.0.0.1|51201|x": 501,
    "EPRT |1|::1|51201|": 501,
    "EPRT |1|localhost|51201|": 501,
    "EPRT |1|127.1|51201|": 501,
    "EPRT |2|::1|51201|": 522,
    "EPRT |3|127.0.0.1|51201|": 522,
    "EPRT ||127.0.0.1|51201|": 501,
    "EPRT 1111127.0.0.11512011": 501,
    "EPSV 3": 522,
    "EPSV x": 501,
    "PASV 127,0,0,1,200,1": 501,
}
MALFORMED_PASSIVE = {
    "PASV": [
        "227 Entering Passive Mode",
        "227 Entering Passive Mode ()",
        "227 Entering Passive Mode (127,0,0,1,200)",
        "227 Entering Passive Mode (127,0,0,1,200,1,1)",
        "227 Entering Passive Mode (127,0,0,256,200,1)",
        "227 Entering Passive Mode (127,0,0,1,256,1)",
        "227 Entering Passive Mode (127,0,0,1,0,0)",
        "227 Entering Passive Mode (127,0,0,1,0,25)",
        "227 Entering Passive Mode (127,0,0,01,200,1)",
        "227 Entering Passive Mode (127,0,0,-1,200,1)",
        "227 Entering Passive Mode (127.0.0.1.200.1)",
        "227 Entering Passive Mode (127,0,0,1,200,1) (127,0,0,1,200,2)",
        "227 Entering Passive Mode (0x7f,0,0,1,200,1)",
        "227-(127,0,0,1,200,1)\r\n227 elsewhere",
        "229 (|||51201|)",
        "200 (127,0,0,1,200,1)",
        "227 Entering Passive Mode (127,0,0,1,200,99999999999999999999)",
    ],
    "EPSV": [
        "229 Extended",
        "229 Extended (|||)",
        "229 Extended (||||)",
        "229 Extended (|||0|)",
        "229 Extended (|||65536|)",
        "229 Extended (|||25|)",
        "229 Extended (|||051201|)",
        "229 Extended (|||-1|)",
        "229 Extended |||51201|",
        "229 Extended (|1|127.0.0.1|51201|)",
        "229 Extended (|||51201|) (|||51202|)",
        "229 Extended (|!|51201|)",
        "227 Entering Passive Mode (127,0,0,1,200,1)",
    ],
}  # fmt: skip
FAULTY_LINES = {
    "too long": b"CWD " + b"x" * MAX_LINE + b"\r\n",
    "too long, with a command at its end": b"x" * 3 * MAX_LINE + b"\nDELE f\r\n",
    "NUL": b"CWD a\0b\r\n",
    "NUL in the verb": b"CW\0D a\r\n",
    "NUL at the end": b"CWD a\0\r\n",
    "CR in an argument": b"CWD a\rDELE f\r\n",
    "two CR": b"CWD a\r\r\n",
    "no verb": b" \r\n",
    "a tab for a space": b"CWD\ta\r\n",
    "8-bit verb": b"CW\xc4 a\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n",
}
UNREADABLE_REPLIES = {
    "LF in a reply": b"250 a\n227 Entering Passive Mode (127,0,0,1,200,1)\r\n",
    "CR in a reply": b"250 a\r227 Entering Passive Mode (127,0,0,1,200,1)\r\n",
    "NUL in a reply": b"250 a\0b\r\n",
    "too long": b"250 " + b"x" * 20_000 + b"\r\n",
    "no code": b"Welcome\r\n",
    "a code too small": b"099 a\r\n",
    "an address that nobody asked for": b"227 Entering Passive Mode (127,0,0,1,200,1)\r\n",
    "another one": b"229 Extended (|||51201|)\r\n",
}  # fmt: skip


@attrs.frozen
class Street:
    """A scripted server and the proxy before it."""

    server: ScriptedServer
    proxy: Proxy

    @property
    def target(self) -> Target:
        return self.proxy.target("ftp", self.server.target)

    def check_nothing_opened(self, start: int) -> None:
        """Make sure that since log line `start` no port was opened."""
        assert self.proxy.listening() == {self.target.port}
        assert not self.proxy.logged("permission given", start)


@pytest.fixture(scope="module")
def shared() -> Iterator[Street]:
    """The one proxy of this module."""
    with ScriptedServer() as server:
        listeners = [Listener("ftp", LOOPBACK[4], server.target)]
        with running_proxy(listeners, FTP) as proxy:
            yield Street(server, proxy)
            proxy.finish()


@pytest.fixture
def street(shared: Street) -> Iterator[Street]:
    """The proxy, which every test must leave as it was."""
    with shared.proxy.left_as_it_was():
        yield shared


def check_in_step(client: ScriptedClient, inside: Control) -> None:
    """Make sure that nothing waits on either side, and both hear each other."""
    client.send(NOOP)
    assert inside.line() == NOOP
    inside.send(NOOP_OK)
    assert client.reply() == NOOP_OK


# Clients.


@pytest.mark.parametrize("name", FAULTY_LINES)
def test_a_faulty_line_is_answered_and_no_part_of_it_reaches_the_server(
    name: str, street: Street
) -> None:
    with talking(street.server, street.target) as (client, inside):
        client.send(FAULTY_LINES[name])
        assert client.code() == 500
        if name.endswith("with a command at its end"):
            assert client.code() == 502  # LF ends a line, too: the command is one, and denied
        check_in_step(client, inside)


def test_a_line_feed_smuggles_no_command_past_the_rules(street: Street) -> None:
    with talking(street.server, street.target) as (client, inside):
        client.send(b"CWD a\nDELE f\r\n")
        assert inside.line() == b"CWD a\r\n"
        inside.send(b"250 Ok\r\n")
        assert client.codes(2) == [250, 502]
        check_in_step(client, inside)


def test_an_endless_line_costs_no_memory(street: Street) -> None:
    process = psutil.Process(street.proxy.pid)
    with talking(street.server, street.target) as (client, inside):
        before = process.memory_info().rss
        client.send(b"x" * NOISE)
        assert client.code() == 500
        client.send(b"\r\n")
        check_in_step(client, inside)
        assert process.memory_info().rss < before + MEMORY


def test_malformed_addresses_of_the_client(street: Street) -> None:
    start = len(street.proxy.lines())
    with talking(street.server, street.target) as (client, inside):
        answers = {command: client.code(command) for command in MALFORMED_ACTIVE}
        assert answers == MALFORMED_ACTIVE
        check_in_step(client, inside)
        street.check_nothing_opened(start)


# Servers.


def test_malformed_addresses_of_the_server(street: Street) -> None:
    start = len(street.proxy.lines())
    with talking(street.server, street.target) as (client, inside):
        for verb, replies in MALFORMED_PASSIVE.items():
            for reply in replies:
                client.send(f"{verb}\r\n".encode())
                assert inside.line() == f"{verb}\r\n".encode()
                inside.send(f"{reply}\r\n".encode())
                assert client.reply() == b"425 Cannot open a data connection\r\n", reply
        check_in_step(client, inside)
        street.check_nothing_opened(start)
    wrong = street.proxy.logged("data connection refused", start)
    assert len(wrong) == sum(map(len, MALFORMED_PASSIVE.values()))


@pytest.mark.parametrize("name", UNREADABLE_REPLIES)
def test_an_unreadable_reply_ends_both_sides_and_never_reaches_the_client(
    name: str, street: Street
) -> None:
    start = len(street.proxy.lines())
    with talking(street.server, street.target) as (client, inside):
        client.send(b"CWD a\r\n")
        assert inside.line() == b"CWD a\r\n"
        inside.send(UNREADABLE_REPLIES[name])
        rest = client.rest()
        assert rest.startswith(b"421 ")
        assert rest.count(b"\n") == 1
        assert inside.rest() == b""
        street.check_nothing_opened(start)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"", b""),
        (b"227 Entering Passive Mode (127,0,0,1,200,1", b""),
        (b"227 Entering Passive Mode (127,0,0,1,200,1)\r", b""),
        (b"227-Entering\r\n", b""),
        (b"421-Going\r\n to", b"421-Going\r\n"),
    ],
)
def test_a_server_that_closes_within_a_reply(
    said: bytes, heard: bytes, how: str, street: Street
) -> None:
    start = len(street.proxy.lines())
    with talking(street.server, street.target) as (client, inside):
        client.send(b"PASV\r\n")
        assert inside.line() == b"PASV\r\n"
        inside.send(said)
        if how == "close":
            inside.sock.close()
            assert client.rest() == heard
        else:
            reset(inside.sock)
            with pytest.raises(ConnectionResetError):
                client.rest()
        street.check_nothing_opened(start)


def test_a_server_that_closes_before_it_greets(street: Street) -> None:
    with ScriptedClient(street.target) as client:
        street.server.accept().sock.close()
        assert client.rest() == b""


def test_a_pool_port_of_a_session_that_was_cut_off_is_closed(street: Street) -> None:
    with talking(street.server, street.target) as (client, inside):
        client.send(b"PASV\r\n")
        assert inside.line() == b"PASV\r\n"
        inside.send(b"227 Entering Passive Mode (127,0,0,1,200,1)\r\n")
        assert client.code() == 227
        (port,) = street.proxy.listening() - {street.target.port}
        reset(inside.sock)
        with pytest.raises(ConnectionResetError):
            client.rest()
        wait_until(lambda: port not in street.proxy.listening())
        assert knock(LOOPBACK[4], port) == "refused"
