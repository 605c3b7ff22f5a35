"""Every example, run as a program of its own; each does what the direct way cannot."""

from __future__ import annotations

import contextlib
import ftplib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest
from rig import OTHER_HOST, THIRD_HOST, World, open_world

from fwproxy import Endpoint

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE = 20.0
MOST_LINES = 50
"""What a filter for a protocol of one's own may take, its imports and docstring counted."""


class Example:
    """A running example; a context manager that leaves nothing of it behind."""

    def __init__(self, name: str, directory: Path, *args: str) -> None:
        self._command = [sys.executable, str(EXAMPLES / f"{name}.py"), *args]
        self._outputs = [directory / "stdout", directory / "stderr"]
        self._environment = {**os.environ, "TMPDIR": str(directory)}

    def __enter__(self) -> Self:
        with self._outputs[0].open("wb") as output, self._outputs[1].open("wb") as errors:
            # Where the tests run in the background of a shell, SIGINT is ignored, and inherited so.
            self.process = subprocess.Popen(
                ["env", "--default-signal=INT", *self._command],
                stdout=output,
                stderr=errors,
                env=self._environment,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        return self._outputs[0].read_text()

    @property
    def errors(self) -> str:
        return self._outputs[1].read_text()

    def wait_for(self, pattern: str) -> str:
        """Wait until the example has written what *pattern* says; return its first group."""
        give_up = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.output + self.errors)):
            assert self.process.poll() is None, self.output + self.errors
            assert time.monotonic() < give_up, f"no {pattern}: {self.output}{self.errors}"
            time.sleep(0.01)
        return found.group(1)

    def interrupt(self) -> int:
        """Do what Ctrl-C does; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def catches(self, number: signal.Signals) -> bool:
        """Tell whether the example has a handler for a signal."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
        assert caught is not None
        return bool(int(caught.group(1), 16) >> (number - 1) & 1)


