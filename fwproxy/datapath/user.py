"""Two sockets and a chain of data filters, with backpressure and half-close all the way.

::

    client socket ── stage 0 ── stage 1 ── … ── server socket
                     filter     filter

A socket is read only while its direction is not congested, that is, while no handler of the
direction is running and the far socket has little left to send; what is on its way is therefore
bounded by one read per stage and `max_buffer` per socket.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fwproxy.clock import Deadline, Deadlines
from fwproxy.datapath.base import Done, close_socket
from fwproxy.datapath.poll import NOT_YET_DRAINED, READABLE, SCRATCH_SIZE, WRITABLE, Poller
from fwproxy.datapath.stream_end import End
from fwproxy.datapath.stream_stage import Link, Stage
from fwproxy.datapath.way import Way
from fwproxy.filter import FAULTS, DataFilter

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection

READS_PER_TURN = 16
"""Reads of one direction before others have their turn."""


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
        self._client = End(self, Way.UP, client)
        self._server = End(self, Way.DOWN, server)
        self._server.is_void = emulated
        self._client_fd = client.fileno()
        self._stages = [Stage(self, data_filter) for data_filter, _ in filters]
        self._pumping = [False, False]
        self._sources = ((self._client, self._stages[0]), (self._server, self._stages[-1]))
        self.busy = [0, 0]
        self._lingering: Deadline | None = None
        self._connection = connection
        self._contexts = [context for _, context in filters]

    def _connect_stages(self) -> None:
        last = len(self._stages) - 1
        for number, stage in enumerate(self._stages):
            internal = Link(self, self._stages[number - 1], Way.DOWN) if number else self._client
            external = (
                Link(self, self._stages[number + 1], Way.UP) if number < last else self._server
            )
            self._connect(stage, internal, external, self._contexts[number])
            if self.ended:
                return
        for stage in self._stages:
            stage.release(Way.UP)
            stage.release(Way.DOWN)

    def _connect(
        self, stage: Stage, internal: End | Link, external: End | Link, context: object
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

    def sink(self, way: Way) -> End:
        """Return the end that a direction leaves by."""
        return self._server if way is Way.UP else self._client

    def start(self) -> None:
        """Give the filters their sides, take over the descriptors and read what is there."""
        self._connect_stages()
        self._watch(self._client)
        self._watch(self._server)

    def _watch(self, end: End) -> None:
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
        self.resume(Way.UP)  # that much may have been waiting that nothing was read any more

    def attach_player(self, data_filter: DataFilter, context: object) -> None:
        """Let a filter play the server that was to come after the start."""
        stage, place = Stage(self, data_filter), self._server
        before = self._stages[-1]
        self._stages.append(stage)
        self._server = End(self, Way.DOWN, None)
        self._server.is_void = True
        self._sources = (self._sources[0], (self._server, stage))
        self._connect(stage, Link(self, before, Way.DOWN), self._server, context)
        if not self.ended:
            stage.release(Way.UP)
            stage.release(Way.DOWN)
            place.play(Link(self, stage, Way.UP))
            self.resume(Way.UP)  # as above

    def on_ready(self, fd: int, events: int) -> None:
        """Flush the socket and pump what it may have woken."""
        self.last_active = self.poller.now
        end = self._client if fd == self._client_fd else self._server
        if events & select.EPOLLERR and end.ended:
            end.ask_for_error()
        if end.size and events & WRITABLE:
            end.flush()
            self.resume(Way.DOWN if end is self._client else Way.UP)
        if events & READABLE:
            if events & NOT_YET_DRAINED:
                end.reads_on = True
            self.resume(end.way)

    def on_broken(self, error: Exception) -> None:
        """End after a fault of our own."""
        self.poller.report(error)
        self.fail("internal error")

    def resume(self, way: Way) -> None:
        """Read and deliver until the direction is congested or has nothing to read."""
        if self._pumping[way]:
            return
        self._pumping[way] = True
        source, first = self._sources[way]
        try:
            for _ in range(READS_PER_TURN):
                if self.ended or self.busy[way] or self.sink(way).size > self._low_water:
                    return  # congested
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
