"""Starting programs, waiting until they listen, reading their CPU and memory, ending them."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from tests.system.ends import socket_in

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_TIMEOUT = 20.0
LOAD_TIMEOUT = 180.0

# Below the usual ephemeral range, so that no outgoing connection of a load takes a port between
# finding and using it; and above vsftpd's passive ports (see contenders.py).
PORTS = range(20000, 32000)


class BenchError(Exception):
    """One contender could not be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a program and all its threads and children have used so far."""

    cpu: float  # seconds, user and system
    rss: int  # bytes
    anonymous: int  # bytes, the RssAnon part of rss


class Program:
    """A program that runs beside the benchmark, with everything it starts itself."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path | None) -> None:
        self.name = name
        self.process = process
        self.log = log

    def wait_until_listening(
        self, port: int, host: str = HOST, namespace: str | None = None
    ) -> None:
        """Return once the port accepts a connection; raise if the program ends before."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended while starting: {self.last_words()}")
            with socket_in(namespace, host) as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((host, port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{self.name} did not listen within {START_TIMEOUT:.0f} s: {self.last_words()}"
                )
            time.sleep(0.01)

    def usage(self) -> Usage:
        """CPU and memory of the whole tree of processes."""
        cpu, rss, anonymous = 0.0, 0, 0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                times = process.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
                rss += process.memory_info().rss
                anonymous += _rss_anon(process.pid)
        if self.process.poll() is not None:
            raise BenchError(f"{self.name} ended during the measurement: {self.last_words()}")
        return Usage(cpu, rss, anonymous)

    def proportional(self) -> int:
        """Memory of the whole tree in bytes, what several processes share counted once (PSS)."""
        total = 0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                total += int(process.memory_full_info().pss)
        return total

    def last_words(self) -> str:
        """The end of the program's own output, on one line."""
        if self.log is None:
            return f"exit status {self.process.poll()}"
        text = self.log.read_text(errors="replace").replace(f"{self.log.parent}/", "")
        lines = text.strip().splitlines()
        return " | ".join(line.strip() for line in lines[-3:])[-400:] or "no output"

    def end(self) -> None:
        """Ask the program to end, then kill whatever is left of it."""
        tree = self._tree()
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session, see program()
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _tree(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def inside(namespace: str | None, command: Sequence[str]) -> list[str]:
    """The command that runs another one in a network namespace, or as it is for None."""
    return [*(["ip", "netns", "exec", namespace] if namespace else []), *command]


@contextmanager
def program(
    name: str, command: Sequence[str], log: Path, namespace: str | None = None
) -> Iterator[Program]:
    """Run a command in a session of its own, its output in a file, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            inside(namespace, command),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Program(name, process, log)
    try:
        yield running
    finally:
        running.end()


class Helper(Program):
    """A module of this package in a process of its own: lines in, one JSON value per line out.

    It ends by itself when the benchmark goes away, because its standard input then closes.
    """

    def ask(self, line: str) -> None:
        stdin = self._stream(self.process.stdin)
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self.name} is gone") from None

    def answer(self, patience: float = LOAD_TIMEOUT) -> dict[str, float]:
        """The next answer; an ``error`` in it becomes a BenchError."""
        stdout = self._stream(self.process.stdout)
        if not select.select([stdout], [], [], patience)[0]:
            raise BenchError(f"{self.name} did not answer within {patience:.0f} s")
        line = stdout.readline()
        if not line:
            raise BenchError(f"{self.name} ended without an answer")
        value: dict[str, float | str] = json.loads(line)
        if "error" in value:
            raise BenchError(f"{self.name}: {value['error']}")
        return {key: float(number) for key, number in value.items()}

    @staticmethod
    def _stream(stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None
        return stream


@contextmanager
def helper(module: str, *arguments: object, namespace: str | None = None) -> Iterator[Helper]:
    """Run ``python -m benchmarks.MODULE ARGUMENTS`` until the block ends."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    process = subprocess.Popen(
        inside(namespace, command),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    running = Helper(f"{module} {arguments[0]}", process, None)
    try:
        yield running
    finally:
        running.end()


def load(
    kind: str, where: int | str, namespace: str | None = None, **settings: object
) -> dict[str, float]:
    """Run one load to its end, against a port of this host or HOST:PORT; return its figures."""
    words = (f"{key}={value}" for key, value in settings.items())
    with helper("loads", kind, where, *words, namespace=namespace) as run:
        return run.answer()


def free_port() -> int:
    """A port that nothing is bound to on the loopback address."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as candidate:
            try:
                candidate.bind((HOST, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
        return port
    raise BenchError(f"no free port between {PORTS.start} and {PORTS.stop - 1}")


def raise_file_limit(wanted: int) -> int:
    """Allow as many open files as wanted, or as many as may be had; return the new limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for soft, new_hard in ((max(wanted, hard), max(wanted, hard)), (hard, hard)):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, new_hard))
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _rss_anon(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
