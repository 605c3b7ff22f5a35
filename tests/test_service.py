"""The proxy as a process: what it prints and logs, and how it stops on signals."""

from __future__ import annotations

import asyncio
import contextlib
import ftplib
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from fwproxy import demo
from fwproxy.address import Endpoint
from fwproxy.service import run as service

COMMAND = [sys.executable, "-m", "fwproxy"]
PATIENCE = 20.0
RUN_ON_A_FREE_PORT = """
from fwproxy import cli
cli.LISTEN = cli.Endpoint("127.0.0.1", 0)
cli.main(["run", "--log-level", "warning"])
"""


def write_config(directory: Path, port: int, server: Endpoint, more: str = "") -> Path:
    path = directory / "proxy.toml"
    path.write_text(
        f'[[listeners]]\nname = "ftp"\nbind = "127.0.0.1:{port}"\nupstream = "{server}"\n'
        f'protocol = "ftp"\n{more}',
        encoding="utf-8",
    )
    return path


class Process:
    """A running fwproxy whose log is JSON."""

    def __init__(self, *args: str | Path) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._log = b""

    def wait_for(self, event: str) -> dict[str, object]:
        """Read the log, in JSON, up to the line of an event."""
        while True:
            found: dict[str, object] = json.loads(self._line(event))
            if found["event"] == event:
                return found

    def wait_for_text(self, text: str) -> None:
        """Read the log up to a line that holds *text*."""
        while text not in self._line(text):
            pass

    def _line(self, wanted: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._log:
            self._read(max(0.0, deadline - time.monotonic()), wanted)
        line, _, self._log = self._log.partition(b"\n")
        return line.decode()

    def _read(self, patience: float, event: str) -> None:
        assert self._process.stderr is not None
        descriptor = self._process.stderr.fileno()
        ready, _, _ = select.select([descriptor], [], [], patience)
        data = os.read(descriptor, 65536) if ready else b""
        assert data, f"no log line {event!r}, but {self._log!r}"
        self._log += data

    def address(self) -> Endpoint:
        found = Endpoint.parse(str(self.wait_for("listening")["address"]))
        self.wait_for("started")
        return found

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, patience: float = PATIENCE) -> tuple[int, str, str]:
        """Wait for the end; return exit code, output and the rest of the log."""
        output, errors = self._process.communicate(timeout=patience)
        return self._process.returncode, output.decode(), (self._log + errors).decode()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def running(*args: str | Path) -> Iterator[Process]:
    process = Process(*args)
    try:
        yield process
    finally:
        process.kill()


def await_condition(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[demo.DemoServer]:
    with demo.DemoServer() as running_server:
        yield running_server


@pytest.fixture
def config(tmp_path: Path, server: demo.DemoServer) -> Path:
    return write_config(tmp_path, 0, server.address, '[log]\nformat = "json"\n')


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_run_serves_until_it_is_told_to_stop(config: Path, loop: str) -> None:
    with running("run", "--config", config, "--loop", loop) as process:
        assert demo.fetch(process.address(), "PASV")
        process.send(signal.SIGTERM)
        code, output, log = process.end()
    assert (code, output) == (0, "")
    assert "Traceback" not in log


def test_options_override_the_file(config: Path) -> None:
    args = ("run", "--config", config, "--log-format", "console", "--log-level", "debug")
    with running(*args) as process:
        process.wait_for_text(" info    started ")
        process.send(signal.SIGINT)
        code, output, log = process.end()
    assert (code, output) == (0, "")
    assert " info    stopped" in log


def test_too_few_open_files_are_said_at_start(tmp_path: Path, server: demo.DemoServer) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    log = '[log]\nformat = "json"\n'
    more = f"{log}[limits]\nmax_sessions = {hard}\n"
    with running("run", "--config", write_config(tmp_path, 0, server.address, more)) as process:
        reason = str(process.wait_for("too few open files")["reason"])
        assert process.address()
    assert f"max_sessions = {hard} " in reason
    assert f"the limit is {hard}" in reason
    with running(
        "run",
        "--config",
        write_config(tmp_path, 0, server.address, f"{log}[limits]\nmax_sessions = 2"),
    ) as process:
        assert process.address()
        process.send(signal.SIGTERM)
        assert "too few" not in process.end()[2]


def test_sigusr1_opens_the_ledgers_file_anew(tmp_path: Path, server: demo.DemoServer) -> None:
    path, moved = tmp_path / "ledger", tmp_path / "ledger.1"
    more = f'[log]\nformat = "json"\n[ledger]\nfile = "{path}"\n'
    with running("run", "--config", write_config(tmp_path, 0, server.address, more)) as process:
        address = process.address()
        assert demo.fetch(address, "PASV")
        await_condition(lambda: path.stat().st_size)
        path.rename(moved)
        process.send(signal.SIGUSR1)
        await_condition(path.exists)
        assert demo.fetch(address, "PASV")
        process.send(signal.SIGHUP)
        assert process.end()[0] == 0
    assert b'"opened"' in moved.read_bytes()
    assert b'"opened"' in path.read_bytes()


def test_the_first_signal_lets_sessions_finish(config: Path) -> None:
    with running("run", "--config", config) as process:
        address = process.address()
        client = ftplib.FTP(timeout=10)
        client.connect(address.host, address.port)
        client.login()
        process.send(signal.SIGTERM)
        assert process.wait_for("stopping")["sessions"] == 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address.sockaddr, timeout=5)
        assert client.pwd() == "/"
        assert process.is_running()
        client.quit()
        assert process.end()[0] == 0


