"""What every test gets: both event loops, and a check that it leaves nothing behind.

Async tests run twice, on plain asyncio and on uvloop. With `FWPROXY_NO_SKIP=1` or `CI=true` in the
environment a run with a skipped test fails, so that a missing package is not taken for success.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import settings

# What several tests share explains its failed assertions as they do.
_SHARED = (path.stem for path in Path(__file__).parent.rglob("*.py"))
pytest.register_assert_rewrite("system", *(n for n in _SHARED if not n.startswith(("test_", "_"))))

settings.register_profile("any machine", deadline=None)  # a busy one is no failure
settings.load_profile("any machine")

LEAK_PATIENCE = 2.0
"""Seconds that sockets closed by other threads or by a loop's next turn get to disappear."""

_skipped: list[str] = []


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each async test on both event loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_sessionstart() -> None:
    """Let libuv open the pipe that it keeps for the life of the process, before anyone counts."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))


def skips_fail() -> bool:
    """Tell whether a skipped test is a failure of the run."""
    return os.environ.get("FWPROXY_NO_SKIP") == "1" or os.environ.get("CI") == "true"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember skipped tests; with xdist this runs in the process that prints the summary."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Remember modules that skipped themselves."""
    if report.skipped:
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if tests were skipped that must not be."""
    is_worker = hasattr(session.config, "workerinput")
    if _skipped and skips_fail() and not is_worker and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run failed."""
    if _skipped and skips_fail():
        terminalreporter.section("skipped, and skips are not allowed", red=True)
        for nodeid in _skipped:
            terminalreporter.line(nodeid)


def open_descriptors() -> dict[int, str]:
    """Return the open file descriptors of this process and what each one is."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # the one that listed the directory
            continue
    return found


def nft_ruleset() -> str:
    """Return the nftables rules of this network namespace; empty without nft or root."""
    if os.geteuid() or not shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return ""
    command = ["nft", "--stateless", "list", "ruleset"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def new_descriptors(before: dict[int, str]) -> list[str]:
    return [
        f"file descriptor {number}: {what}"
        for number, what in open_descriptors().items()
        if before.get(number) != what
    ]


def new_threads(before: set[threading.Thread]) -> list[str]:
    return [f"thread {each.name}" for each in set(threading.enumerate()) - before]


def wait_for_none(find: Callable[[], list[str]]) -> list[str]:
    """Return what *find* still finds when patience ends."""
    deadline = time.monotonic() + LEAK_PATIENCE
    left = find()
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
        left = find()
    return left


@pytest.fixture(autouse=True)
def no_leaked_resources(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a socket, a pipe, a file, a thread or an nftables rule behind."""
    is_system = request.node.get_closest_marker("system") is not None
    rules = nft_ruleset() if is_system else ""
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    yield
    left = wait_for_none(lambda: new_descriptors(descriptors) + new_threads(threads))
    if is_system and nft_ruleset() != rules:
        left.append("nftables rules")
    assert not left, f"left behind: {', '.join(left)}"


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail a test that leaves a task running on its loop."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:  # those that were cancelled in the last moment end with the next turns of the loop
        await asyncio.wait(left, timeout=0.2)
    names = sorted(repr(task.get_coro()) for task in left if not task.done())
    assert not names, f"tasks left behind: {', '.join(names)}"


@pytest.fixture(autouse=True)
def leak_checks(request: pytest.FixtureRequest, no_leaked_resources: None) -> None:
    """Apply the check of tasks to async tests; the check of resources surrounds the loop."""
    function = getattr(request, "function", None)
    if inspect.iscoroutinefunction(inspect.unwrap(function) if function else None):
        request.getfixturevalue("no_leaked_tasks")


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """Return the log lines to be, as mappings with their `event`."""
    with structlog.testing.capture_logs() as lines:
        yield lines
