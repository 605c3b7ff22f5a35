"""The demo server on its own, and the check that fetches through the proxy."""

from __future__ import annotations

import asyncio
import ftplib
import hashlib
import socket
import tempfile
import threading
from pathlib import Path

import pytest

from fwproxy import demo
from fwproxy.address import Endpoint


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files that no other process uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("mode", demo.MODES)
def test_the_server_serves_in_every_mode(mode: str) -> None:
    with demo.DemoServer() as server:
        result = demo.fetch(server.address, mode)
    assert result.startswith("1048576 bytes in ")


def connect(server: demo.DemoServer) -> ftplib.FTP:
    client = ftplib.FTP(timeout=10)
    client.connect(server.address.host, server.address.port)
    client.login()
    return client


def test_it_offers_a_readme_a_big_file_and_a_directory() -> None:
    with demo.DemoServer() as server, connect(server) as client:
        assert sorted(client.nlst()) == ["README.txt", "data.bin", "pub"]
        assert [name.rpartition("/")[2] for name in client.nlst("pub")] == ["hello.txt"]
        assert client.sendcmd("TYPE I").startswith("200")
        assert client.size("data.bin") == 1024 * 1024


@pytest.mark.parametrize("command", ["MKD x", "DELE README.txt", "RNFR README.txt", "STOR x"])
def test_it_is_read_only(command: str) -> None:
    with (
        demo.DemoServer() as server,
        connect(server) as client,
        pytest.raises(ftplib.error_perm, match="550"),
    ):
        client.sendcmd(command)


def test_leaving_ends_connections_thread_and_directory(directory: Path) -> None:
    before = threading.active_count()
    with demo.DemoServer() as server:
        client = connect(server)
        assert threading.active_count() == before + 1
        assert len(list(directory.iterdir())) == 1
    assert threading.active_count() == before
    assert not list(directory.iterdir())
    with pytest.raises((EOFError, OSError, ftplib.error_temp)):
        client.pwd()
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address.sockaddr, timeout=5)


def test_an_address_in_use_is_an_error_that_leaves_nothing_behind(directory: Path) -> None:
    with (
        demo.DemoServer() as server,
        pytest.raises(OSError, match="in use"),
        demo.DemoServer(server.address),
    ):
        pass
    assert not list(directory.iterdir())


def test_the_server_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with demo.DemoServer() as server:
        demo.fetch(server.address, "PASV")
    assert capfd.readouterr() == ("", "")


async def test_the_check_fetches_in_every_mode() -> None:
    lines: list[str] = []
    assert await demo.check(lines.append, 30) == 0
    assert [line.split(":")[0] for line in lines] == [*demo.MODES, "the proxy works"]
    assert all("1048576 bytes" in line and "SHA-256 is right" in line for line in lines[:-1])


async def test_the_check_fails_when_a_file_is_not_the_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch_wrong_file(proxy: Endpoint, mode: str) -> str:
        monkeypatch.setitem(demo.FILES, demo.BIG_FILE, b"another")
        return fetch(proxy, mode)

    fetch = demo.fetch
    monkeypatch.setattr(demo, "fetch", fetch_wrong_file)
    lines: list[str] = []
    assert await demo.check(lines.append, 30) == 1
    assert "PORT: failed: 1048576 bytes came, and they are not those of the file" in lines
    assert lines[-1] == "failed: 4 of 4"


async def test_the_check_ends_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(demo, "fetch", lambda proxy, mode: release.wait(10))
    lines: list[str] = []
    asyncio.get_running_loop().call_later(0.5, release.set)
    assert await demo.check(lines.append, 0.1) == 1
    assert lines == ["failed: not finished within 0.1 seconds"]


def test_the_big_file_is_always_the_same() -> None:
    digest = "d19584e88f006f8a8e4683b1782eeb2ff8c3f0ec386fe4f9c13e4841fb7ece32"
    assert hashlib.sha256(demo.FILES[demo.BIG_FILE]).hexdigest() == digest
