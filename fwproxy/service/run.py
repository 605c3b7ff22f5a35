"""The proxy as a process: event loop, signals, and the two ways to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvloop

from fwproxy.config.config import Config
from fwproxy.firewall import Firewall
from fwproxy.log import get_logger
from fwproxy.service.host import raise_file_limit
from fwproxy.service.privileges import become, needed
from fwproxy.version import __version__

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
"""Event loops by name; the first is the default."""

COLLECT_AFTER = 10_000
"""Objects allocated and not freed, after which the garbage collector looks at the young ones."""

_REPORT_EVERY = 5.0
"""Seconds between two log lines that say how many sessions are left."""


def run(
    config: Config, loop: str = "uvloop", started: Callable[[Firewall], object] = lambda _: None
) -> None:
    """Run the proxy until SIGTERM, SIGINT or SIGHUP. Must be called in the main thread.

    The first signal lets running sessions finish, for up to `limits.stop_timeout` seconds; the
    second closes them at once. SIGUSR1 opens the ledger's file anew.

    Args:
        config: what to run.
        loop: a name of `LOOPS`.
        started: called when every listener accepts connections.

    Raises:
        ConfigError: a filter is missing or does not accept its settings, the kernel data path or
            the user is not to be had.
        OSError: a listener cannot be opened.
    """
    open_files = raise_file_limit()
    # What was imported stays. A session that has ended leaves some tens of objects in cycles,
    # which are cheaper to find for a hundred sessions at a time than for three.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        get_logger().debug("starting", version=__version__, loop=loop, open_files=open_files)
        runner.run(_serve(config, started))


async def _serve(config: Config, started: Callable[[Firewall], object]) -> None:
    firewall = Firewall(config)
    with _signals(firewall) as (asked, insisted):
        await firewall.start()
        try:
            if config.process.user:
                become(config.process.user, needed(config))
            get_logger().info("started", version=__version__, pid=os.getpid())
            started(firewall)
            await asked.wait()
        finally:
            await _stop(firewall, insisted)


@contextmanager
def _signals(firewall: Firewall) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Set the first event on the first signal to stop, and the second on every further one."""
    asked, insisted = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (insisted if asked.is_set() else asked).set()

    def reopen() -> None:
        with suppress(RuntimeError):  # it does not run yet, or no more: no file is open
            firewall.ledger.reopen()

    loop = asyncio.get_running_loop()
    caught = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: stop}
    caught[signal.SIGUSR1] = reopen
    for number, handler in caught.items():
        loop.add_signal_handler(number, handler)
    try:
        yield asked, insisted
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


async def _stop(firewall: Firewall, insisted: asyncio.Event) -> None:
    graceful = asyncio.ensure_future(firewall.stop())
    insist = asyncio.ensure_future(insisted.wait())
    while not graceful.done() and not insist.done():
        await asyncio.wait(
            {graceful, insist}, timeout=_REPORT_EVERY, return_when=asyncio.FIRST_COMPLETED
        )
        if not graceful.done() and not insist.done():
            get_logger().info("waiting for sessions to end", sessions=len(firewall.sessions))
    if not graceful.done():
        get_logger().warning("closing all sessions at once", sessions=len(firewall.sessions))
        await firewall.stop(0)
    insist.cancel()
    await graceful
