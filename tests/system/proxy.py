"""The proxy as a process: its configuration, its log, and what the kernel says of it.

with running_proxy([Listener("ftp", "127.0.0.1", server)]) as proxy:
    client.fetch(proxy.target("ftp", server), ...)
    proxy.finish()
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs
import psutil

from .processes import clean_environment, in_namespace, stop
from .server_kind import FTPServer
from .terms import Target

PATIENCE = 10.0
EXIT_PATIENCE = 5.0
SPARE_PIPES = 16  # what it keeps for the next bulky streams
LISTEN = "0A"  # a state in /proc/net/tcp
# So that a session which does not end by itself is noticed as a stop that takes too long.
STOP_TIMEOUT = 30.0

Line: TypeAlias = dict[str, Any]
_Found = TypeVar("_Found")


def wait_until(
    condition: Callable[[], _Found], what: str = "", patience: float = PATIENCE
) -> _Found:
    """What the condition gives when it is true; AssertionError when that takes too long."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {patience} s: {what or condition}"
        time.sleep(0.01)
    return found


def bracketed(host: str, port: int) -> str:
    """An address as the configuration has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@attrs.frozen
class Listener:
    """One way into the proxy. Port 0 is any free one."""

    name: str
    host: str
    upstream: FTPServer | Target | None = None
    kind: str = "forward"
    port: int = 0
    data_mode: str = "client"
    protocol: str | None = "ftp"
    keys: Mapping[str, object] = attrs.field(factory=dict)  # further ones of the listener
    settings: Mapping[str, str] = attrs.field(factory=dict)  # further ones of the FTP filter

    def toml(self) -> str:
        """The listener in the configuration file."""
        lines = [
            "[[listeners]]",
            f'name = "{self.name}"',
            f'kind = "{self.kind}"',
            f'bind = "{bracketed(self.host, self.port)}"',
        ]
        if self.protocol is not None:
            lines.append(f'protocol = "{self.protocol}"')
        lines += [f"{key} = {json.dumps(value)}" for key, value in self.keys.items()]
        if self.upstream is not None:
            lines.append(f'upstream = "{bracketed(self.upstream.host, self.upstream.port)}"')
        if self.protocol in (None, "ftp"):
            settings = {"data_mode": self.data_mode} | dict(self.settings)
            lines += ["[listeners.filters.ftp]", *(f'{k} = "{v}"' for k, v in settings.items())]
        return "".join(f"{line}\n" for line in lines)


class Proxy:
    """A running `fwproxy run --config FILE`.

    Attributes:
        configuration: its configuration file.
        listeners: where each one listens, by name.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, configuration: Path) -> None:
        self.configuration = configuration
        self._process = process
        self._log = log
        self._read = 0
        self._lines: list[Line] = []
        self.listeners: dict[str, tuple[str, int]] = {}

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def await_start(self) -> None:
        """Wait until it accepts connections."""

        def started() -> bool:
            assert self._process.poll() is None, f"the proxy ended:\n{self._log.read_text()}"
            return bool(self.logged("started"))

        wait_until(started, "the proxy has started")
        for line in self.logged("listening"):
            host, _, port = line["address"].rpartition(":")
            self.listeners[line["listener"]] = (host.strip("[]"), int(port))

    def target(self, listener: str, server: FTPServer | Target) -> Target:
        """A listener as a client's target, with the credentials of the server behind it."""
        host, port = self.listeners[listener]
        behind = server if isinstance(server, Target) else server.target
        return attrs.evolve(behind, host=host, port=port)

    # The log.

    def lines(self) -> list[Line]:
        """All lines so far."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")[0]
        if whole:
            self._read += len(whole) + 1
            self._lines += map(json.loads, whole.split(b"\n"))
        return self._lines

    def logged(self, event: str, start: int = 0, **fields: object) -> list[Line]:
        """The lines of an event from number `start` on, with these values."""
        return [
            line
            for line in self.lines()[start:]
            if line["event"] == event and all(line.get(key) == fields[key] for key in fields)
        ]

    def await_log(self, event: str, start: int = 0, count: int = 1, **fields: object) -> list[Line]:
        """Wait for lines, see `logged`."""

        def found() -> list[Line]:
            lines = self.logged(event, start, **fields)
            return lines if len(lines) >= count else []

        return wait_until(found, f"{count} log lines {event!r} {fields or ''}")

    def await_reason(self, words: str, start: int = 0) -> list[Line]:
        """Wait for lines from number `start` on whose reason has these words."""
        return wait_until(
            lambda: [line for line in self.lines()[start:] if words in (line.get("reason") or "")],
            f"a log line with the reason {words!r}",
        )

    # What the kernel knows.

    def sockets(self) -> list[tuple[str, int]]:
        """Its TCP sockets, each as its state in /proc/net/tcp and its local port."""
        directory = Path("/proc", str(self.pid))
        own = set(open_files(directory))
        found = []
        for name in ("tcp", "tcp6"):
            for row in (directory / "net" / name).read_text().splitlines()[1:]:
                fields = row.split()
                if f"socket:[{fields[9]}]" in own:
                    found.append((fields[3], int(fields[1].rpartition(":")[2], 16)))
        return found

    def listening(self) -> set[int]:
        """The ports that it listens on."""
        return {port for state, port in self.sockets() if state == LISTEN}

    def descriptors(self) -> int:
        """How many files it has open, without the pipes, of which it keeps some."""
        files = open_files(Path("/proc", str(self.pid)))
        return sum(not file.startswith("pipe:") for file in files)

    def pipe_ends(self) -> int:
        """How many ends of pipes it has open."""
        files = open_files(Path("/proc", str(self.pid)))
        return sum(file.startswith("pipe:") for file in files)

    def cpu_seconds(self) -> float:
        """The time that it has spent computing."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def is_at_rest(self) -> bool:
        """Whether it has no socket but its listeners."""
        ports = sorted(port for _, port in self.listeners.values())
        return sorted(self.sockets()) == [(LISTEN, port) for port in ports]

    def await_rest(self) -> None:
        """Wait until all sessions are over and nothing of them is left."""
        wait_until(self.is_at_rest, "the proxy has closed everything")

    @contextlib.contextmanager
    def left_as_it_was(self) -> Iterator[None]:
        """Make sure that what the block does leaves no socket and no file open."""
        descriptors, pipe_ends = self.descriptors(), self.pipe_ends()
        yield
        self.await_rest()
        wait_until(lambda: self.descriptors() == descriptors, "the proxy has closed its files")
        assert self.pipe_ends() <= pipe_ends + 2 * SPARE_PIPES

    # The end.

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def exit_code(self, patience: float = EXIT_PATIENCE) -> int:
        """Wait for the end."""
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            log = self._log.read_text()[-5000:]
            raise AssertionError(f"no end within {patience} s of the proxy:\n{log}") from None

    def finish(self) -> None:
        """Make sure that nothing is left of any session, and that the proxy ends as it should."""
        self.await_rest()
        self.send(signal.SIGTERM)
        assert self.exit_code() == 0
        lines = self.lines()
        assert not self.logged("stopping"), "there was a session without sockets"
        assert lines[-1]["event"] == "stopped"
        assert not [line for line in lines if line["level"] in {"error", "critical"}]


