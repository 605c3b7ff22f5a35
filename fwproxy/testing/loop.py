"""An event loop that turns when it is told to and whose clock a test moves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, TypeVarTuple

MAX_TURNS = 10_000
"""Turns without rest after which a filter is taken to keep the loop busy for ever."""

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


def check_no_loop_runs() -> None:
    """Make sure that a loop can be turned here.

    Raises:
        RuntimeError: this thread runs one already.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented, and None without
        raise RuntimeError("a scripted test is a plain function: it turns a loop of its own")


class ManualLoop(asyncio.BaseEventLoop):
    """Runs callbacks, tasks and timers, waits for nothing and nobody, and opens no descriptor.

    Time stands still but for `advance`. Names are those of `hosts`: nobody else is asked.

    Attributes:
        hosts: the addresses of each host name, for resolving names and, backwards, addresses.
        errors: what callbacks and forgotten tasks have raised.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[str, tuple[str, ...]] = {}
        self.errors: list[BaseException] = []
        self._now = 1000.0
        self._is_held = False
        self._selector = _NothingToWaitFor()
        self._readers: dict[int, Callable[[], object]] = {}
        self.set_exception_handler(self._note)

    def time(self) -> float:
        """Return the time in seconds, which only `advance` changes."""
        return self._now

    @property
    def is_busy(self) -> bool:
        """Whether there is something to do at this time."""
        return bool(self._ready)  # type: ignore[attr-defined]  # of BaseEventLoop since Python 3.4

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Do not settle before the block has ended, so that all that it does is done at once."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self.settle()

    def settle(self) -> None:
        """Turn until nothing is left to do at this time, unless the loop is held.

        Raises:
            AssertionError: there is no end to it.
        """
        if self._is_held:
            return
        for _ in range(MAX_TURNS):
            if not self.is_busy:
                return
            self.turn()
        raise AssertionError(f"something keeps the loop busy: {MAX_TURNS} turns and no rest")

    def turn(self) -> None:
        """Do what is due now, once."""
        self.call_soon(self.stop)
        self.run_forever()

    def advance(self, seconds: float) -> None:
        """Let time pass, and what becomes due meanwhile happen in its order."""
        end = self._now + seconds
        self.settle()
        while (when := self._next_timer()) is not None and when <= end:
            self._now = max(self._now, when)
            self.turn()
            self.settle()
        self._now = end

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine that nothing but the loop itself has to move on.

        Raises:
            AssertionError: it waits for something, such as the clock or a peer.
        """
        task = self.create_task(work)
        self.settle()
        if not task.done():
            task.cancel()
            self.settle()
            raise AssertionError(f"{work!r} waits for something that does not happen by itself")
        return task.result()

    def _next_timer(self) -> float | None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # as above
        return min((timer.when() for timer in timers if not timer.cancelled()), default=None)

    def add_reader(
        self,
        fd: int | _HasFileno,
        callback: Callable[[*_Ts], Any],
        *args: *_Ts,
    ) -> None:
        """Call *callback* at each `wake` of the descriptor."""
        self._readers[fd if isinstance(fd, int) else fd.fileno()] = lambda: callback(*args)

    def remove_reader(self, fd: Any) -> bool:
        """Call it no more."""
        return self._readers.pop(fd, None) is not None

    def wake(self, fd: int) -> None:
        """Say that the descriptor can be read."""
        if fd in self._readers:
            self.call_soon(self._readers[fd])

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        """Look a name up in `hosts`."""
        if host not in self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "the test knows no such name")
        return [(None, socket.SOCK_STREAM, 0, "", (each, port)) for each in self.hosts[host]]

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:  # noqa: ARG002
        """Look an address up in `hosts`."""
        for name, addresses in self.hosts.items():
            if sockaddr[0] in addresses:
                return name, str(sockaddr[1])
        raise socket.gaierror(socket.EAI_NONAME, "the test knows no such address")

    def run_in_executor(
        self,
        executor: object,  # noqa: ARG002 - there are no threads here
        func: Callable[[*_Ts], _T],
        *args: *_Ts,
    ) -> asyncio.Future[_T]:
        """Do at once what would go to a thread, such as the check of a password."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever waits for it is told
            future.set_exception(error)
        return future

    def _note(self, _: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))

    def _process_events(self, event_list: Iterable[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits who would have to be woken."""


class _NothingToWaitFor:
    """What the loop asks instead of the system."""

    def select(self, timeout: float | None) -> tuple[()]:  # noqa: ARG002 - time stands still
        return ()
