"""The server's replies (RFC 959 section 4.2), line by line.

A reply is `123 text`, or several lines from `123-text` to `123 text`. Lines in between are free
text. A long reply (STAT of a big directory) is never held: each line goes on as it comes, and says
where in its reply it stands.

Clients differ in where they believe that a reply ends: RFC 959 wants the same code and a space,
some take any three digits and a space, others the same code and anything but a hyphen. The lines
that come out are read alike by all of them:

- an intermediate line that some client would take for the last one gets a space in front, which RFC
  959 asks of the server;
- a bare code (`250`) gets the space that belongs behind it.

All other lines come out byte for byte. CR, LF and NUL inside a line, lines that are too long and
replies that begin with no code make the stream unusable: after such an error nothing follows.
"""

from __future__ import annotations

from typing import NamedTuple

from fwproxy.errors import InvalidArgumentError
from fwproxy.kit.lines import LineError, LineReader
from fwproxy_filters.ftp.errors import MalformedReplyError

MAX_REPLY_LINE = 16 * 1024
"""Bytes in one line of a reply; a doubled 4096-byte path fits well."""

MAX_REPLY_LINES = 1_000_000
"""Lines in one reply."""

_CODES = {str(code).encode("ascii"): code for code in range(100, 700)}


class ReplyLine(NamedTuple):
    """One line of a reply.

    Attributes:
        code: the code of the reply that the line belongs to, 100 to 699.
        is_first: whether the reply begins here.
        is_last: whether it ends here; a reply of one line has both.
        raw: the bytes for the client, CRLF included.
    """

    code: int
    is_first: bool
    is_last: bool
    raw: bytes

    @property
    def text(self) -> bytes:
        """The line without code, separator and CRLF."""
        return self.raw[self._prefix_length : -2]

    def with_text(self, text: bytes) -> ReplyLine:
        """Return the same line with another text.

        Raises:
            InvalidArgumentError: there is a CR, LF or NUL in it.
        """
        raw = self.raw[: self._prefix_length] + _sound(text) + b"\r\n"
        return ReplyLine(self.code, self.is_first, self.is_last, raw)

    @property
    def _prefix_length(self) -> int:
        has_code = self.is_first or self.is_last or self.raw.startswith(b"%d-" % self.code)
        return 4 if has_code else 0


ReplyItem = ReplyLine | MalformedReplyError
"""What a reader yields."""


class ReplyReader:
    """Cuts the server's stream into reply lines, holding at most one incomplete line.

    Args:
        max_line_length: bytes in a line, its CRLF not counted.
        max_lines: lines in one reply.
        accept_lf: whether LF alone ends a line, for servers that know no better; lines come out
            with CRLF. Otherwise a bare LF is an error.
    """

    __slots__ = ("_code", "_count", "_is_broken", "_last_head", "_lines", "_max_lines")

    def __init__(
        self,
        max_line_length: int = MAX_REPLY_LINE,
        max_lines: int = MAX_REPLY_LINES,
        *,
        accept_lf: bool = False,
    ) -> None:
        self._lines = LineReader(max_line_length, accept_lf=accept_lf)
        self._max_lines = max_lines
        self._is_broken = False
        self._code = 0
        self._last_head = b""
        self._count = 0

    @property
    def is_between_replies(self) -> bool:
        """Whether no reply, and no line, has been read in part."""
        return not (self._code or self._lines.pending or self._is_broken)

    def take_pending(self) -> bytes:
        """Give up the incomplete line, for a stream that stops being replies here."""
        return self._lines.take_pending()

    def feed(self, data: bytes) -> list[ReplyItem]:
        """Take bytes, return the lines they complete, and the error if there is one as the last."""
        items: list[ReplyItem] = []
        if self._is_broken:
            return items
        for line in self._lines.feed(data):
            if isinstance(line, LineError):
                item: ReplyItem = MalformedReplyError(str(line))
            else:
                item = self._inside(line) if self._code else self._outside(line)
            items.append(item)
            if isinstance(item, MalformedReplyError):
                self._is_broken = True
                break
        return items

    def _outside(self, line: bytes) -> ReplyItem:
        code = _CODES.get(line[:3])
        if code is None:
            return MalformedReplyError("a reply begins with no code")
        mark = line[3:4]
        if mark == b" ":
            return ReplyLine(code, is_first=True, is_last=True, raw=line + b"\r\n")
        if not mark:
            return ReplyLine(code, is_first=True, is_last=True, raw=line + b" \r\n")
        if mark != b"-":
            return MalformedReplyError("neither a space nor a hyphen follows the code")
        self._code, self._count = code, 1
        self._last_head = line[:3] + b" "
        return ReplyLine(code, is_first=True, is_last=False, raw=line + b"\r\n")

    def _inside(self, line: bytes) -> ReplyItem:
        code = self._code
        self._count += 1
        if self._count > self._max_lines:
            return MalformedReplyError(f"a reply has more than max_lines, {self._max_lines}")
        if line + b" " == self._last_head:
            line = self._last_head
        if line.startswith(self._last_head):
            self._code = 0
            return ReplyLine(code, is_first=False, is_last=True, raw=line + b"\r\n")
        if line[:3].isdigit() and self._looks_last(line):
            line = b" " + line
        return ReplyLine(code, is_first=False, is_last=False, raw=line + b"\r\n")

    def _looks_last(self, line: bytes) -> bool:
        """Whether some client takes this intermediate line, digits first, for the last one."""
        if line[:3] == self._last_head[:3]:
            return line[3:4] != b"-"
        return line[3:4] == b" "


def format_reply(code: int, *texts: bytes) -> bytes:
    """Return a whole reply with one line for each of *texts*.

    Raises:
        InvalidArgumentError: the code is not one, there is no text, or one holds CR, LF or NUL.
    """
    if not 100 <= code <= 699 or not texts:
        raise InvalidArgumentError(f"{code} with {len(texts)} lines is not a reply")
    first, last = b"%d-" % code, b"%d " % code
    heads = [first, *[b" "] * (len(texts) - 2), last] if len(texts) > 1 else [last]
    return b"".join(head + _sound(text) + b"\r\n" for head, text in zip(heads, texts, strict=True))


def _sound(text: bytes) -> bytes:
    if b"\r" in text or b"\n" in text or b"\0" in text:
        raise InvalidArgumentError("the text of a reply holds a CR, LF or NUL")
    return text
