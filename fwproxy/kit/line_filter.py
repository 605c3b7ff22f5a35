"""A data filter for protocols made of lines: a subclass looks at one line at a time."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import attrs

from fwproxy.filter import DataFilter, FilterSocket, Handled
from fwproxy.kit.lines import ForbiddenByteError, LineError, LineItem, LineReader

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection

Line = bytes | None
"""What becomes of a line: the bytes to pass on, without a terminator, or None to drop it."""
_Waiting = tuple[Awaitable[Line], bytes] | None


@attrs.frozen(slots=True, eq=False)
class _Way:
    """One direction: who sends its lines, what becomes of them, and where they go."""

    sender: str
    reader: LineReader
    handle: Callable[[bytes], Line | Awaitable[Line]]
    onward: FilterSocket


class LineFilter(DataFilter):
    """Reads bounded lines both ways; each is passed on, rewritten or dropped by its handler.

    A line goes on with the terminator that it came with. The connection ends when a line is longer
    than `limits.max_line_length`, holds a NUL or a bare CR, or is not ended when the stream is, and
    when a handler raises or returns more than one line. What came before has been passed on then.
    A handler that answers by itself sends a whole line to the other side and returns None.
    """

    accept_lf: bool = True
    """Whether LF alone ends a line, too; otherwise it is a forbidden byte."""

    def line_from_client(self, line: bytes) -> Line | Awaitable[Line]:
        """Say what the server gets instead of *line*; may be a coroutine."""
        return line

    def line_from_server(self, line: bytes) -> Line | Awaitable[Line]:
        """Say what the client gets instead of *line*; may be a coroutine."""
        return line

    def set_sockets(
        self,
        internal: FilterSocket,
        external: FilterSocket,
        connection: Connection,
        context: object,
    ) -> None:
        """Take the two sides; lines follow."""
        super().set_sockets(internal, external, connection, context)
        longest = connection.session.engine.limits.max_line_length
        readers = [LineReader(longest, accept_lf=self.accept_lf, keep_ends=True) for _ in range(2)]
        self._up = _Way("client", readers[0], self.line_from_client, external)
        self._down = _Way("server", readers[1], self.line_from_server, internal)

    def data_from_client(self, data: bytes) -> Handled:
        """Take bytes of any length from the client's side."""
        return self._take(self._up, data)

    def data_from_server(self, data: bytes) -> Handled:
        """Take bytes of any length from the server's side."""
        return self._take(self._down, data)

    def end_from_client(self) -> Handled:
        """Pass the end of the client's stream on."""
        return self._end(self._up)

    def end_from_server(self) -> Handled:
        """Pass the end of the server's stream on."""
        return self._end(self._down)

    def _take(self, way: _Way, data: bytes) -> Handled:
        items = iter(way.reader.feed(data))
        waiting = self._handle(way, items)
        return self._go_on(way, items, waiting) if waiting else None

    async def _go_on(self, way: _Way, items: Iterator[LineItem], waiting: _Waiting) -> None:
        while waiting:
            made, end = waiting
            self._send(way, await made, end)
            waiting = self._handle(way, items)

    def _handle(self, way: _Way, items: Iterator[LineItem]) -> _Waiting:
        """Handle lines up to the first that has to be waited for, and return that one."""
        for item in items:
            if self.connection.is_closed:
                break
            if isinstance(item, LineError):
                self.connection.kill(f"{item} (from the {way.sender})")
                break
            line = item.rstrip(b"\r\n")
            made, end = way.handle(line), item[len(line) :]
            if inspect.isawaitable(made):
                return made, end
            self._send(way, made, end)
        return None

    def _send(self, way: _Way, line: Line, end: bytes) -> None:
        if line is not None:
            if b"\n" in line or b"\r" in line:
                raise ForbiddenByteError("a handler has made more than one line of one")
            way.onward.send(line + end)

    def _end(self, way: _Way) -> Handled:
        if way.reader.pending:
            self._handle(way, iter([LineError("the stream ends inside a line")]))
        else:
            way.onward.half_close()
        return None
