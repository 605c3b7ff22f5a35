"""A proxy that runs out of ports or of files, and one that is told to stop during a transfer."""

from __future__ import annotations

import contextlib
import secrets
import select
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from .conftest import StartServer
from .ends import ScriptedClient, active_command, connect, knock, read_all, read_exactly
from .ftp_servers import VSFTPD
from .matrix import LARGE, Samples, digest
from .proxy import Listener, Proxy, running_proxy, wait_until
from .server_kind import FTPServer, free_port
from .terms import LOOPBACK

HOST = LOOPBACK[4]
NO_DATA = b"425 Cannot open a data connection\r\n"
EXPIRY = 1.0
MAX_OPEN_FILES = 40
WAITING = "accept failed, new clients wait"
RESTS = 5
CPU_SECONDS = 0.2  # while it rests so often, for a second or two in all
FIRST = 1 << 20
STOP_TIMEOUT = 0.5


@pytest.fixture
def server(start_server: StartServer) -> FTPServer:
    """A real server on loopback."""
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    return start_server(VSFTPD, 4)


def connect_client(proxy: Proxy, server: FTPServer) -> ScriptedClient:
    """A client of the proxy's one listener, not greeted yet."""
    return ScriptedClient(proxy.target("ftp", server))


def logged_in(proxy: Proxy, server: FTPServer) -> ScriptedClient:
    """The same, logged in."""
    client = connect_client(proxy, server)
    client.login()
    return client


def test_a_pool_that_is_used_up_recovers(server: FTPServer, samples: Samples) -> None:
    port = free_port(HOST)
    more = f'[secondary]\nports = "{port}-{port}"\ntimeout = {EXPIRY}\n'
    with running_proxy([Listener("ftp", HOST, server)], more) as proxy:
        with (
            proxy.left_as_it_was(),
            logged_in(proxy, server) as one,
            logged_in(proxy, server) as other,
            other.listen() as listener,
        ):
            address = one.passive()
            assert address == (HOST, port)
            for command in ("EPSV", "PASV", active_command(listener), "EPSV"):
                assert other.ask(command) == NO_DATA
            assert other.is_alive()
            # Used, and so free again.
            with connect(*address) as data:
                assert one.code("RETR mib.bin") == 150
                assert other.passive() == address
                assert read_all(data) == samples.content("mib.bin")
            assert one.code() == 226
            # Not used, and so free again after a while.
            assert one.ask("EPSV") == NO_DATA
            proxy.await_log("permission ended", reason="expired")
            assert one.fetch("mib.bin") == samples.content("mib.bin")
            assert other.code("RETR mib.bin") == 425
            assert other.fetch("mib.bin") == samples.content("mib.bin")
        refusals = proxy.logged("data connection refused")
        assert len(refusals) == 5
        assert all("secondary.ports" in line["reason"] for line in refusals)
        proxy.finish()


def test_files_that_are_used_up_are_waited_for(server: FTPServer, samples: Samples) -> None:
    listeners = [Listener("ftp", HOST, server)]
    with running_proxy(listeners, max_open_files=MAX_OPEN_FILES) as proxy:
        with proxy.left_as_it_was(), contextlib.ExitStack() as stack:
            clients = use_up_files(proxy, server, stack)
            waiting = stack.enter_context(connect_client(proxy, server))
            before = proxy.cpu_seconds()
            start = len(proxy.lines())
            proxy.await_log(WAITING, start, count=RESTS)
            assert proxy.cpu_seconds() - before < CPU_SECONDS
            # Those who are there go on, as far as no more files are needed.
            assert all(client.is_alive() for client in clients)
            assert clients[0].ask("EPSV") == NO_DATA
            assert clients[0].is_alive()
            for client in clients[1:]:
                assert client.code("QUIT") == 221
                client.sock.close()
            waiting.login()
            for client in (waiting, clients[0]):
                assert client.fetch("mib.bin") == samples.content("mib.bin")
        proxy.finish()


