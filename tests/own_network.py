"""Runs async tests in a network namespace of their own, within this process.

A thread leaves the process's network for a new one; what it and the loop in it open is there. Its
loopback device is up, and has addresses besides that stand for other hosts.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import inspect
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from fwproxy.datapath.kernel.nft import Nftables
from fwproxy.errors import KernelPathError

_CLONE_NEWNET = 0x40000000
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
NEAR, FAR, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.3"
"""Addresses of this host that are not loopback ones."""
NEAR_6, FAR_6 = "2001:db8::1", "2001:db8::2"


def shell(command: str) -> str:
    """Run a command in the network of the thread that calls."""
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, check=True, timeout=30
    ).stdout


def _enter_new_network() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no new network namespace")
    addresses = [f"{host}/32" for host in (NEAR, FAR, OTHER)]
    addresses += [f"{host}/128" for host in (NEAR_6, FAR_6)]
    added = " && ".join(f"ip address add {each} dev lo nodad" for each in addresses)
    shell(f"ip link set lo up && {added}")
    shell("echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct")


@functools.cache
def lack() -> str | None:
    """Say what is missing for such tests."""
    if os.geteuid() != 0:
        return "root"
    try:
        Nftables().close()
    except KernelPathError as error:
        return str(error)
    return None


def run_there(work: Callable[[], Awaitable[Any]], loop: str = "uvloop") -> Any:
    """Run a coroutine on a loop in a network of its own; its value or error is the caller's."""
    outcome: list[Any] = []

    def body() -> None:
        try:
            _enter_new_network()
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                outcome.extend([runner.run(work()), None])  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            outcome.extend([None, error])

    thread = threading.Thread(target=body, name="own network")
    thread.start()
    thread.join()
    value, error = outcome
    if error is not None:
        raise error
    return value


def in_own_network(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: it runs on both loops, in a network of its own."""

    def run(*args: Any, event_loop_kind: str, **settings: Any) -> None:
        if missing := lack():
            pytest.skip(f"a kernel data path needs {missing}")
        run_there(lambda: test(*args, **settings), event_loop_kind)

    signature = inspect.signature(test)
    kind = inspect.Parameter("event_loop_kind", inspect.Parameter.KEYWORD_ONLY)
    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would take it for a coroutine
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), kind]
    )
    return pytest.mark.parametrize("event_loop_kind", list(LOOPS))(run)
