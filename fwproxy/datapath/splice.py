"""Two sockets, no data filter: plain copies first, splice(2) once a stream proves bulky."""

from __future__ import annotations

import contextlib
import os
import select
import socket

from fwproxy.datapath.base import Done, close_socket
from fwproxy.datapath.pipes import Pipe, PipePool
from fwproxy.datapath.poll import NOT_YET_DRAINED, READABLE, SCRATCH_SIZE, WRITABLE, Poller

ROUNDS_PER_TURN = 16
"""Reads of one direction before others have their turn."""

WORTH_A_PIPE = 16 * 1024
"""Bytes that must come at a time for a stream to remain bulky: fewer are cheaper to copy."""


class _SinkLostError(Exception):
    """Nothing can be sent any more to where a direction leads; its cause is the system's error."""


_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class _Direction:
    """One direction: bytes from `source` to `sink`.

    At any time the bytes on their way are in `pending` (what a plain copy could not send) or in
    `pipe`, never in both. The source is read only when nothing waits, so that memory per
    direction is bounded by the scratch buffer or the pipe.
    """

    __slots__ = (
        "blocked",
        "bulky",
        "count",
        "finished",
        "pending",
        "pipe",
        "reads_on",
        "relay",
        "sink",
        "source",
    )  # fmt: skip

    def __init__(self, relay: SpliceRelay, source: socket.socket, sink: socket.socket) -> None:
        self.relay: SpliceRelay | None = relay
        self.source = source
        self.sink = sink
        self.pending: bytes | None = None
        self.pipe: Pipe | None = None
        self.count = 0
        self.reads_on = False
        self.blocked = False
        self.bulky = False
        self.finished = False

    def pump(self) -> None:  # noqa: C901, PLR0912 - one function: every request passes it
        """Move what can be moved now."""
        relay = self.relay
        if relay is None or self.finished:
            return
        scratch = relay.poller.scratch
        try:
            if self.pending is not None and not self._flush(self.pending):
                return
            for _ in range(ROUNDS_PER_TURN):
                if self.bulky:
                    self.pipe = self.pipe or relay.pipes.take()
                    if self.pipe is not None:
                        if not self._splice(relay, self.pipe):
                            return
                        continue
                size = self.source.recv_into(scratch)
                if not size:
                    self._finish(relay)
                    return
                self.count += size
                try:
                    sent = self.sink.send(scratch[:size])
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    raise _SinkLostError from error
                if sent < size:
                    self.pending, self.blocked = bytes(scratch[sent:size]), True
                    return
                if size < SCRATCH_SIZE:
                    if not self.reads_on:  # a short read has drained the source
                        return
                elif self.count >= relay.bulk_threshold:
                    self.bulky = True
        except BlockingIOError:
            self.reads_on = False  # drained, and no end behind it
            if relay.lost:
                relay.end_lost()
        except _SinkLostError as lost:
            relay.lose_sink(self, lost.__cause__)
        except OSError as error:
            relay.break_off(self, error)
        else:
            relay.poller.defer(self.pump)

    def _flush(self, data: bytes) -> bool:
        """Send what waits; False if some of it waits on."""
        try:
            sent = self.sink.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _SinkLostError from error
        if sent == len(data):
            self.pending = None
            self.blocked = False
            return True
        self.pending = data[sent:]
        self.blocked = True
        return False

    def _splice(self, relay: SpliceRelay, pipe: Pipe) -> bool:
        """Fill the pipe and empty it once; False when either side has to be waited for."""
        taken = -1
        with contextlib.suppress(BlockingIOError):  # no more, or a full pipe: its level tells
            taken = os.splice(self.source.fileno(), pipe.writer, pipe.size, flags=_SPLICE_FLAGS)
        if taken > 0:
            pipe.level += taken
            pipe.moved += taken
            self.count += taken
        if pipe.level:
            return self._drain(pipe)
        self.bulky = pipe.moved >= WORTH_A_PIPE
        self.pipe = None
        relay.pipes.give_back(pipe)
        if taken == 0 or self.reads_on:
            # splice(2) never passes an urgent byte and takes it for the end when the end is
            # behind it; recv(2) passes the one and tells the other.
            self.bulky = False
            return True
        return False

    def _drain(self, pipe: Pipe) -> bool:
        try:
            pipe.level -= os.splice(
                pipe.reader, self.sink.fileno(), pipe.level, flags=_SPLICE_FLAGS
            )
        except BlockingIOError:
            self.blocked = True
            return False
        except OSError as error:
            raise _SinkLostError from error
        self.blocked = False
        return True

    def _finish(self, relay: SpliceRelay) -> None:
        self.finished = True
        if relay.direction_finished():  # and both sockets are closed now
            return
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _SinkLostError from error

    def stop(self, relay: SpliceRelay) -> None:
        """Move nothing any more."""
        self.finished, self.blocked, self.pending = True, False, None
        if self.pipe is not None:
            relay.pipes.give_back(self.pipe)
            self.pipe = None


