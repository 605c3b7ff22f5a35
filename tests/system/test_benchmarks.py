"""The benchmarks that make networks of their own remove them, also when they are interrupted."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from .ftp_servers import VSFTPD
from .namespaces import NAME_PREFIX, NAMES
from .processes import find_program, killed_at_end
from .proxy import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_PATIENCE, EXIT_PATIENCE = 60.0, 30.0


def namespaces(process: int) -> list[str]:
    """Those that a process has made."""
    return [path.name for path in NAMES.glob(f"{NAME_PREFIX}-{process}-*")]


def loads(process: int) -> list[int]:
    """What measures, of all that a process has started."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(word.startswith("benchmarks.") for word in child.cmdline()):
                found.append(child.pid)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("measurement", ["kernel-sessions", "kernel-pinholes"])
def test_an_interrupted_benchmark_leaves_nothing(
    needs_network: None, measurement: str, number: signal.Signals
) -> None:
    for lack in (VSFTPD.missing(), None if find_program("conntrack") else "conntrack"):
        if lack:
            pytest.skip(f"package missing: {lack}")
    command = [sys.executable, "-m", "benchmarks", "--only", measurement]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process, killed_at_end(process):

        def is_measuring() -> list[int]:
            assert process.poll() is None
            return loads(process.pid)

        wait_until(is_measuring, "something is measured", START_PATIENCE)
        assert namespaces(process.pid)
        children = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        assert children
        process.send_signal(number)
        assert process.wait(EXIT_PATIENCE) == 130
    assert not namespaces(process.pid)
    wait_until(lambda: not any(map(psutil.pid_exists, children)), "all its processes have ended")
