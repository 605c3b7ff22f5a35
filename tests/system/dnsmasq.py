"""dnsmasq as a DNS server on loopback, whose log says what it was asked."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .processes import find_program, stop
from .proxy import wait_until
from .server_kind import free_port

PACKAGE = "dnsmasq-base"


class Dnsmasq:
    """A running server.

    Attributes:
        host: its address.
        port: the same for UDP and TCP.
    """

    def __init__(
        self, process: subprocess.Popen[str], directory: Path, host: str, port: int
    ) -> None:
        self.host, self.port = host, port
        self._process = process
        self._log, self._hosts = directory / "dnsmasq.log", directory / "names"

    @property
    def address(self) -> str:
        """As the configuration of the proxy has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def questions(self, name: str) -> list[str]:
        """What it was asked about a name, each time, sorted: `A`, `AAAA` or `PTR`."""
        found = re.findall(rf"query\[(\w+)\] {re.escape(name)} from", self._log.read_text())
        return sorted(found)

    def know(self, names: Mapping[str, str]) -> None:
        """Have it know these addresses, and no others that were told it so."""
        self._hosts.write_text("".join(f"{host} {name}\n" for name, host in names.items()))
        before = self._readings()
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self._readings() > before, "dnsmasq has read the names")

    def _readings(self) -> int:
        return self._log.read_text().count(f"read {self._hosts} ")

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Let it answer nothing meanwhile."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def await_start(self) -> None:
        """Wait until it answers."""

        def started() -> bool:
            said = self._log.read_text() if self._log.exists() else ""
            assert self._process.poll() is None, f"dnsmasq ended:\n{said}"
            return bool(self._readings()) if said else False

        wait_until(started, "dnsmasq has started")


def _free_port(host: str) -> int:
    """A port on which nobody listens, nor waits for datagrams."""
    while True:
        port = free_port(host)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port


@contextlib.contextmanager
def dnsmasq(directory: Path, *options: str, host: str = "127.0.0.1") -> Iterator[Dnsmasq]:
    """Run a server that knows what its options say, and nothing else below `test`.

    What `know` tells it has the TTL of the option `--local-ttl`, and otherwise 0.
    """
    program = find_program("dnsmasq")
    if program is None:
        pytest.skip(f"package missing: {PACKAGE}")
    port = _free_port(host)
    directory.joinpath("names").write_text("")
    command = [
        *(program, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="),
        *(f"--user={pwd.getpwuid(os.geteuid()).pw_name}", "--no-resolv", "--no-hosts"),
        *(f"--listen-address={host}", f"--port={port}", "--bind-interfaces"),
        *("--log-queries", f"--log-facility={directory / 'dnsmasq.log'}"),
        *("--local=/test/", f"--addn-hosts={directory / 'names'}", *options),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, start_new_session=True)
    try:
        made = Dnsmasq(process, directory, host, port)
        made.await_start()
        yield made
    finally:
        stop(process)