class SpliceRelay:
    """Moves bytes between two connected sockets until both directions have ended.

    Attributes:
        lost: why one of them takes nothing any more, while what it has said is still passed on.
    """

    __slots__ = ("_client_fd", "_downstream", "_on_done", "_upstream", "bulk_threshold",
                 "last_active", "lost", "pipes", "poller")  # fmt: skip

    kind = "splice"

    def __init__(
        self,
        poller: Poller,
        client: socket.socket,
        server: socket.socket,
        *,
        pipes: PipePool,
        bulk_threshold: int,
        on_done: Done,
    ) -> None:
        self.poller = poller
        self.pipes = pipes
        self.bulk_threshold = bulk_threshold
        self.last_active = poller.now
        self.lost = ""
        self._client_fd = client.fileno()
        self._upstream = _Direction(self, client, server)
        self._downstream = _Direction(self, server, client)
        self._on_done: Done | None = on_done

    @property
    def client_bytes(self) -> int:
        """Bytes received from the client."""
        return self._upstream.count

    @property
    def server_bytes(self) -> int:
        """Bytes received from the server."""
        return self._downstream.count

    def start(self) -> None:
        """Watch both descriptors, or take them over from whoever watched them."""
        for direction in (self._upstream, self._downstream):
            if self.poller.watch(direction.source.fileno(), self):
                direction.reads_on = True  # an end may have been reported already: read up to it
                self.poller.defer(direction.pump)

    def on_ready(self, fd: int, events: int) -> None:
        """Pump the directions that the edge may have woken."""
        self.last_active = self.poller.now
        if fd == self._client_fd:
            reading, writing = self._upstream, self._downstream
        else:
            reading, writing = self._downstream, self._upstream
        if events & select.EPOLLERR and reading.finished:
            self._ask_for_error(reading)
        if events & READABLE:
            if events & NOT_YET_DRAINED:
                reading.reads_on = True
            if not reading.blocked:
                reading.pump()
        if events & WRITABLE and writing.blocked:
            writing.pump()

    def _ask_for_error(self, direction: _Direction) -> None:
        """Notice a reset by one who has said his end: nothing is read there that would tell."""
        code = direction.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.break_off(direction, OSError(code, os.strerror(code)))

    def on_broken(self, error: Exception) -> None:
        """End after a fault of our own."""
        self.poller.report(error)
        self._end("internal error", broken=True)

    def break_off(self, direction: _Direction, error: OSError) -> None:
        """End because one socket failed.

        A reset by one who has seen the end of the stream, and had sent nothing or has said that
        it was all, takes nothing away from anybody: many programs close like that.
        """
        if self.lost:
            self.end_lost()
            return
        other = self._other(direction)
        harmless = other.finished and not direction.count and direction.pending is None
        reason = self._broken(direction, error)
        self._end("closed" if harmless else reason, broken=not harmless)

    def lose_sink(self, direction: _Direction, error: BaseException | None) -> None:
        """End because one socket takes nothing any more, but first pass on what it has said.

        That is what happens if it is noticed before anything is sent there.
        """
        assert isinstance(error, OSError)  # noqa: S101 - the cause of the one that was caught
        other = self._other(direction)
        if self.lost or other.finished:
            self.break_off(direction, error)
            return
        self.lost = self._broken(direction, error)
        direction.stop(self)
        other.reads_on = True
        if not other.blocked:
            other.pump()

    def end_lost(self) -> None:
        """End after that."""
        self._end(self.lost, broken=True)

    def _other(self, direction: _Direction) -> _Direction:
        return self._downstream if direction is self._upstream else self._upstream

    def _broken(self, direction: _Direction, error: OSError) -> str:
        side = "client to server" if direction is self._upstream else "server to client"
        return f"broken {side}: {error.strerror or error}"

    def direction_finished(self) -> bool:
        """End when both directions have; say whether that is so."""
        if not (self._upstream.finished and self._downstream.finished):
            return False
        self._end(self.lost or "closed", broken=bool(self.lost))
        return True

    def _end(self, reason: str, *, broken: bool) -> None:
        on_done = self._on_done
        self.close(abort=broken)
        if on_done is not None:
            on_done(reason, broken, None)

    def close(self, *, abort: bool = False) -> None:
        """Close both sockets; harmless when repeated."""
        if self._on_done is None:
            return
        self._on_done = None
        for direction in (self._upstream, self._downstream):
            if direction.pipe is not None:
                self.pipes.give_back(direction.pipe)
                direction.pipe = None
            direction.relay = None  # the references would make a cycle
            self.poller.forget(direction.source.fileno())
            close_socket(direction.source, abort=abort)
