"""What is measured, between whom, and what one sample of it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.contenders import DIRECT, FWPROXY, HAPROXY, NGINX, Contender, Way, vsftpd
from benchmarks.processes import BenchError, Program, Usage, helper, load

MIB = 1 << 20
GIB = 1 << 30
PARALLEL = 8
WARM_CONNECTIONS = 200

Sample = dict[str, float]
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Settings:
    """How much of everything; the defaults are those of a full run."""

    rounds: int = 5
    bulk: int = GIB
    connections: int = 8_000
    requests: int = 80_000
    request_size: int = 64
    idle: int = 2_000
    ftp_sessions: int = 800
    ftp_memory: tuple[int, int] = (1_000, 10_000)
    pinhole_seconds: int = 10
    pinhole_rate: int = 200
    connects: int = 5_000
    handshakes: int = 2_000


QUICK = Settings(
    rounds=3,
    bulk=GIB // 4,
    connections=4_000,
    requests=30_000,
    idle=1_000,
    ftp_sessions=200,
    ftp_memory=(200, 2_000),
    pinhole_seconds=3,
    connects=1_000,
    handshakes=500,
)


class Stage:
    """The servers behind the contenders, started when first needed and kept to the end."""

    def __init__(self, settings: Settings, workspace: Path, stack: ExitStack) -> None:
        self.settings = settings
        self.workspace = workspace
        self._stack = stack
        self._ports: dict[str, int] = {}
        self.kept: dict[str, object] = {}

    def keep(self, name: str, block: AbstractContextManager[_Kept]) -> _Kept:
        """Enter a block that is left at the end of the run, and remember it by name."""
        found = self.kept[name] = self._stack.enter_context(block)
        return found

    def server(self, kind: str) -> int:
        """The port of one of the servers of backends.py, or of ``vsftpd``."""
        if kind not in self._ports:
            if kind == "vsftpd":
                port = self._stack.enter_context(vsftpd(self.workspace, self.settings.bulk))
                # The first reading of a file costs more than the later ones.
                load("ftp-bulk", port, size=self.settings.bulk)
            else:
                server = self._stack.enter_context(helper("backends", kind))
                port = int(server.answer()["port"])
            self._ports[kind] = port
        return self._ports[kind]

    @contextmanager
    def way(self, contender: Contender, server: str, protocol: str = "tcp") -> Iterator[Way]:
        """A fresh process of the contender in front of a server."""
        upstream = self.server(server)
        with contender.way_to(upstream, self.workspace, protocol) as way:
            yield way


@dataclass(slots=True)
class Spent:
    """What a proxy used during a block; all zero until it ends, and without a proxy."""

    proxy: Program | None
    used: Usage = field(default_factory=lambda: Usage(0.0, 0, 0))

    def cpu(self, key: str, scale: float) -> Sample:
        """The CPU time as a figure, or no figure where there is no proxy."""
        return {} if self.proxy is None else {key: self.used.cpu * scale}


@contextmanager
def spending(way: Way) -> Iterator[Spent]:
    spent = Spent(way.proxy)
    before = way.proxy.usage() if way.proxy else Usage(0.0, 0, 0)
    yield spent
    if way.proxy:
        after = way.proxy.usage()
        spent.used = Usage(
            after.cpu - before.cpu, after.rss - before.rss, after.anonymous - before.anonymous
        )


def bulk(stage: Stage, contender: Contender) -> Sample:
    size = stage.settings.bulk
    with stage.way(contender, "bulk") as way:
        load("bulk", way.port, size=16 * MIB, verify=1)
        with spending(way) as spent:
            seconds = load("bulk", way.port, size=size, verify=0)["seconds"]
        return {"rate": size * 8 / seconds / 1e9, **spent.cpu("cpu", GIB / size)}


def connections(stage: Stage, contender: Contender) -> Sample:
    total = stage.settings.connections
    with stage.way(contender, "echo") as way:
        load("connections", way.port, total=WARM_CONNECTIONS, parallel=PARALLEL)
        with spending(way) as spent:
            figures = load("connections", way.port, total=total, parallel=PARALLEL)
        return {"rate": total / figures["seconds"], **spent.cpu("cpu", 1e6 / total)}


def keepalive(stage: Stage, contender: Contender) -> Sample:
    total, size = stage.settings.requests, stage.settings.request_size
    with stage.way(contender, "echo") as way:
        load("keepalive", way.port, total=2_000, parallel=PARALLEL, size=size)
        with spending(way) as spent:
            figures = load("keepalive", way.port, total=total, parallel=PARALLEL, size=size)
        return {"rate": total / figures["seconds"], **spent.cpu("cpu", 1e6 / total)}


def idle(stage: Stage, contender: Contender) -> Sample:
    with stage.way(contender, "echo") as way:
        return idle_memory(way, stage.settings.idle, greeted=0)


def idle_memory(way: Way, total: int, greeted: int) -> Sample:
    """Memory for each of ``total`` idle connections, beyond the first ones that stay open too."""
    with helper("loads", "idle", way.port, f"greeted={greeted}") as client:
        client.ask(str(WARM_CONNECTIONS))
        client.answer()
        with spending(way) as spent:
            client.ask(str(total))
            client.answer()
    return {
        "rss": spent.used.rss / total / 1000,
        "anonymous": spent.used.anonymous / total / 1000,
    }


def ftp_sessions(stage: Stage, contender: Contender) -> Sample:
    total = stage.settings.ftp_sessions
    with stage.way(contender, "vsftpd", "ftp") as way:
        load("ftp-sessions", way.port, total=4 * PARALLEL, parallel=PARALLEL)
        with spending(way) as spent:
            figures = load("ftp-sessions", way.port, total=total, parallel=PARALLEL)
        return {"rate": total / figures["seconds"], **spent.cpu("cpu", 1e3 / total)}


def ftp_bulk(stage: Stage, contender: Contender) -> Sample:
    size = stage.settings.bulk
    with stage.way(contender, "vsftpd", "ftp") as way:
        load("ftp-sessions", way.port, total=PARALLEL, parallel=PARALLEL)
        with spending(way) as spent:
            seconds = load("ftp-bulk", way.port, size=size)["seconds"]
        return {"rate": size / seconds / 1e6, **spent.cpu("cpu", GIB / size)}


def ftp_memory(stage: Stage, contender: Contender) -> Sample:
    few, many = stage.settings.ftp_memory
    with stage.way(contender, "vsftpd", "ftp") as way:
        if way.proxy is None:
            raise BenchError("there is no proxy to measure")
        load("ftp-sessions", way.port, total=few, parallel=PARALLEL)
        before = way.proxy.usage().rss
        load("ftp-sessions", way.port, total=many - few, parallel=PARALLEL)
        after = way.proxy.usage().rss
    return {"few": before / MIB, "many": after / MIB, "growth": (after - before) / MIB}


def ftp_idle(stage: Stage, contender: Contender) -> Sample:
    with stage.way(contender, "ftp-silent", "ftp") as way:
        return idle_memory(way, stage.settings.idle, greeted=1)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a sample holds, and what fwproxy aims at."""

    key: str
    label: str
    digits: int
    aim: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Some figures, the contenders, and the one that the others are divided by."""

    name: str
    group: str
    title: Callable[[Settings], str]
    contenders: tuple[Contender, ...]
    reference: Contender | None  # None: only the absolute figures matter
    figures: tuple[Figure, ...]
    sample: Callable[[Stage, Contender], Sample]
    once: bool = False  # one round is enough, or all there is time for


RELAYS = (HAPROXY, NGINX, FWPROXY, DIRECT)
FTP = (DIRECT, FWPROXY)


def size_text(size: int) -> str:
    return f"{size // GIB} GiB" if size % GIB == 0 else f"{size // MIB} MiB"


MEASUREMENTS = (
    Measurement(
        "bulk",
        "Plain TCP relay",
        lambda s: f"One stream of {size_text(s.bulk)}",
        RELAYS,
        HAPROXY,
        (
            Figure("rate", "Gbit/s", 1),
            Figure("cpu", "CPU s per GiB", 2, "ratio ≤ 0.75"),
        ),
        bulk,
    ),
    Measurement(
        "connections",
        "Plain TCP relay",
        lambda s: f"{s.connections:,} new connections, {PARALLEL} at a time",
        RELAYS,
        HAPROXY,
        (
            Figure("rate", "connections/s", 0),
            Figure("cpu", "CPU µs per connection", 0, "ratio ≤ 2"),
        ),
        connections,
    ),
    Measurement(
        "keepalive",
        "Plain TCP relay",
        lambda s: (
            f"{s.requests:,} requests and answers of {s.request_size} bytes "
            f"over {PARALLEL} connections"
        ),
        RELAYS,
        HAPROXY,
        (
            Figure("rate", "requests/s", 0, "ratio ≥ 0.95"),
            Figure("cpu", "CPU µs per request", 1),
        ),
        keepalive,
    ),
    Measurement(
        "idle",
        "Plain TCP relay",
        lambda s: f"{s.idle:,} idle connections",
        (HAPROXY, NGINX, FWPROXY),
        HAPROXY,
        (
            Figure("rss", "RSS kB per connection", 2, "ratio ≤ 1"),
            Figure("anonymous", "RssAnon kB per connection", 2),
        ),
        idle,
    ),
    Measurement(
        "ftp-sessions",
        "FTP",
        lambda s: (
            f"{s.ftp_sessions:,} sessions (login, PASV, RETR 1 KiB, QUIT), {PARALLEL} at a time"
        ),
        FTP,
        DIRECT,
        (
            Figure("rate", "sessions/s", 0, "ratio ≥ 0.85"),
            Figure("cpu", "CPU ms per session", 2),
        ),
        ftp_sessions,
    ),
    Measurement(
        "ftp-bulk",
        "FTP",
        lambda s: f"One RETR of {size_text(s.bulk)}",
        FTP,
        DIRECT,
        (
            Figure("rate", "MB/s", 0, "ratio ≥ 0.95"),
            Figure("cpu", "CPU s per GiB", 2),
        ),
        ftp_bulk,
    ),
    Measurement(
        "ftp-memory",
        "FTP",
        lambda s: f"RSS after {s.ftp_memory[0]:,} and {s.ftp_memory[1]:,} sessions",
        (FWPROXY,),
        None,
        (
            Figure("few", "RSS MiB after the fewer", 1),
            Figure("many", "RSS MiB after the more", 1),
            Figure("growth", "growth MiB", 1, "≤ 2 MiB"),
        ),
        ftp_memory,
        once=True,
    ),
    Measurement(
        "ftp-idle",
        "FTP",
        lambda s: f"{s.idle:,} idle control connections",
        (FWPROXY,),
        None,
        (
            Figure("rss", "RSS kB per session", 2, "≤ 25 kB"),
            Figure("anonymous", "RssAnon kB per session", 2),
        ),
        ftp_idle,
    ),
)
