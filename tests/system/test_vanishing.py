"""Clients that vanish during a transfer of a large file, and servers that cannot be had."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator

import attrs
import pytest

from .conftest import StartServer
from .ends import ScriptedClient, ScriptedServer, active_command, knock, listen, read_exactly, reset
from .ftp_servers import VSFTPD
from .matrix import LARGE, Samples
from .proxy import Listener, Proxy, running_proxy
from .server_kind import FTPServer, free_port
from .terms import LOOPBACK, Mode, Target

HOST = LOOPBACK[4]
PATIENCE = 10.0
TIMEOUTS = {"connect_timeout": 0.5, "idle_timeout": 1.0}
FIRST = 1 << 20


@attrs.frozen
class Street:
    """A real server and the proxy before it."""

    server: FTPServer
    proxy: Proxy

    def login(self) -> ScriptedClient:
        """A client that has logged in through the proxy."""
        client = ScriptedClient(self.proxy.target("ftp", self.server))
        client.login()
        return client


@pytest.fixture(scope="module")
def shared(start_server: StartServer) -> Iterator[Street]:
    """The one proxy of this module."""
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    server = start_server(VSFTPD, 4)
    with running_proxy([Listener("ftp", HOST, server)]) as proxy:
        yield Street(server, proxy)
        proxy.finish()


@pytest.fixture
def street(shared: Street) -> Iterator[Street]:
    """The proxy, which every test must leave as it was."""
    with shared.proxy.left_as_it_was():
        yield shared


def start_transfer(client: ScriptedClient, mode: Mode, command: str) -> socket.socket:
    """Start a transfer; the client's end of its data connection."""
    if mode is Mode.PASSIVE:
        data = client.open_data()
        client.send(f"{command}\r\n".encode())
    else:
        with client.listen() as listener:
            assert client.code(active_command(listener)) == 200
            client.send(f"{command}\r\n".encode())
            data = listener.accept()[0]
    assert client.code() == 150
    data.settimeout(PATIENCE)
    return data


def move_some(data: socket.socket, command: str) -> None:
    """Move the first part of the file."""
    if command.startswith("STOR"):
        data.sendall(bytes(FIRST))
    else:
        assert len(read_exactly(data, FIRST)) == FIRST


def commands() -> list[str]:
    return ["RETR large.bin", f"STOR incoming/{secrets.token_hex(8)}"]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("way", [0, 1], ids=["RETR", "STOR"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_vanishes_during_a_transfer(
    how: str, way: int, mode: Mode, street: Street
) -> None:
    start, command = len(street.proxy.lines()), commands()[way]
    client = street.login()
    with start_transfer(client, mode, command) as data:
        move_some(data, command)
        for sock in (client.sock, data):
            if how == "close":
                sock.close()
            else:
                reset(sock)
    (line,) = street.proxy.await_log("connection closed", start, protocol="ftp-data")
    assert 0 < line["server_bytes"] + line["client_bytes"] < LARGE
    street.proxy.await_log("connection closed", start, protocol="ftp")


@pytest.mark.parametrize("way", [0, 1], ids=["RETR", "STOR"])
def test_a_client_that_only_resets_its_data_connection(
    way: int, street: Street, samples: Samples
) -> None:
    command = commands()[way]
    with street.login() as client:
        data = start_transfer(client, Mode.PASSIVE, command)
        move_some(data, command)
        reset(data)
        assert client.code() == 426
        assert client.is_alive()
        assert client.fetch("mib.bin") == samples.content("mib.bin")
        assert client.code("QUIT") == 221


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_whose_control_connection_alone_vanishes(how: str, street: Street) -> None:
    client = street.login()
    with start_transfer(client, Mode.PASSIVE, "RETR large.bin") as data:
        move_some(data, "RETR")
        if how == "close":
            client.sock.close()
        else:
            reset(client.sock)
        # Whoever is gone does not read; what is on its way may still come, but it ends.
        with contextlib.suppress(ConnectionResetError):
            while data.recv(FIRST):
                pass


# Servers that cannot be had. The time-outs are short, as no clock can be moved here.


@contextlib.contextmanager
def before(upstream: Target) -> Iterator[Proxy]:
    """Run the proxy before something that is no FTP server."""
    with running_proxy([Listener("ftp", HOST, upstream)], limits=TIMEOUTS) as proxy:
        yield proxy
        proxy.finish()


def check_turned_away(proxy: Proxy, upstream: Target, reason: str) -> None:
    """Make sure that two clients are cut off with nothing said, and the log says why."""
    for _ in range(2):
        start = len(proxy.lines())
        with proxy.left_as_it_was():
            assert knock(*proxy.listeners["ftp"]) == "reset"
        (line,) = proxy.await_log("connection closed", start)
        assert reason in line["reason"]


def test_an_upstream_that_refuses() -> None:
    upstream = Target(HOST, free_port(HOST), "joe", "secret")
    with before(upstream) as proxy:
        check_turned_away(proxy, upstream, "refused")


def test_an_upstream_that_does_not_resolve() -> None:
    upstream = Target("no.such.host.invalid", 21, "joe", "secret")
    with before(upstream) as proxy:
        check_turned_away(proxy, upstream, "resolve")


def test_an_upstream_that_does_not_answer() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(HOST, backlog=0))
        host, port = listener.getsockname()
        for _ in range(3):  # more than wait there get no answer to their SYN
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex((host, port))
        upstream = Target(host, port, "joe", "secret")
        with before(upstream) as proxy:
            check_turned_away(proxy, upstream, "took too long")


def test_an_upstream_that_never_greets() -> None:
    with ScriptedServer() as server, before(server.target) as proxy:
        for leaves in (True, False):
            with (
                proxy.left_as_it_was(),
                ScriptedClient(proxy.target("ftp", server.target)) as client,
                server.accept() as inside,
            ):
                if leaves:
                    client.sock.close()
                    assert inside.rest() == b""
                else:  # idle for too long
                    with pytest.raises(ConnectionResetError):
                        client.rest()