def open_files(process: Path) -> list[str]:
    """What the descriptors of a process are."""
    found = []
    for path in process.joinpath("fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in this moment
            found.append(str(path.readlink()))
    return found


@contextlib.contextmanager
def running_proxy(
    listeners: Sequence[Listener],
    more: str = "",
    *,
    namespace: str | None = None,
    max_open_files: int | None = None,
    limits: Mapping[str, float] | None = None,
    started_by: Sequence[str] = (),
) -> Iterator[Proxy]:
    """Run the proxy in a network namespace or not; `more` is added to its configuration.

    `started_by` is a command that starts another one, as somebody else perhaps.
    """
    with tempfile.TemporaryDirectory(prefix="fwproxy-proxy-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        configuration, log = directory / "proxy.toml", directory / "log"
        limited = {"stop_timeout": STOP_TIMEOUT, **(limits or {})}
        limit_lines = "".join(f"{key} = {value}\n" for key, value in limited.items())
        logging = '[log]\nformat = "json"\nlevel = "debug"\n'
        configuration.write_text(
            "".join(listener.toml() for listener in listeners)
            + f"[limits]\n{limit_lines}{logging}{more}"
        )
        command = [sys.executable, "-m", "fwproxy", "run", "--config", str(configuration)]
        if max_open_files is not None:
            command = ["sh", "-c", f'ulimit -n {max_open_files}; exec "$@"', "sh", *command]
        command = [*started_by, *command]
        with log.open("wb") as output:
            process = subprocess.Popen(
                in_namespace(namespace, command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean_environment(directory),
                start_new_session=True,
            )
        try:
            proxy = Proxy(process, log, configuration)
            proxy.await_start()
            yield proxy
        finally:
            stop(process)


def family_of(host: str) -> int:
    """The IP version of an address."""
    return ipaddress.ip_address(host).version
