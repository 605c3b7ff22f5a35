"""The stages of a chain of data filters for streams."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from fwproxy.clock import Deadline
from fwproxy.datapath.way import Way
from fwproxy.errors import BufferFullError, NotSupportedError
from fwproxy.filter import FAULTS, DataFilter, Ends, Handled

if TYPE_CHECKING:
    from fwproxy.datapath.user import FilterRelay


class Link:
    """What a filter sends to: the next stage of the chain in one direction."""

    __slots__ = ("_closing", "_relay", "_stage", "_way")

    def __init__(self, relay: FilterRelay, stage: Stage, way: Way) -> None:
        self._relay = relay
        self._stage = stage
        self._way = way
        self._closing = False

    @property
    def pending(self) -> int:
        """Bytes that wait at the next stage, and at the far end."""
        return self._stage.waiting_size(self._way) + self._relay.sink(self._way).pending

    def send(self, data: bytes, *, urgent: bool = False) -> None:  # noqa: ARG002 - no socket
        """Give bytes to the next filter."""
        if data and not self._closing:
            self._stage.deliver(self._way, data)

    def send_to(self, data: bytes, ends: Ends) -> None:  # noqa: ARG002 - of datagrams
        """Refuse: this is about datagrams."""
        raise NotSupportedError("a stream has no other ends than its own: use send")

    def half_close(self) -> None:
        """Tell the next filter the end of the stream, once."""
        if not self._closing:
            self._closing = True
            self._stage.deliver(self._way, b"")

    def abort(self) -> None:
        """Break the connection."""
        self._relay.fail("aborted by a filter")


class Stage:
    """One filter of the chain.

    A direction queues up here while a coroutine of the filter runs for it, and until all filters
    have their sockets, because one of them may speak as soon as it has its own.
    """

    __slots__ = ("_handlers", "_held", "_queues", "_relay", "_tasks", "filter")

    def __init__(self, relay: FilterRelay, data_filter: DataFilter) -> None:
        self._relay = relay
        self.filter = data_filter
        self._queues: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self._held = [True, True]
        self._tasks: list[asyncio.Future[None] | None] = [None, None]
        self._handlers: tuple[Callable[[bytes], Handled], Callable[[bytes], Handled]] = (
            data_filter.data_from_client,
            data_filter.data_from_server,
        )

    def waiting_size(self, way: Way) -> int:
        """Return how many bytes wait for this filter."""
        return sum(map(len, self._queues[way]))

    def deliver(self, way: Way, data: bytes) -> None:
        """Take bytes, or the end of the stream as an empty string."""
        if not self._held[way]:
            self._handle(way, data)
            return
        if self.waiting_size(way) + len(data) > self._relay.max_buffer:
            raise BufferFullError(f"more than {self._relay.max_buffer} bytes wait (max_buffer)")
        self._queues[way].append(data)

    def release(self, way: Way) -> None:
        """Handle what has queued up, until a coroutine is to be waited for."""
        self._held[way] = False
        queue = self._queues[way]
        while queue and not self._held[way] and not self._relay.ended:
            self._handle(way, queue.popleft())

    def _handle(self, way: Way, data: bytes) -> None:
        if self._relay.ended:
            return
        try:
            if data:
                handled = self._handlers[way](data)
            elif way is Way.UP:
                handled = self.filter.end_from_client()
            else:
                handled = self.filter.end_from_server()
        except FAULTS as error:  # it ends its own
            self._relay.fail_filter(self.filter, error)
            return
        if handled is not None and inspect.isawaitable(handled):
            task = asyncio.ensure_future(handled)
            if self._relay.ended:  # by the handler itself
                task.cancel()
                return
            self._tasks[way] = task
            self._held[way] = True
            self._relay.busy[way] += 1
            limit = self._relay.deadlines.after(
                self._relay.filter_timeout, lambda: self._timed_out(task)
            )
            task.add_done_callback(lambda done: self._handled(way, done, limit))

    def _timed_out(self, task: asyncio.Future[None]) -> None:
        if not task.done():
            self._relay.fail_filter(self.filter, TimeoutError("a handler took too long"))

    def _handled(self, way: Way, task: asyncio.Future[None], limit: Deadline) -> None:
        limit.cancel()
        self._tasks[way] = None
        self._relay.busy[way] -= 1
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._relay.fail_filter(self.filter, error)
            return
        self.release(way)
        self._relay.resume(way)

    def close(self) -> None:
        """Cancel what runs, and forget what waits."""
        for task in self._tasks:
            if task is not None:
                task.cancel()
        for queue in self._queues:
            queue.clear()
