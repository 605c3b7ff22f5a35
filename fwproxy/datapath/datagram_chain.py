"""A chain of data filters for datagrams: boundaries kept, queues bounded, no socket in sight.

::

    client side ── stage 0 ── stage 1 ── … ── server side
                   filter     filter

Each datagram travels between two ends, the client's and the server's. A filter that only says
`send` sends along the way of the datagram that it is handling.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fwproxy.clock import Deadline, Deadlines
from fwproxy.datapath.way import Way
from fwproxy.errors import BadContextError
from fwproxy.filter import FAULTS, DataFilter, Ends, Handled

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection


_at_hand: contextvars.ContextVar[tuple[DatagramChain, Ends] | None] = contextvars.ContextVar(
    "datagram_at_hand", default=None
)
"""The datagram that is being handled, and in which chain; tasks begun for it inherit it."""


class _Side:
    """What a filter sends to: the next stage, or whatever the datagrams leave by."""

    __slots__ = ("_chain", "_stage", "_way")

    def __init__(self, chain: DatagramChain, stage: _Stage, way: Way) -> None:
        self._chain = chain
        self._stage = stage
        self._way = way

    @property
    def pending(self) -> int:
        neighbour = self._stage.neighbours[self._way]
        return 0 if neighbour is None else neighbour.waiting_size(self._way)

    def send(self, data: bytes, *, urgent: bool = False) -> None:  # noqa: ARG002 - of streams
        if self._chain.ended:
            return
        at_hand = _at_hand.get()
        if at_hand is not None and at_hand[0] is self._chain:
            ends: Ends | None = at_hand[1]
        else:
            ends = self._chain.only_way()
        if ends is None:
            raise BadContextError("no datagram is being handled, so send_to must say where to")
        self.send_to(data, ends)

    def send_to(self, data: bytes, ends: Ends) -> None:
        if not self._chain.ended:
            self._chain.pass_on(self._stage, self._way, data, ends)

    def half_close(self) -> None:
        """Datagrams know no end."""

    def abort(self) -> None:
        self._chain.fail("aborted by a filter")


class _Stage:
    """One filter of the chain.

    A direction queues up here while a coroutine of the filter runs for it, and until all filters
    have their sides, because one of them may speak as soon as it has its own.

    Attributes:
        filter: the filter.
        context: goes with it.
        neighbours: the next stage in each direction, or None at the end of the chain.
    """

    __slots__ = ("_chain", "_handlers", "_held", "_queues", "_sizes", "_tasks", "context",
                 "filter", "neighbours")  # fmt: skip

    def __init__(self, chain: DatagramChain, data_filter: DataFilter, context: object) -> None:
        self._chain = chain
        self.filter = data_filter
        self.context = context
        self.neighbours: list[_Stage | None] = [None, None]
        self._queues: tuple[deque[tuple[bytes, Ends]], ...] = (deque(), deque())
        self._sizes = [0, 0]
        self._held = [True, True]
        self._tasks: list[asyncio.Future[None] | None] = [None, None]
        self._handlers: tuple[Callable[[bytes, Ends], Handled], ...] = (
            data_filter.datagram_from_client,
            data_filter.datagram_from_server,
        )

    def waiting_size(self, way: Way) -> int:
        return self._sizes[way]

    def deliver(self, way: Way, data: bytes, ends: Ends) -> None:
        """Take a datagram; while the direction is held, keep it or lose it."""
        if not self._held[way]:
            self._handle(way, data, ends)
            return
        chain = self._chain
        queue, size = self._queues[way], self._sizes[way] + len(data)
        if len(queue) >= chain.max_waiting or size > chain.max_buffer:
            chain.dropped += 1
            return
        self._sizes[way] = size
        queue.append((data, ends))

    def release(self, way: Way) -> None:
        """Handle what has queued up, until a coroutine is to be waited for."""
        self._held[way] = False
        queue = self._queues[way]
        while queue and not self._held[way] and not self._chain.ended:
            data, ends = queue.popleft()
            self._sizes[way] -= len(data)
            self._handle(way, data, ends)

    def _handle(self, way: Way, data: bytes, ends: Ends) -> None:
        chain = self._chain
        if chain.ended:
            return
        token = _at_hand.set((chain, ends))
        try:
            handled = self._handlers[way](data, ends)
            if handled is not None and inspect.isawaitable(handled):
                self._wait_for(way, asyncio.ensure_future(handled))
        except FAULTS as error:  # it ends its own
            chain.fail_filter(self.filter, error)
        finally:
            _at_hand.reset(token)

    def _wait_for(self, way: Way, task: asyncio.Future[None]) -> None:
        if self._chain.ended:  # by the handler itself
            task.cancel()
            return
        self._tasks[way] = task
        self._held[way] = True
        limit = self._chain.deadlines.after(
            self._chain.filter_timeout, lambda: self._timed_out(task)
        )
        task.add_done_callback(lambda done: self._handled(way, done, limit))

    def _timed_out(self, task: asyncio.Future[None]) -> None:
        if not task.done():
            self._chain.fail_filter(self.filter, TimeoutError("a handler took too long"))

    def _handled(self, way: Way, task: asyncio.Future[None], limit: Deadline) -> None:
        limit.cancel()
        self._tasks[way] = None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._chain.fail_filter(self.filter, error)
        else:
            self.release(way)

    def close(self) -> None:
        for task in self._tasks:
            if task is not None:
                task.cancel()
        for queue in self._queues:
            queue.clear()


class DatagramChain:
    """Passes datagrams through data filters.

    Args:
        deadlines: for `filter_timeout`.
        connection: the connection, for the filters.
        leave: takes a datagram out at either end; raises AddressNotAllowedError where there is
            no such way.
        only_way: returns the ends of the only way that there is, or None.
        on_failed: told why the connection must end, and the filter's error if it is one.
        report: told of an error that comes when everything has ended already.
        max_waiting: datagrams that may wait per stage and direction.
        max_buffer: their bytes.
        filter_timeout: seconds that one handler may take.

    Attributes:
        dropped: datagrams lost because a filter was too slow.
        ended: nothing passes any more.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        connection: Connection,
        *,
        leave: Callable[[Way, bytes, Ends], None],
        only_way: Callable[[], Ends | None],
        on_failed: Callable[[str, BaseException | None], None],
        report: Callable[[BaseException], None],
        max_waiting: int,
        max_buffer: int,
        filter_timeout: float,
    ) -> None:
        self.deadlines = deadlines
        self.max_waiting = max_waiting
        self.max_buffer = max_buffer
        self.filter_timeout = filter_timeout
        self.only_way = only_way
        self.dropped = 0
        self.ended = False
        self._connection = connection
        self._leave = leave
        self._on_failed = on_failed
        self._report = report
        self._stages: list[_Stage] = []
        self._is_emulated = False

    def set_filters(
        self, filters: Sequence[tuple[DataFilter, object]], *, emulated: bool = False
    ) -> None:
        """Make these the chain, from the client to the server; those already in it stay.

        Args:
            filters: each with its context.
            emulated: the last one plays the server, and nothing is behind it.
        """
        there = {id(stage.filter): stage for stage in self._stages}
        stages = [
            there.get(id(data_filter)) or _Stage(self, data_filter, context)
            for data_filter, context in filters
        ]
        new = [stage for stage in stages if stage not in self._stages]
        self._stages, self._is_emulated = stages, emulated
        for number, stage in enumerate(stages):
            stage.neighbours[Way.DOWN] = stages[number - 1] if number else None
            stage.neighbours[Way.UP] = stages[number + 1] if number + 1 < len(stages) else None
        for stage in new:
            self._connect(stage)
        for stage in new:
            stage.release(Way.UP)
            stage.release(Way.DOWN)

    def _connect(self, stage: _Stage) -> None:
        if self.ended:
            return
        internal, external = _Side(self, stage, Way.DOWN), _Side(self, stage, Way.UP)
        try:
            stage.filter.set_sockets(internal, external, self._connection, stage.context)
        except FAULTS as error:  # it ends its own
            self.fail_filter(stage.filter, error)

    def deliver(self, way: Way, data: bytes, ends: Ends) -> None:
        """Take a datagram in from one of the two ends of the chain."""
        self._stages[0 if way is Way.UP else -1].deliver(way, data, ends)

    def pass_on(self, stage: _Stage, way: Way, data: bytes, ends: Ends) -> None:
        """Take a datagram from a filter to the next one, or out."""
        following = stage.neighbours[way]
        if following is not None:
            following.deliver(way, data, ends)
        elif way is Way.UP and self._is_emulated:
            raise BadContextError("nothing is behind the last filter of an emulated connection")
        else:
            self._leave(way, data, ends)

    def fail(self, reason: str) -> None:
        """End the connection because a filter says so."""
        if not self.ended:
            self._on_failed(reason, None)

    def fail_filter(self, data_filter: DataFilter, error: BaseException) -> None:
        """End the connection because a filter raised or timed out: nothing passes unseen."""
        if not self.ended:
            name = type(data_filter).__name__
            self._on_failed(f"filter {name} failed: {type(error).__name__}: {error}", error)

    def close(self) -> None:
        """Cancel what runs, and let the filters go."""
        if self.ended:
            return
        self.ended = True
        for stage in self._stages:
            stage.close()
            try:
                stage.filter.detach()
            except FAULTS as error:  # the connection is gone already
                self._report(error)