@pytest.fixture
def six_only() -> Iterator[socket.socket]:
    """A server that clients with nothing but IPv4 cannot reach."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        server.settimeout(PATIENCE)
        yield server


def endpoint(text: str) -> tuple[str, int]:
    address = Endpoint.parse(text)
    return address.host, address.port


def test_all_examples_are_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "passthrough",
        "custom_filter",
        "embed",
    }


def test_passthrough(tmp_path: Path, six_only: socket.socket) -> None:
    port = six_only.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE)

    with Example("passthrough", tmp_path, "127.0.0.1:0", f"[::1]:{port}") as example:
        proxy = endpoint(example.wait_for(r"listening .*address=(\S+)"))
        for number in range(2):
            with socket.create_connection(proxy, PATIENCE) as client:
                server, _ = six_only.accept()
                with server:
                    client.sendall(b"question")
                    assert server.recv(8, socket.MSG_WAITALL) == b"question"
                    server.sendall(b"answer")
                    assert client.recv(6, socket.MSG_WAITALL) == b"answer"
            example.wait_for(rf"(connection closed session={number + 1}) ")
        assert example.interrupt() == 0
    lines = [line for line in example.errors.splitlines() if "connection closed" in line]
    assert len(lines) == 2
    assert all("client_bytes=8 server_bytes=6" in line for line in lines)
    assert "Traceback" not in example.errors
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy, PATIENCE)


def test_passthrough_interrupted_in_the_middle(tmp_path: Path, six_only: socket.socket) -> None:
    upstream = f"[::1]:{six_only.getsockname()[1]}"
    with Example("passthrough", tmp_path, "127.0.0.1:0", upstream) as example:
        proxy = endpoint(example.wait_for(r"listening .*address=(\S+)"))
        with socket.create_connection(proxy, PATIENCE) as client:
            server, _ = six_only.accept()
            with server:
                assert example.interrupt() == 0
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
    assert "Traceback" not in example.errors


def test_custom_filter() -> None:
    command = [sys.executable, str(EXAMPLES / "custom_filter.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    directly, by_proxy = done.stdout.splitlines()
    assert re.fullmatch(r"directly: 'REDIRECT depot\.invalid:\d+' leads nowhere: \S.*", directly)
    assert re.fullmatch(
        r"by proxy: 'REDIRECT 127\.0\.0\.1:4\d{4}' leads to 'a parcel from the depot'", by_proxy
    )
    assert done.stderr == ""


def test_custom_filter_is_short() -> None:
    filter_part, marker, _ = (
        (EXAMPLES / "custom_filter.py").read_text().partition("# The filter ends here.")
    )
    assert marker
    assert len(filter_part.rstrip().splitlines()) <= MOST_LINES


@pytest.fixture(scope="module")
def custom_filter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("custom_filter", EXAMPLES / "custom_filter.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_filter_leads_only_to_the_server_itself(custom_filter: ModuleType) -> None:
    """Whatever host the server names: the proxy connects to nobody else for it."""
    async with open_world(custom_filter.ParcelFilter) as world:
        named, counter = world.listen(THIRD_HOST), world.listen()
        primary = await world.primary()
        for host in (named.address.host, "depot.invalid", "[2001:db8::1]"):
            line = f"REDIRECT {host}:{counter.address.port}\r\n"
            await primary.server.send(line.encode())
            answer = (await primary.client.receive()).decode()
            assert answer.startswith("REDIRECT 127.0.0.1:")
            client = await world.connect(Endpoint.parse(answer.split()[1]))
            server = await world.accept(counter)
            await server.send(b"parcel")
            assert await client.read(6) == b"parcel"


async def collect(world: World, address: str, source: str) -> bytes:
    peer = await world.connect(Endpoint.parse(address), source)
    return await peer.read_all()


async def test_nobody_else_may_collect_the_parcel(custom_filter: ModuleType) -> None:
    async with open_world(custom_filter.ParcelFilter) as world:
        primary = await world.primary()
        await primary.server.send(b"REDIRECT depot.invalid:4711\r\n")
        answer = (await primary.client.receive()).decode()
        with pytest.raises(ConnectionResetError):
            await collect(world, answer.split()[1], OTHER_HOST)


@pytest.mark.parametrize("address", ["depot.invalid", "depot.invalid:x", "a:0", "a:65536", ""])
async def test_the_filter_refuses_what_is_no_address(
    custom_filter: ModuleType, address: str
) -> None:
    async with open_world(custom_filter.ParcelFilter) as world:
        primary = await world.primary()
        await primary.server.send(f"REDIRECT {address}\r\n".encode())
        assert await primary.client.is_cut_off()


def fetch_status(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE) as page:
        return json.load(page)


@contextlib.contextmanager
def logged_in(url: str) -> Iterator[ftplib.FTP]:
    host, port = endpoint(url.removeprefix("ftp://").partition("/")[0])
    with ftplib.FTP(timeout=PATIENCE) as client:
        client.connect(host, port)
        client.login()
        yield client


@pytest.mark.parametrize("listener", ["ftp", "active"])
def test_embed(tmp_path: Path, listener: str) -> None:
    with Example("embed", tmp_path, "0", "0", "0") as example:
        status = example.wait_for(r"status: curl (\S+)")
        assert fetch_status(status) == {"sessions": [], "ledger": []}

        with logged_in(example.wait_for(rf"{listener}: curl (\S+)")) as client:
            host, port = ftplib.parse227(client.sendcmd("PASV"))
            shown = fetch_status(status)
            (session,) = shown["sessions"]
            assert (session["listener"], session["client"]) == (listener, "127.0.0.1")
            assert "user" in {connection["path"] for connection in session["connections"]}
            # What an active server opens is a connection already, which waits for the client.
            assert len(session["connections"]) == {"ftp": 1, "active": 2}[listener]
            assert f"{host}:{port}" in {entry["proxy_address"] for entry in shown["ledger"]}

            lines: list[str] = []
            client.retrlines("RETR README.txt", lines.append)
            assert lines[0].startswith("This file came through fwproxy")
        example.wait_for(r"(connection closed.* path='user')")
        assert fetch_status(status) == {"sessions": [], "ledger": []}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), PATIENCE)

        assert not example.catches(signal.SIGTERM)
        assert example.interrupt() == 0
    assert not list(tmp_path.glob("fwproxy-demo-*"))
    assert "INFO fwproxy: event='connection closed'" in example.errors
    assert "Traceback" not in example.errors
    assert all(" curl " in line for line in example.output.splitlines())
    with pytest.raises((urllib.error.URLError, ConnectionRefusedError)):
        fetch_status(status)
