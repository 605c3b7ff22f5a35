"""The ways in that a client asks for: what one costs, beside Dante, and HAProxy as plain relay.

HAProxy knows neither SOCKS nor CONNECT. It is measured with TCP, where nobody has to be asked; the
same of fwproxy stands beside it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from textwrap import dedent

from benchmarks.contenders import (
    FWPROXY,
    HAPROXY,
    Contender,
    Task,
    Way,
    fwproxy_version,
    run_fwproxy,
    version_in,
    which,
)
from benchmarks.measurements import (
    WARM_CONNECTIONS,
    Figure,
    Measurement,
    Sample,
    Stage,
    spending,
)
from benchmarks.processes import HOST, ROOT, helper

MICROSECONDS = 1e6
OWN_HOST = "127.0.0.9"
"""Where Dante leaves from: it takes ports that no connection of the last minute has had."""

# Dante


@cache
def dante() -> str:
    unpacked = ROOT / ".packages" / "dante-server" / "usr/sbin/danted"
    return str(unpacked) if unpacked.exists() else which("danted", "dante-server")


@cache
def dante_version() -> str:
    return version_in([dante(), "-v"], r"v(\S+?)\.?\s")


def dante_command(task: Task) -> list[str]:
    """One line of the log for each connection, as fwproxy has; no names, no logins."""
    config = task.directory / "danted.conf"
    config.write_text(
        dedent(f"""\
        logoutput: stderr
        internal: {HOST} port = {task.port}
        external: {OWN_HOST}
        clientmethod: none
        socksmethod: none
        user.privileged: root
        user.unprivileged: nobody
        timeout.io: 3600
        client pass {{
            from: 127.0.0.0/8 to: 0.0.0.0/0
        }}
        socks pass {{
            from: 127.0.0.0/8 to: 127.0.0.0/8
            log: disconnect
        }}
        """)
    )
    return [dante(), "-f", str(config), "-p", str(task.directory / "pid")]


# Who is compared


def fwproxy_asked(kind: str, task: Task) -> list[str]:
    return run_fwproxy(task, kind=kind)


@dataclass(frozen=True, slots=True)
class Speaker:
    """A contender, and what its clients say to it."""

    contender: Contender
    speech: str


SPEAKERS = (
    Speaker(replace(HAPROXY, name="HAProxy TCP"), "tcp"),
    Speaker(replace(FWPROXY, name="fwproxy TCP"), "tcp"),
    Speaker(Contender("Dante SOCKS 5", dante_version, dante_command), "socks5"),
    Speaker(
        Contender("fwproxy SOCKS 5", fwproxy_version, partial(fwproxy_asked, "socks")), "socks5"
    ),
    Speaker(Contender("fwproxy CONNECT", fwproxy_version, partial(fwproxy_asked, "http")), "http"),
)
CONTENDERS = tuple(each.contender for each in SPEAKERS)
_SPEECHES = {each.contender.name: each.speech for each in SPEAKERS}


def memory(stage: Stage, contender: Contender) -> Sample:
    total, server = stage.settings.connects, stage.server("echo")
    with (
        stage.way(contender, "echo") as way,
        helper("ways_loads", "hold", server, spoken(contender, way)) as clients,
    ):
        assert way.proxy is not None
        clients.ask(str(WARM_CONNECTIONS))
        clients.answer()
        shared = way.proxy.proportional()
        with spending(way) as spent:
            clients.ask(str(total))
            clients.answer()
        shared = way.proxy.proportional() - shared
    return {"rss": spent.used.rss / total / 1000, "pss": shared / total / 1000}


def spoken(contender: Contender, way: Way) -> str:
    return f"{_SPEECHES[contender.name]}:{way.port}"


class Turns:
    """Rounds in which all contenders take turns, so that nothing disturbs one more than another."""

    def __init__(self) -> None:
        self._samples: dict[str, list[Sample]] = {}

    def sample(self, stage: Stage, contender: Contender) -> Sample:
        """Play a round when the last one's sample of this contender has been taken."""
        if not self._samples.get(contender.name):
            self._samples = {name: [it] for name, it in self._play(stage).items()}
        return self._samples[contender.name].pop()

    @staticmethod
    def _play(stage: Stage) -> dict[str, Sample]:
        total, server = stage.settings.handshakes, stage.server("echo")
        present = [each for each in CONTENDERS if each.missing() is None]
        with ExitStack() as stack:
            ways = [stack.enter_context(stage.way(each, "echo")) for each in present]
            words = [spoken(each, way) for each, way in zip(present, ways, strict=True)]
            with helper("ways_loads", "latency", server, WARM_CONNECTIONS, *words) as clients:
                clients.answer()
            spent = [stack.enter_context(spending(way)) for way in ways]
            with helper("ways_loads", "latency", server, total, *words) as clients:
                found = clients.answer()
        return {
            each.name: {
                **{name: found[f"{way.port} {name}"] for name in ("p50", "p99")},
                **cost.cpu("cpu", MICROSECONDS / total),
            }
            for each, way, cost in zip(present, ways, spent, strict=True)
        }


MEASUREMENTS = (
    Measurement(
        "ways-idle",
        "Ways in",
        lambda s: f"{s.connects:,} idle connections",
        CONTENDERS,
        None,
        (
            Figure("rss", "RSS kB per connection", 2),
            Figure("pss", "PSS kB per connection", 2),
        ),
        memory,
        once=True,
    ),
    Measurement(
        "ways-latency",
        "Ways in",
        lambda s: f"What {s.handshakes:,} connections take longer than without a proxy",
        CONTENDERS,
        None,
        (
            Figure("p50", "µs, median", 0),
            Figure("p99", "µs, 99th percentile", 0),
            Figure("cpu", "CPU µs per connection", 0),
        ),
        Turns().sample,
    ),
)
