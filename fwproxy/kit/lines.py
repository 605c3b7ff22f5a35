"""A bounded reader of lines, for protocols whose control channel is text.

The items that come out do not depend on how the input was cut into pieces. A faulty line comes out
as an error *value* in its place among the good ones: whoever reads chooses to raise it or to answer
it, and no part of a faulty line is ever handed out as a line of its own.
"""

from __future__ import annotations

from fwproxy.errors import FwproxyError


class LineError(FwproxyError):
    """A line that must not be used; the reader goes on behind its end."""


class LineTooLongError(LineError):
    """A line is longer than `max_line_length`; reported at once, not at its end."""


class ForbiddenByteError(LineError):
    """A line holds a NUL, a bare CR or, where only CRLF ends a line, a bare LF."""


LineItem = bytes | LineError
"""What a reader yields: a line without its terminator, or what is wrong with it."""

_NUL, _CR, _LF, _CRLF = b"\0", b"\r", b"\n", b"\r\n"


class LineReader:
    """Cuts a byte stream into lines, holding at most one incomplete line.

    A line ends with CRLF (RFC 854, RFC 959 section 5.3.1) and, unless *accept_lf* is false, with a
    bare LF as some clients and most humans send it. Inside a line NUL, CR and (without
    *accept_lf*) LF are forbidden. A line that outgrows *max_line_length* yields one
    `LineTooLongError` as soon as that is certain; the rest of it is dropped as it comes.

    Args:
        max_line_length: bytes in a line, its terminator not counted.
        accept_lf: whether LF alone ends a line.
        accept_cr_nul: whether CR NUL, Telnet's carriage return inside a line (RFC 854), may stand
            there; it stays in the line as these two bytes, so that it can be sent on as it is.
        keep_ends: whether lines keep their terminator, as in `bytes.splitlines`.
    """

    __slots__ = (
        "_accept_cr_nul",
        "_accept_lf",
        "_discarding",
        "_keep_ends",
        "_max",
        "_pending",
        "_separator",
    )

    def __init__(
        self,
        max_line_length: int,
        *,
        accept_lf: bool = True,
        accept_cr_nul: bool = False,
        keep_ends: bool = False,
    ) -> None:
        self._max = max_line_length
        self._accept_lf = accept_lf
        self._accept_cr_nul = accept_cr_nul
        self._keep_ends = keep_ends
        self._separator = _LF if accept_lf else _CRLF
        self._pending = b""
        self._discarding = False

    @property
    def pending(self) -> int:
        """How many bytes of an incomplete line are held."""
        return len(self._pending)

    def take_pending(self) -> bytes:
        """Give up the incomplete line, for a stream that stops being lines here."""
        pending, self._pending, self._discarding = self._pending, b"", False
        return pending

    def feed(self, data: bytes) -> list[LineItem]:
        """Take bytes, return the lines they complete, good and faulty, in their order."""
        if self._pending:
            data = self._pending + data
        elif data[-2:] == _CRLF and not self._discarding:
            line = data[:-2]  # the usual case, one good line, goes no further
            if len(line) <= self._max and not (_LF in line or _CR in line or _NUL in line):
                return [data if self._keep_ends else line]
        parts = data.split(self._separator)
        tail = parts.pop()
        if self._discarding:
            if not parts:
                self._pending = self._half_separator(tail)
                return []
            del parts[0]
            self._discarding = False
        items = [self._checked(part) for part in parts]
        if len(tail) > self._max and not (tail.endswith(_CR) and len(tail) == self._max + 1):
            items.append(self._too_long())
            self._discarding = True
            tail = self._half_separator(tail)
        self._pending = tail
        return items

    def _checked(self, part: bytes) -> LineItem:
        end = self._separator
        if self._accept_lf and part.endswith(_CR):
            part = part[:-1]
            end = _CRLF
        if len(part) > self._max:
            return self._too_long()
        if _CR in part or _NUL in part or _LF in part:
            fault = self._fault(part)
            if fault:
                return ForbiddenByteError(f"a line holds {fault}")
        return part + end if self._keep_ends else part

    def _fault(self, part: bytes) -> str | None:
        if self._accept_cr_nul:
            part = part.replace(b"\r\0", b"")
        found = [name for byte, name in _FORBIDDEN.items() if byte in part]
        return " and ".join(found) or None

    def _half_separator(self, tail: bytes) -> bytes:
        """What of a dropped *tail* may be the first half of the separator."""
        return _CR if not self._accept_lf and tail.endswith(_CR) else b""

    def _too_long(self) -> LineTooLongError:
        return LineTooLongError(f"a line is longer than max_line_length, {self._max} bytes")


_FORBIDDEN = {_NUL: "a NUL", _CR: "a bare CR", _LF: "a bare LF"}
