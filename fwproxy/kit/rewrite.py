"""Putting other bytes into a message, within bounds, and setting right what counts them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

import attrs

from fwproxy.errors import FwproxyError
from fwproxy.kit.places import Edit

_CONTENT_LENGTH = re.compile(rb"(?mi)^(?:content-length|l)[ \t]*+:([^\r\n]*+)")
_BULK = re.compile(rb"\$(0|[1-9][0-9]{0,9})\r\n")


class RewriteError(FwproxyError, ValueError):
    """A message cannot be rewritten so, or is not what it was said to be."""


def apply_edits(message: bytes, edits: Iterable[Edit], *, max_length: int) -> bytes:
    """Return the message with all edits made; they may come in any order.

    Raises:
        RewriteError: two of them overlap, one is not inside, or the result is longer than
            *max_length*.
    """
    pieces, at = [], 0
    for edit in sorted(edits, key=lambda each: (each.start, each.end)):
        if not at <= edit.start <= edit.end <= len(message):
            raise RewriteError(f"bytes {edit.start} to {edit.end} are no part to be replaced")
        pieces += [message[at : edit.start], edit.new]
        at = edit.end
    made = b"".join([*pieces, message[at:]])
    if len(made) > max_length:
        raise RewriteError(f"{len(made)} bytes, max_length is {max_length}")
    return made


@attrs.frozen
class Counted:
    """Bytes in a message with their number before them.

    Attributes:
        start: where the number begins.
        end: where the bytes end.
        data: the bytes.
        format: of the number, for `struct`, or empty for a RESP bulk string.
    """

    start: int
    end: int
    data: bytes
    format: str

    def edit(self, data: bytes) -> Edit:
        """Return what puts other bytes there, and their number.

        Raises:
            RewriteError: the number has no room for so many.
        """
        return Edit(self.start, self.end, counted(data, self.format) if self.format else bulk(data))


def counted(data: bytes, format: str) -> bytes:  # noqa: A002 - as in `struct`
    """Return the bytes with their number before them.

    Raises:
        RewriteError: the number has no room for so many.
    """
    try:
        return struct.pack(format, len(data)) + data
    except struct.error:
        raise RewriteError(f"{len(data)} bytes are too many for the format {format}") from None


def read_counted(message: bytes, start: int, format: str, *, max_length: int) -> Counted:  # noqa: A002
    """Return the bytes whose number begins at *start*.

    Raises:
        RewriteError: they are not all there, the number is negative or more than *max_length*.
    """
    try:
        (length,) = struct.unpack_from(format, message, start)
    except struct.error:
        raise RewriteError("the number of bytes is not there") from None
    begin = start + struct.calcsize(format)
    if not 0 <= length <= min(max_length, len(message) - begin):
        raise RewriteError(f"{length} bytes are too many or not there, max_length is {max_length}")
    return Counted(start, begin + length, message[begin : begin + length], format)


def bulk(data: bytes) -> bytes:
    """Return a RESP bulk string (Redis): `$5`, CRLF, the bytes, CRLF."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def read_bulk(message: bytes, start: int, *, max_length: int) -> Counted:
    """Return the RESP bulk string that begins at *start*.

    Raises:
        RewriteError: it is none, not all there, or longer than *max_length*.
    """
    head = _BULK.match(message, start)
    length = -1 if head is None else int(head.group(1))
    if head is None or length > max_length:
        raise RewriteError(f"no bulk string of up to {max_length} bytes begins here")
    end = head.end() + length
    if message[end : end + 2] != b"\r\n":
        raise RewriteError("the bulk string does not end where it says")
    return Counted(start, end + 2, message[head.end() : end], "")


def fix_content_length(message: bytes) -> bytes:
    """Return a message with a head and a body whose Content-Length is that of its body.

    The head ends with an empty line (SIP, RTSP, HTTP); SIP's short name `l` is known. A message
    without the header is left alone if it has no body.

    Raises:
        RewriteError: there is no end of the head, there are two headers, or a body without one.
    """
    head, end, body = message.partition(b"\r\n\r\n")
    if not end:
        raise RewriteError("the head of the message has no end")
    found = list(_CONTENT_LENGTH.finditer(head))
    if not found and not body:
        return message
    if len(found) != 1 or not found[0].group(1).strip(b" \t").isdigit():
        raise RewriteError(f"{len(found)} headers say how long the body is, or one that cannot")
    start, stop = found[0].span(1)
    return b"%b %d%b%b%b" % (head[:start], len(body), head[stop:], end, body)
