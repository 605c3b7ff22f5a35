"""The two ends of a chain of data filters: sockets, or what stands in their place."""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from fwproxy.datapath.way import Way
from fwproxy.errors import BadContextError, BufferFullError, NotSupportedError
from fwproxy.filter import Ends

if TYPE_CHECKING:
    from fwproxy.datapath.stream_stage import Link
    from fwproxy.datapath.user import FilterRelay


class End:
    """One socket, or the place where one will be: reads for one direction, writes for the other.

    Attributes:
        is_void: nothing is behind it, because a filter plays who would be there.
        player: the filter that has taken this place, after it was given to the one before.
        lost: why the peer takes nothing any more, while what it has said is still read.
    """

    __slots__ = ("_closing", "_relay", "_shut", "_waiting", "count", "ended", "is_void", "lost",
                 "player", "reads_on", "size", "sock", "way")  # fmt: skip

    def __init__(self, relay: FilterRelay, way: Way, sock: socket.socket | None) -> None:
        self._relay = relay
        self.way = way
        self.sock = sock
        self.count = 0
        self.ended = False
        self.reads_on = False
        self.size = 0
        self.is_void = False
        self.player: Link | None = None
        self.lost = ""
        self._waiting: deque[bytes] = deque()
        self._closing = False
        self._shut = False

    @property
    def pending(self) -> int:
        """Bytes sent that have not left yet."""
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
        """Send now what can be sent, and keep the rest within bounds (`FilterSocket`)."""
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
        """Refuse: this is about datagrams."""
        raise NotSupportedError("a stream has no other ends than its own: use send")

    def half_close(self) -> None:
        """End the stream in this direction, after what waits."""
        if self._closing:
            return
        self._closing = True
        if self.player is not None:
            self.player.half_close()
            return
        if self.sock is None:
            self._shut = True  # nobody is there, and nobody comes any more
            self._relay.sink(Way.DOWN).half_close()
        self.flush()

    def abort(self) -> None:
        """Break the connection."""
        self._relay.fail("aborted by a filter")

    def play(self, player: Link) -> None:
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
            if self.lost:
                return
            self.size -= len(data) - len(rest)
            if rest:
                self._waiting.appendleft(rest)
                return
        if self._closing:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._lose(error)
                return
            self._shut = True
            self._relay.direction_finished()

    def _send_now(self, data: bytes, flags: int = 0) -> bytes:
        assert self.sock is not None  # noqa: S101 - both callers have looked
        try:
            return data[self.sock.send(data, flags) :]
        except BlockingIOError:
            return data
        except OSError as error:
            self._lose(error)
            return b""

    def _lose(self, error: OSError) -> None:
        """End because the peer takes nothing any more, but first read what it has said.

        That is what happens if it is noticed before anything is sent there.
        """
        reason = f"broken: {error.strerror}"
        if self.ended or self.lost:
            self._relay.fail(reason)
            return
        self.lost, self._closing, self.reads_on = reason, True, True
        self._waiting.clear()
        self.size = 0
        self._relay.poller.defer(lambda: self._relay.resume(self.way))

    def read(self) -> bytes | None:
        """Return bytes, an empty string at the end of the stream, or None when there are none."""
        if self.sock is None or self.ended:
            return None
        scratch = self._relay.poller.scratch
        try:
            size = self.sock.recv_into(scratch, self._relay.read_size)
        except BlockingIOError:
            self.reads_on = False
            if self.lost:
                self._relay.fail(self.lost)
            return None
        except OSError as error:
            if self.lost:
                self._relay.fail(self.lost)
            else:
                self._relay.broken(error)
            return None
        if self.lost and not size:
            self._relay.fail(self.lost)
            return None
        self.ended = not size
        self.count += size
        return bytes(scratch[:size])
