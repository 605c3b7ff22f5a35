"""Two sockets and a chain of data filters, with backpressure and half-close all the way.

::

    client socket ── stage 0 ── stage 1 ── … ── server socket
                     filter     filter

A socket is read only while its direction is not congested, that is, while no handler of the
direction is running and the far socket has little left to send; what is on its way is therefore
bounded by one read per stage and `max_buffer` per socket.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fwproxy.clock import Deadline, Deadlines
from fwproxy.datapath.base import Done, close_socket
from fwproxy.datapath.poll import NOT_YET_DRAINED, READABLE, SCRATCH_SIZE, WRITABLE, Poller
from fwproxy.errors import BadContextError, BufferFullError, NotSupportedError
from fwproxy.filter import FAULTS, DataFilter, Ends, Handled

if TYPE_CHECKING:
    from fwproxy.connection import Connection

READS_PER_TURN = 16
"""Reads of one direction before others have their turn."""


class _Way(enum.IntEnum):
    """The two directions."""

    UP = 0
    """From the client to the server."""
    DOWN = 1


class _End:
    """One socket, or the place where one will be: reads for one direction, writes for the other.

    Attributes:
        is_void: nothing is behind it, because a filter plays who would be there.
        player: the filter that has taken this place, after it was given to the one before.
    """

    __slots__ = ("_closing", "_relay", "_shut", "_waiting", "count", "ended", "is_void", "player",
                 "reads_on", "size", "sock", "way")  # fmt: skip

    def __init__(self, relay: FilterRelay, way: _Way, sock: socket.socket | None) -> None:
        self._relay = relay
        self.way = way
        self.sock = sock
        self.count = 0
        self.ended = False
        self.reads_on = False
        self.size = 0
        self.is_void = False
        self.player: _Link | None = None
        self._waiting: deque[bytes] = deque()
        self._closing = False
        self._shut = False

    @property
    def pending(self) -> int:
        return self.size if self.player is None else self.player.pending

    @property
    def finished(self) -> bool:
        """Whether everything was sent and the end of the stream after it."""
        return self._shut

    @property
    def drained(self) -> bool:
        """Whether the peer has ended its stream too, or there is no peer."""
        return self.ended or self.sock is None

    def send(self, data: bytes, *, urgent: bool = False) -> None:
        if self._closing or not data:
            return
        if self.player is not None:
            self.player.send(data)
            return
        if self.is_void:
            raise BadContextError("nothing is behind the last filter of an emulated connection")
        if self.sock is not None and not self._waiting:
            data = self._send_now(data, socket.MSG_OOB if urgent else 0)
            if not data:
                return
        if self.size + len(data) > self._relay.max_buffer:
            raise BufferFullError(f"more than {self._relay.max_buffer} bytes wait (max_buffer)")
        self._waiting.append(data)
        self.size += len(data)

    def send_to(self, data: bytes, ends: Ends) -> None:  # noqa: ARG002 - of datagrams
        raise NotSupportedError("a stream has no other ends than its own: use send")

    def half_close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self.player is not None:
            self.player.half_close()
            return
        if self.sock is None:
            self._shut = True  # nobody is there, and nobody comes any more
            self._relay.sink(_Way.DOWN).half_close()
        self.flush()

    def abort(self) -> None:
        self._relay.fail("aborted by a filter")

    def play(self, player: _Link) -> None:
        """Pass what waits here, and all that follows, on to a filter."""
        waiting, closing = b"".join(self._waiting), self._closing
        self._waiting.clear()
        self.size = 0
        self.player = player
        player.send(waiting)
        if closing:
            player.half_close()

    def ask_for_error(self) -> None:
        """Notice a reset by one who has said his end: nothing is read there that would tell."""
        assert self.sock is not None  # noqa: S101 - an edge of it has come
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._relay.broken(OSError(code, os.strerror(code)))

    def flush(self) -> None:
        """Send what waits, then the end of the stream if it is due."""
        if self.sock is None or self._shut:
            self._relay.direction_finished()
            return
        while self._waiting:
            data = self._waiting.popleft()
            rest = self._send_now(data)
            self.size -= len(data) - len(rest)
            if rest:
                self._waiting.appendleft(rest)
                return
        if self._closing:
            self._shut = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._relay.fail(f"broken: {error.strerror}")
            self._relay.direction_finished()

    def _send_now(self, data: bytes, flags: int = 0) -> bytes:
        assert self.sock is not None  # noqa: S101 - both callers have looked
        try:
            return data[self.sock.send(data, flags) :]
        except BlockingIOError:
            return data
        except OSError as error:
            self._relay.fail(f"broken: {error.strerror}")
            return b""

    def read(self) -> bytes | None:
        """Return bytes, an empty string at the end of the stream, or None when there are none."""
        if self.sock is None or self.ended:
            return None
        scratch = self._relay.poller.scratch
        try:
            size = self.sock.recv_into(scratch, self._relay.read_size)
        except BlockingIOError:
            self.reads_on = False
            return None
        except OSError as error:
            self._relay.broken(error)
            return None
        self.ended = not size
        self.count += size
        return bytes(scratch[:size])


class _Link:
    """What a filter sends to: the next stage of the chain in one direction."""

    __slots__ = ("_closing", "_relay", "_stage", "_way")

    def __init__(self, relay: FilterRelay, stage: _Stage, way: _Way) -> None:
        self._relay = relay
        self._stage = stage
        self._way = way
        self._closing = False

    @property
    def pending(self) -> int:
        return self._stage.waiting_size(self._way) + self._relay.sink(self._way).pending

    def send(self, data: bytes, *, urgent: bool = False) -> None:  # noqa: ARG002 - no socket
        if data and not self._closing:
            self._stage.deliver(self._way, data)

    def send_to(self, data: bytes, ends: Ends) -> None:  # noqa: ARG002 - of datagrams
        raise NotSupportedError("a stream has no other ends than its own: use send")

    def half_close(self) -> None:
        if not self._closing:
            self._closing = True
            self._stage.deliver(self._way, b"")

    def abort(self) -> None:
        self._relay.fail("aborted by a filter")


class _Stage:
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

    def waiting_size(self, way: _Way) -> int:
        return sum(map(len, self._queues[way]))

    def deliver(self, way: _Way, data: bytes) -> None:
        """Take bytes, or the end of the stream as an empty string."""
        if not self._held[way]:
            self._handle(way, data)
            return
        if self.waiting_size(way) + len(data) > self._relay.max_buffer:
            raise BufferFullError(f"more than {self._relay.max_buffer} bytes wait (max_buffer)")
        self._queues[way].append(data)

    def release(self, way: _Way) -> None:
        """Handle what has queued up, until a coroutine is to be waited for."""
        self._held[way] = False
        queue = self._queues[way]
        while queue and not self._held[way] and not self._relay.ended:
            self._handle(way, queue.popleft())

    def _handle(self, way: _Way, data: bytes) -> None:
        if self._relay.ended:
            return
        try:
            if data:
                handled = self._handlers[way](data)
            elif way is _Way.UP:
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
            limit = self._relay.deadlines.after(self._relay.filter_timeout, self._timed_out)
            task.add_done_callback(lambda done: self._handled(way, done, limit))

    def _timed_out(self) -> None:
        self._relay.fail_filter(self.filter, TimeoutError("a handler took too long"))

    def _handled(self, way: _Way, task: asyncio.Future[None], limit: Deadline) -> None:
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
        for task in self._tasks:
            if task is not None:
                task.cancel()
        for queue in self._queues:
            queue.clear()


class FilterRelay:
    """Carries one connection through its data filters.

    Args:
        poller: where the sockets are or will be watched.
        deadlines: for `filter_timeout`.
        filters: the chain with each one's context, from the client to the server.
        connection: the connection, for the filters.
        client: the socket towards the client.
        server: the one towards the server; None if it comes later (`attach_server`), or never.
        emulated: the last filter plays the server, and nothing is behind it.
        max_buffer: bytes that may wait per socket and per stage.
        filter_timeout: seconds that one handler may take.
        linger: seconds that a peer may go on sending when both sides are told the end.
        on_done: told when it ends by itself.
    """

    kind = "user"

    def __init__(
        self,
        poller: Poller,
        deadlines: Deadlines,
        filters: Sequence[tuple[DataFilter, object]],
        connection: Connection,
        client: socket.socket,
        server: socket.socket | None,
        *,
        emulated: bool = False,
        max_buffer: int,
        filter_timeout: float,
        linger: float,
        on_done: Done,
    ) -> None:
        self.poller = poller
        self.deadlines = deadlines
        self.max_buffer = max_buffer
        self.filter_timeout = filter_timeout
        self.linger = linger
        self.last_active = poller.now
        self.ended = False
        self._on_done = on_done
        # A read must find room above the mark up to which there is reading.
        self.read_size = min(SCRATCH_SIZE, max_buffer // 2)
        self._low_water = max_buffer // 4
        self._client = _End(self, _Way.UP, client)
        self._server = _End(self, _Way.DOWN, server)
        self._server.is_void = emulated
        self._client_fd = client.fileno()
        self._stages = [_Stage(self, data_filter) for data_filter, _ in filters]
        self._pumping = [False, False]
        self._sources = ((self._client, self._stages[0]), (self._server, self._stages[-1]))
        self.busy = [0, 0]
        self._lingering: Deadline | None = None
        self._connection = connection
        self._contexts = [context for _, context in filters]

    def _connect_stages(self) -> None:
        last = len(self._stages) - 1
        for number, stage in enumerate(self._stages):
            internal = _Link(self, self._stages[number - 1], _Way.DOWN) if number else self._client
            external = (
                _Link(self, self._stages[number + 1], _Way.UP) if number < last else self._server
            )
            self._connect(stage, internal, external, self._contexts[number])
            if self.ended:
                return
        for stage in self._stages:
            stage.release(_Way.UP)
            stage.release(_Way.DOWN)

    def _connect(
        self, stage: _Stage, internal: _End | _Link, external: _End | _Link, context: object
    ) -> None:
        try:
            stage.filter.set_sockets(internal, external, self._connection, context)
        except FAULTS as error:  # it ends its own
            self.fail_filter(stage.filter, error)

    @property
    def client_bytes(self) -> int:
        """Bytes received from the client."""
        return self._client.count

    @property
    def server_bytes(self) -> int:
        """Bytes received from the server."""
        return self._server.count

    def sink(self, way: _Way) -> _End:
        """Return the end that a direction leaves by."""
        return self._server if way is _Way.UP else self._client

    def start(self) -> None:
        """Give the filters their sides, take over the descriptors and read what is there."""
        self._connect_stages()
        self._watch(self._client)
        self._watch(self._server)

    def _watch(self, end: _End) -> None:
        if self.ended or end.sock is None:
            return
        if self.poller.watch(end.sock.fileno(), self):
            end.reads_on = True  # an end may have been reported already: read up to it
            self.resume(end.way)

    def attach_server(self, sock: socket.socket) -> None:
        """Take the socket towards the server, after the start."""
        self._server.sock = sock
        self._server.flush()
        self._watch(self._server)
        self.resume(_Way.UP)  # that much may have been waiting that nothing was read any more

    def attach_player(self, data_filter: DataFilter, context: object) -> None:
        """Let a filter play the server that was to come after the start."""
        stage, place = _Stage(self, data_filter), self._server
        before = self._stages[-1]
        self._stages.append(stage)
        self._server = _End(self, _Way.DOWN, None)
        self._server.is_void = True
        self._sources = (self._sources[0], (self._server, stage))
        self._connect(stage, _Link(self, before, _Way.DOWN), self._server, context)
        if not self.ended:
            stage.release(_Way.UP)
            stage.release(_Way.DOWN)
            place.play(_Link(self, stage, _Way.UP))
            self.resume(_Way.UP)  # as above

    def on_ready(self, fd: int, events: int) -> None:
        """Flush the socket and pump what it may have woken."""
        self.last_active = self.poller.now
        end = self._client if fd == self._client_fd else self._server
        if events & select.EPOLLERR and end.ended:
            end.ask_for_error()
        if end.size and events & WRITABLE:
            end.flush()
            self.resume(_Way.DOWN if end is self._client else _Way.UP)
        if events & READABLE:
            if events & NOT_YET_DRAINED:
                end.reads_on = True
            self.resume(end.way)

    def on_broken(self, error: Exception) -> None:
        """End after a fault of our own."""
        self.poller.report(error)
        self.fail("internal error")

    def resume(self, way: _Way) -> None:
        """Read and deliver until the direction is congested or has nothing to read."""
        if self._pumping[way]:
            return
        self._pumping[way] = True
        source, first = self._sources[way]
        try:
            for _ in range(READS_PER_TURN):
                if self.ended or self._congested(way):
                    return
                data = source.read()
                if data is None or self.ended:
                    return
                if self._lingering is not None:
                    self.direction_finished()
                    continue  # nobody wants to know any more
                first.deliver(way, data)
                if len(data) < self.read_size and not source.reads_on:
                    return  # a short read has drained the socket
            self.poller.defer(lambda: self.resume(way))
        finally:
            self._pumping[way] = False

    def _congested(self, way: _Way) -> bool:
        return self.busy[way] > 0 or self.sink(way).size > self._low_water

    def direction_finished(self) -> None:
        """End when both streams have ended both ways.

        A peer that still sends, although both were told the end, gets `linger` seconds: closing
        on unread bytes resets the connection, and the last reply may be lost on its way.
        """
        if self.ended or not (self._client.finished and self._server.finished):
            return
        if self._client.drained and self._server.drained:
            self._end("closed", broken=False)
        elif self._lingering is None:
            self._lingering = self.deadlines.after(self.linger, self._linger_over)

    def _linger_over(self) -> None:
        self._end("closed", broken=False)

    def broken(self, error: OSError) -> None:
        """End because a peer has gone, which is no loss after both were told the end."""
        if self._lingering is not None:
            self._end("closed", broken=False)
        else:
            self.fail(f"broken: {error.strerror}")

    def fail(self, reason: str) -> None:
        """Break both ways."""
        self._end(reason, broken=True)

    def fail_filter(self, data_filter: DataFilter, error: BaseException) -> None:
        """End because a filter raised, timed out or overflowed: bytes never pass unseen."""
        name = type(data_filter).__name__
        reason = f"filter {name} failed: {type(error).__name__}: {error}"
        self._end(reason, broken=True, error=error)

    def _end(self, reason: str, *, broken: bool, error: BaseException | None = None) -> None:
        if not self.ended:
            self.close(abort=broken)
            self._on_done(reason, broken, error)

    def close(self, *, abort: bool = False) -> None:
        """Close both sockets, cancel what runs, and let the filters go."""
        if self.ended:
            return
        self.ended = True
        if self._lingering is not None:
            self._lingering.cancel()
        for end in (self._client, self._server):
            if end.sock is not None:
                self.poller.forget(end.sock.fileno())
                close_socket(end.sock, abort=abort)
        for stage in self._stages:
            stage.close()
            try:
                stage.filter.detach()
            except FAULTS as error:  # the connection is gone already
                self.poller.report(error)
