"""10,000 connections that say nothing: they cost a bounded amount, and are closed in time."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .ends import connect
from .proxy import Listener, Proxy, running_proxy, wait_until
from .terms import LOOPBACK

PROGRAM = Path(__file__).parent / "programs" / "silent.py"
HOST = LOOPBACK[4]
KINDS = ("socks", "http", "mixed")
COUNT, SOURCES = 10_000, 50
SHARE = 400
"""Of one address at a time."""
TIMEOUT = 8.0
"""Seconds for a handshake: enough for all of them to come meanwhile."""
SHORT_TIMEOUT = 2.0
EARLINESS, LATENESS = 1.0, 3.0
"""Seconds: deadlines have a resolution, and a busy machine has others to run."""
MAX_COST = 2_000
"""Bytes of memory for each of them."""
SPARE_FILES = 500


@contextlib.contextmanager
def silent(proxy: Proxy, count: int, sources: int = SOURCES) -> Iterator[Callable[[], Any]]:
    """So many silent clients; gives a function that reads what their program says next."""
    ports = [str(proxy.listeners[kind][1]) for kind in KINDS]
    command = [sys.executable, PROGRAM, str(count), str(sources), HOST, *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout
        try:
            yield lambda: json.loads(said.readline())
        finally:
            process.kill()


def memory(proxy: Proxy) -> int:
    found: int = psutil.Process(proxy.pid).memory_info().rss
    return found


def ask(proxy: Proxy, server: socket.socket) -> socket.socket:
    """Connect to the server by SOCKS 4."""
    client = connect(*proxy.listeners["socks"])
    host, port = server.getsockname()
    client.sendall(b"\4\1" + port.to_bytes(2, "big") + socket.inet_aton(host) + b"\0")
    assert client.recv(8, socket.MSG_WAITALL)[:2] == b"\0\x5a"
    return client


@contextlib.contextmanager
def running(timeout: float) -> Iterator[Proxy]:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < COUNT + SPARE_FILES:
        pytest.skip(f"the hard limit on open files is below {COUNT + SPARE_FILES}")
    listeners = [Listener(kind, HOST, kind=kind, protocol=None) for kind in KINDS]
    limits = {
        "handshake_timeout": timeout,
        "max_sessions": COUNT + SPARE_FILES,
        "max_sessions_per_client": SHARE,
    }
    with running_proxy(listeners, '[[rules]]\naction = "allow"\n', limits=limits) as proxy:
        yield proxy
        proxy.finish()


def test_so_many_silent_clients_cost_little_and_are_closed_in_time() -> None:
    with (
        running(TIMEOUT) as proxy,
        socket.create_server((HOST, 0)) as server,
        proxy.left_as_it_was(),
        ask(proxy, server) as early,
    ):
        before = memory(proxy)
        with silent(proxy, COUNT) as heard:
            assert heard() == {"open": COUNT}
            wait_until(lambda: proxy.descriptors() >= COUNT)
            cost = (memory(proxy) - before) / COUNT
            assert cost < MAX_COST, f"{cost:.0f} bytes each"
            # Whoever speaks is served beside them, and whoever has spoken stays.
            with ask(proxy, server) as late:
                report = heard()
                assert report["closed"] == report["in_peace"] == COUNT
                assert report["shortest"] >= TIMEOUT - EARLINESS
                assert report["longest"] <= TIMEOUT + LATENESS
                for client in (early, late):
                    with server.accept()[0] as inside:
                        inside.sendall(b"still here")
                        assert client.recv(10, socket.MSG_WAITALL) == b"still here"
        turned_away = proxy.logged("client turned away")
        assert len(turned_away) == COUNT
        assert all("(handshake_timeout)" in line["reason"] for line in turned_away)


def test_those_of_one_address_beyond_its_share_are_cut_off_at_once() -> None:
    with running(SHORT_TIMEOUT) as proxy, silent(proxy, SHARE + 100, sources=1) as heard:
        assert heard() == {"open": SHARE + 100}
        report = heard()
        assert (report["closed"], report["in_peace"]) == (SHARE + 100, SHARE)
        assert report["shortest"] < SHORT_TIMEOUT - EARLINESS
        # One line for many of a kind.
        refused = proxy.logged("client refused")
        assert refused
        assert all("max_sessions_per_client" in line["reason"] for line in refused)
        assert len(proxy.logged("client turned away")) == SHARE
