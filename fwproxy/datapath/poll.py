"""One private edge-triggered epoll set, nested in the running loop.

An epoll descriptor is itself pollable, so the loop, asyncio's own or uvloop, watches one
descriptor, and every relayed socket lives in the set behind it: no loop handle per socket and no
re-registration. A socket is registered once for everything; its owner hears of edges and must
read or write until the kernel says "would block".
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from fwproxy.clock import Deadlines
from fwproxy.ports.sockets import OpenSocket

EVERYTHING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
NOT_YET_DRAINED = select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLHUP | select.EPOLLERR
"""Edges after which a short read does not mean that there is no more: the end of the stream may
follow, or what stands behind an urgent byte, where every read stops."""

MAX_EVENTS = 256
"""Events taken from the set at once."""
MAX_ROUNDS = 8
"""Times that the set is asked again before the rest of the loop has its turn."""
SCRATCH_SIZE = 64 * 1024
"""Bytes received at once where bytes pass through user space."""


class Pollable(Protocol):
    """The owner of a registered descriptor."""

    def on_ready(self, fd: int, events: int) -> None:
        """Hear of an edge."""

    def on_broken(self, error: Exception) -> None:
        """Hear that `on_ready` raised: end, and leave nothing open."""


class EpollSet(Protocol):
    """What is needed of `select.epoll`."""

    @property
    def closed(self) -> bool: ...  # noqa: D102

    def fileno(self) -> int: ...  # noqa: D102

    def register(self, fd: int, eventmask: int, /) -> None: ...  # noqa: D102

    def unregister(self, fd: int, /) -> None: ...  # noqa: D102

    def poll(self, timeout: float, maxevents: int, /) -> list[tuple[int, int]]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class Poller:
    """The set, and the work that its owners put off to give each other a turn.

    Args:
        loop: turns the set.
        epoll: the set itself, for tests that play the network; None is the kernel's.
        open_socket: makes the sockets that can be watched here.
        deadlines: whose clock is the poller's too; None is the loop's time.

    Attributes:
        open_socket: as given.
        now: the time at the start of this turn, for idle time-outs.
        scratch: a buffer to receive into; what it holds is void after the owner returns.
        quiet_fd: a descriptor whose edges so far are known to hold nothing to read, or -1.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        epoll: EpollSet | None = None,
        open_socket: OpenSocket = socket.socket,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.open_socket = open_socket
        self._loop = loop
        self._deadlines = Deadlines(loop.time) if deadlines is None else deadlines
        self._epoll = select.epoll() if epoll is None else epoll
        self._owners: dict[int, Pollable] = {}
        self._deferred: deque[Callable[[], None]] = deque()
        self._turn_due = False
        self._fresh: set[int] = set()
        self.quiet_fd = -1
        self.now = self._deadlines.now()
        self.scratch = memoryview(bytearray(SCRATCH_SIZE))
        loop.add_reader(self._epoll.fileno(), self.turn)

    def __len__(self) -> int:
        return len(self._owners)

    def watch(self, fd: int, owner: Pollable, events: int = EVERYTHING) -> bool:
        """Watch a descriptor; what is ready now is reported too.

        Returns:
            Whether the owner must look for himself what there is to read: the descriptor was
            watched already, and its edges may have gone to the owner before.
        """
        if fd in self._owners:
            self._owners[fd] = owner
            return fd != self.quiet_fd
        self._epoll.register(fd, events)
        self._owners[fd] = owner
        self._fresh.add(fd)
        return False

    def forget(self, fd: int) -> None:
        """Stop reporting a descriptor that is about to be closed, which takes it off the set."""
        self._owners.pop(fd, None)

    def unregister(self, fd: int) -> None:
        """Stop watching a descriptor that stays open."""
        if self._owners.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def defer(self, work: Callable[[], None]) -> None:
        """Call *work* after everybody else had a turn."""
        self._deferred.append(work)
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self.turn)

    def report(self, error: BaseException) -> None:
        """Hand an error that belongs to no connection to the loop's exception handler."""
        self._loop.call_exception_handler(
            {"message": "a handler of the private epoll set failed", "exception": error}
        )

    def close(self) -> None:
        """Take the set off the loop."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._owners.clear()
        self._deferred.clear()

    def turn(self) -> None:
        """Let the owners hear of what is ready now, and do what they have put off."""
        if self._epoll.closed:
            return
        self.now = self._deadlines.now()
        poll, owners, fresh = self._epoll.poll, self._owners, self._fresh
        for _ in range(MAX_ROUNDS):
            events = poll(0, MAX_EVENTS)
            fresh.clear()
            for fd, mask in events:
                owner = owners.get(fd)
                # A descriptor may have been closed and opened anew since these events were
                # taken: such an event was meant for its predecessor.
                if owner is not None and fd not in fresh:
                    try:
                        owner.on_ready(fd, mask)
                    except Exception as error:  # noqa: BLE001 - one connection's, not everybody's
                        owner.on_broken(error)
            if not events:
                break
        if self._deferred:
            self._run_deferred()

    def _run_deferred(self) -> None:
        self._turn_due = False
        for _ in range(len(self._deferred)):
            work = self._deferred.popleft()
            try:
                work()
            except Exception as error:  # noqa: BLE001 - as above
                self.report(error)
        if self._deferred and not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self.turn)
