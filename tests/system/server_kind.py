"""How a real FTP server is started on a free port and ended; ftp_servers has the servers.

    with VSFTPD.start(root, "127.0.0.1") as server:
        connect(server.host, server.port, server.username, server.password)

`root` is served. Sessions run as unprivileged accounts, so that it must be open to everyone, and
the directories in which tests store must be writable for everyone; `root` itself must not be
(vsftpd refuses that).
"""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from .processes import clean_environment, in_namespace, run, stop
from .terms import BOTH_FAMILIES, BOTH_MODES, Family, Mode, Target

USERNAME = "tester"
PASSWORD = "opensesame"
START_TIMEOUT = 10.0
START_TRIES = 3
# Not of the pools of other tests, nor of the range that the kernel takes outgoing ports from.
PORTS = range(20000, 25000)

GREETING_TRY = 0.5

# Waits for the greeting where the server is, and prints it; run in the server's namespace.
GREETING_PROBE = """
import socket, sys, time
host, port, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
while time.monotonic() < deadline:
    try:
        with socket.create_connection((host, port), 1.0) as connection:
            connection.settimeout(5.0)
            print(connection.makefile().readline(), end="")
            connection.sendall(b"QUIT\\r\\n")
            connection.recv(100)
            break
    except ConnectionError:
        time.sleep(0.01)
"""


class ServerNotStartedError(Exception):
    """The server ended, or did not greet in time."""


@attrs.frozen
class FTPServer:
    """A running server."""

    name: str
    host: str
    port: int
    username: str
    password: str
    root: Path

    @property
    def target(self) -> Target:
        """The server as a client's target, without a proxy between."""
        return Target(self.host, self.port, self.username, self.password)


class ServerKind(ABC):
    """How to configure and start one server; what it can and cannot do."""

    name: ClassVar[str]
    package: ClassVar[str]
    modes: ClassVar[frozenset[Mode]] = BOTH_MODES
    families: ClassVar[frozenset[Family]] = BOTH_FAMILIES
    checks_password: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """The package (or the right) that is missing here, for a skip that names it."""

    @classmethod
    @abstractmethod
    def command(cls, settings: Path, server: FTPServer) -> Sequence[str | Path]:
        """The foreground command, after writing its configuration into `settings`."""

    @classmethod
    @contextlib.contextmanager
    def start(
        cls,
        root: Path,
        host: str = "127.0.0.1",
        namespace: str | None = None,
        port: int | None = None,
    ) -> Iterator[FTPServer]:
        """Run the server on a port of `host`, any if none is given, in a namespace if one is."""
        with contextlib.ExitStack() as stack:
            for attempt in range(1, START_TRIES + 1):
                chosen = free_port(host) if port is None else port
                server = FTPServer(cls.name, host, chosen, *cls.credentials(), root)
                try:
                    stack.enter_context(cls._running(server, namespace))
                    break
                except ServerNotStartedError:  # another process may have taken the port meanwhile
                    if attempt == START_TRIES:
                        raise
            yield server

    @classmethod
    def credentials(cls) -> tuple[str, str]:
        """The user name and password that log in."""
        return USERNAME, PASSWORD

    @classmethod
    @contextlib.contextmanager
    def _running(cls, server: FTPServer, namespace: str | None) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix=f"fwproxy-{cls.name}-") as name:
            settings = Path(name)
            command = in_namespace(namespace, cls.command(settings, server))
            log = settings / "log"
            with log.open("w+") as output:
                process = subprocess.Popen(
                    command,
                    stdin=output,  # where vsftpd complains
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=clean_environment(settings),
                    start_new_session=True,
                )
            try:
                _await_greeting(server, namespace, process, log)
                yield
            finally:
                stop(process)


def _await_greeting(
    server: FTPServer, namespace: str | None, process: subprocess.Popen[str], log: Path
) -> None:
    probe = [sys.executable, "-c", GREETING_PROBE, server.host, str(server.port)]
    deadline = time.monotonic() + START_TIMEOUT
    greeting = ""
    while not greeting and process.poll() is None and time.monotonic() < deadline:
        greeting = run([*probe, str(GREETING_TRY)], namespace=namespace)
    if not greeting.startswith("220") or process.poll() is not None:
        said = log.read_text(errors="replace")
        raise ServerNotStartedError(
            f"{server.name}: exit {process.poll()}, greeting {greeting!r}, log:\n{said}"
        )


def free_port(host: str) -> int:
    """A port of `host` on which nothing listens; in a new namespace all are free anyway."""
    for port in random.sample(PORTS, 50):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("::" if ":" in host else "0.0.0.0", port))
            except OSError:
                continue
            return port
    raise ServerNotStartedError(f"no free port on {host}")
