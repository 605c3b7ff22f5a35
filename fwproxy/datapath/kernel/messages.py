"""What all messages of nfnetlink are made of (linux/netlink.h, linux/netfilter/nfnetlink.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

REQUEST, ACK, DUMP, CREATE = 1, 4, 0x300, 0x400
"""Flags of a message: NLM_F_*."""
ERROR, DONE = 2, 3
"""Types that are the kernel's own: an answer to a request, and the end of a dump."""

HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port."""
GENERIC = struct.Struct(">BBH")
"""Family, version, and a resource's number."""
NESTED = 1 << 15
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF


def attribute(kind: int, content: bytes) -> bytes:
    """Return one attribute; what is made of attributes has NESTED in its kind."""
    return _ATTRIBUTE.pack(4 + len(content), kind) + content + bytes(-len(content) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the content of each attribute by its type; what is cut short ends them."""
    found = {}
    position, size = 0, len(data)
    while position + 4 <= size:
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < 4 or position + length > size:
            break
        found[kind & _TYPE_MASK] = data[position + 4 : position + length]
        position += (length + 3) & ~3
    return found


def message(kind: int, flags: int, sequence: int, body: bytes, *, generic: bytes) -> bytes:
    """Return one request."""
    length = HEADER.size + len(generic) + len(body)
    return HEADER.pack(length, kind, REQUEST | flags, sequence, 0) + generic + body


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence and body of each message; what is cut short ends them."""
    position = 0
    while position + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, position)
        if length < HEADER.size or position + length > len(data):
            return
        yield kind, flags, sequence, data[position + HEADER.size : position + length]
        position += (length + 3) & ~3


def error_of(kind: int, body: bytes) -> int | None:
    """Return the error that an answer bears, 0 for success; None for what is no answer."""
    if kind not in {ERROR, DONE}:
        return None
    code = int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0
    return -code if kind == ERROR else 0