def test_the_second_signal_ends_sessions_at_once(config: Path) -> None:
    with running("run", "--config", config) as process:
        address = process.address()
        with ftplib.FTP(timeout=10) as client:
            client.connect(address.host, address.port)
            client.login()
            process.send(signal.SIGINT)
            process.wait_for("stopping")
            process.send(signal.SIGTERM)
            assert process.end(5)[0] == 0
            with pytest.raises((EOFError, OSError, ftplib.error_temp)):
                client.pwd()


def test_sessions_have_until_the_stop_timeout(tmp_path: Path, server: demo.DemoServer) -> None:
    more = '[limits]\nstop_timeout = 0.5\n[log]\nformat = "json"\n'
    path = write_config(tmp_path, 0, server.address, more)
    with running("run", "--config", path) as process:
        address = process.address()
        with socket.create_connection(address.sockaddr, timeout=10) as client:
            assert client.recv(3) == b"220"
            process.send(signal.SIGTERM)
            assert process.end(10)[0] == 0


def test_an_address_in_use_is_one_line_with_listener_and_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = write_config(tmp_path, port, Endpoint("127.0.0.1", 1), '[log]\nlevel = "error"\n')
        done = subprocess.run(
            [*COMMAND, "run", "--config", path],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"fwproxy: listener 'ftp' cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


def curl_line(output: str) -> Endpoint:
    [line] = [each for each in output.splitlines() if "curl" in each]
    match = re.fullmatch(r" *curl ftp://(\S+)/README\.txt", line)
    assert match is not None
    return Endpoint.parse(match[1])


@pytest.mark.parametrize(
    "start",
    [
        ["-m", "fwproxy", "demo", "--listen", "127.0.0.1:0", "--log-level", "warning"],
        [
            "-c",  # `fwproxy run` without a file, on a free port for the sake of parallel tests
            RUN_ON_A_FREE_PORT,
        ],
    ],
    ids=["demo", "run"],
)
def test_the_proxy_in_front_of_the_demo_server_shows_how_to_try_it(
    tmp_path: Path, start: list[str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, *start],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        output = process.stdout.readline() + process.stdout.readline()
        assert demo.fetch(curl_line(output), "EPSV", "README.txt")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")
        assert not list(tmp_path.iterdir())
    finally:
        process.kill()
        process.communicate()


def test_demo_check_as_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
    assert done.stdout.splitlines()[-1] == "the proxy works"


class SlowFirewall:
    """Its sessions end when they are told to."""

    def __init__(self) -> None:
        self.sessions = ["one", "two"]
        self.ended = asyncio.Event()
        self.grace: list[float | None] = []

    async def stop(self, grace: float | None = None) -> None:
        self.grace.append(grace)
        if grace == 0:
            self.ended.set()
        await self.ended.wait()


async def test_the_log_says_how_many_sessions_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_REPORT_EVERY", 0.01)
    firewall, insisted = SlowFirewall(), asyncio.Event()
    with structlog.testing.capture_logs() as lines:
        stopping = asyncio.create_task(service._stop(firewall, insisted))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        insisted.set()
        await stopping
    assert {"event": "waiting for sessions to end", "log_level": "info", "sessions": 2} in lines
    assert lines[-1]["event"] == "closing all sessions at once"
    assert firewall.grace == [None, 0]