def use_up_files(
    proxy: Proxy, server: FTPServer, stack: contextlib.ExitStack
) -> list[ScriptedClient]:
    """Log clients in until the proxy has no file left for another one."""
    clients: list[ScriptedClient] = []
    while len(clients) < MAX_OPEN_FILES:
        client = stack.enter_context(connect_client(proxy, server))
        if not is_served(client.sock, proxy):
            client.sock.close()
            return clients
        try:
            client.login()
        except ConnectionResetError:  # there was a file for the client, and none for its server
            clients[-1].passive()  # now the last one is used, too
            return clients
        clients.append(client)
    raise AssertionError("there is no limit")


def is_served(sock: socket.socket, proxy: Proxy) -> bool:
    """Whether something comes, be it a reset, and the proxy does not run out of files before."""

    def has_heard() -> bool:
        return bool(select.select([sock], [], [], 0)[0])

    wait_until(lambda: has_heard() or proxy.logged(WAITING))
    return has_heard()


# The end, while something is being transferred.


@contextlib.contextmanager
def transferring(
    server: FTPServer, command: str, stop_timeout: float = 30.0
) -> Iterator[tuple[Proxy, ScriptedClient, socket.socket]]:
    """The proxy, a client that has just begun a transfer, and its data connection."""
    limits = {"stop_timeout": stop_timeout}
    with (
        running_proxy([Listener("ftp", HOST, server)], limits=limits) as proxy,
        logged_in(proxy, server) as client,
        client.open_data() as data,
    ):
        assert client.code(command) == 150
        yield proxy, client, data


def stop(proxy: Proxy) -> None:
    """Send the first signal, and wait until nobody gets in any more."""
    proxy.send(signal.SIGTERM)
    proxy.await_log("stopping")
    assert knock(*proxy.listeners["ftp"]) == "refused"


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_sigterm_lets_a_download_finish(
    says_goodbye: bool,  # noqa: FBT001 - a parameter of the test
    server: FTPServer,
    samples: Samples,
) -> None:
    with transferring(server, "RETR large.bin") as (proxy, client, data):
        first = read_exactly(data, FIRST)
        stop(proxy)
        assert first + read_all(data) == samples.content("large.bin")
        data.close()
        assert client.code() == 226
        if says_goodbye:
            assert client.code("QUIT") == 221
        assert client.rest() == b""
        client.sock.close()
        assert proxy.exit_code() == 0
        assert proxy.lines()[-1]["event"] == "stopped"
        assert not proxy.logged("sessions ended by the stop")


def test_sigterm_lets_an_upload_finish(server: FTPServer, samples: Samples) -> None:
    name = f"incoming/{secrets.token_hex(8)}"
    content = samples.content("large.bin")
    with transferring(server, f"STOR {name}") as (proxy, client, data):
        data.sendall(content[:FIRST])
        stop(proxy)
        data.sendall(content[FIRST:])
        data.close()
        assert client.code() == 226
        assert client.code("QUIT") == 221
        assert proxy.exit_code() == 0
    stored = samples.root / name
    assert digest(stored) == samples.digests["large.bin"]
    stored.unlink()


def test_a_second_signal_ends_a_transfer_at_once(server: FTPServer) -> None:
    with transferring(server, "RETR large.bin") as (proxy, client, data):
        stop(proxy)
        started = time.monotonic()
        proxy.send(signal.SIGTERM)
        assert proxy.exit_code() == 0
        assert time.monotonic() - started < 2
        check_cut_off(client, data)


def test_a_transfer_has_until_the_stop_timeout(server: FTPServer) -> None:
    with transferring(server, "RETR large.bin", STOP_TIMEOUT) as (proxy, client, data):
        stop(proxy)
        assert proxy.exit_code() == 0
        check_cut_off(client, data)
        assert proxy.logged("sessions ended by the stop", sessions=1)


def check_cut_off(client: ScriptedClient, data: socket.socket) -> None:
    """Make sure that the file did not arrive, and does not look as if it had."""
    with pytest.raises(ConnectionResetError):
        assert len(read_all(data)) < LARGE
    with pytest.raises(ConnectionResetError):
        client.rest()
