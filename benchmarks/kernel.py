"""fwproxy's kernel path beside the kernel's own FTP helper, its spliced path, and a mere router."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import Contender, Way
from benchmarks.gateways import HELPER, KERNEL, ROUTED, SPLICE, Gateway, gateway, reported
from benchmarks.measurements import (
    GIB,
    PARALLEL,
    Figure,
    Measurement,
    Sample,
    Settings,
    Stage,
    size_text,
    spending,
)
from benchmarks.processes import helper, load
from tests.system.kernel_gateway import forwarding_network, set_system
from tests.system.namespaces import Side

GROUP = "FTP between network namespaces"
FORGET_SOON = {"net/netfilter/nf_conntrack_tcp_timeout_time_wait": 1}


def started(stage: Stage, contender: Contender) -> Gateway:
    """The contender's gateway, which stays to the end of the run, as the others' do."""
    found = stage.kept.get(contender.name)
    if not isinstance(found, Gateway):
        found = stage.keep(contender.name, gateway(contender, stage.workspace, stage.settings.bulk))
        # The first sessions and the first reading of the file cost more than later ones.
        load("ftp-sessions", found.where, found.client, total=PARALLEL, parallel=PARALLEL)
        load("ftp-bulk", found.where, found.client, size=stage.settings.bulk)
    return found


def bulk(active: int) -> Callable[[Stage, Contender], Sample]:
    def sample(stage: Stage, contender: Contender) -> Sample:
        at, size = started(stage, contender), stage.settings.bulk
        with spending(Way(0, at.proxy)) as spent:
            figures = load("ftp-bulk", at.where, at.client, size=size, active=active)
        return {"rate": size / figures["seconds"] / 1e6, **spent.cpu("cpu", GIB / size)}

    return sample


def sessions(stage: Stage, contender: Contender) -> Sample:
    at, total = started(stage, contender), stage.settings.ftp_sessions
    with spending(Way(0, at.proxy)) as spent:
        figures = load("ftp-sessions", at.where, at.client, total=total, parallel=PARALLEL)
    return {"rate": total / figures["seconds"], **spent.cpu("cpu", 1e3 / total)}


@contextmanager
def pinhole_network() -> Iterator[list[str]]:
    """What ``benchmarks.pinholes`` is told: its namespaces and the two ends."""
    with reported(), forwarding_network() as net:
        net.add_default_route()
        set_system(net, FORGET_SOON)
        client, server = net.namespace(Side.CLIENT), net.namespace(Side.SERVER)
        hosts = net.address(Side.CLIENT), net.address(Side.SERVER)
        with (
            helper("backends", "ftp-silent", hosts[0], namespace=client) as client_end,
            helper("backends", "ftp-silent", hosts[1], namespace=server) as server_end,
        ):
            ports = (int(end.answer()["port"]) for end in (client_end, server_end))
            ends = [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
            yield [net.name, *ends]


def pinholes(stage: Stage, _contender: Contender) -> Sample:
    settings = stage.settings
    with pinhole_network() as (name, client_end, server_end):
        words = (f"seconds={settings.pinhole_seconds}", f"rate={settings.pinhole_rate}")
        log = Path(stage.workspace, "pinholes.log")
        with helper(
            "pinholes", name, client_end, server_end, log, *words,
            namespace=f"{name}-{Side.PROXY}",
        ) as run:  # fmt: skip
            return run.answer(settings.pinhole_seconds + 60)


def _bulk_title(words: str) -> Callable[[Settings], str]:
    return lambda s: f"One {words} RETR of {size_text(s.bulk)}"


CONTENDERS = (HELPER, KERNEL, SPLICE, ROUTED)
BULK_FIGURES = (
    Figure("rate", "MB/s", 0, "ratio ≥ 0.97"),
    Figure("cpu", "proxy's CPU s per GiB", 3, "0"),
)

MEASUREMENTS = (
    *(
        Measurement(
            f"kernel-{words}",
            GROUP,
            _bulk_title(words),
            CONTENDERS,
            HELPER,
            BULK_FIGURES,
            bulk(active),
        )
        for active, words in enumerate(("passive", "active"))
    ),
    Measurement(
        "kernel-sessions",
        GROUP,
        lambda s: (
            f"{s.ftp_sessions:,} sessions (login, PASV, RETR 1 KiB, QUIT), {PARALLEL} at a time"
        ),
        CONTENDERS,
        HELPER,
        (
            Figure("rate", "sessions/s", 0, "ratio ≥ 0.8"),
            Figure("cpu", "proxy's CPU ms per session", 2),
        ),
        sessions,
    ),
    Measurement(
        "kernel-pinholes",
        "Pinholes",
        lambda s: (
            f"{s.pinhole_rate} binds a second for {s.pinhole_seconds} s: one in three is used, "
            "one cancelled, one expires"
        ),
        (KERNEL,),
        None,
        (
            Figure("p50", "ms from bind_for_client to a usable pinhole, p50", 3),
            Figure("p99", "the same, p99", 3, "≤ 1 ms"),
            Figure("rate", "binds/s", 1),
            Figure("failed", "connections that did not get through", 0, "0"),
            Figure("elements", "elements left in the table", 0, "0"),
            Figure("files", "files left open", 0, "0"),
            Figure("flows", "conntrack entries left", 0, "0"),
            Figure("cpu", "CPU ms per pinhole", 2),
        ),
        pinholes,
    ),
)
"""In the order in which they are run."""
