"""A transaction on the elements of one nftables table: messages in bytes, without sockets.

Layouts are those of linux/netfilter/nf_tables.h. The kernel does all of a transaction or nothing.
One that succeeds takes it some microseconds. One that fails costs it, and whoever waits for its
answer, several milliseconds, because what was added is taken back when all processors have let go
of it: so nothing is deleted here that may have expired meanwhile, unless the kernel is told that it
may.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterable

from fwproxy.datapath.kernel import messages
from fwproxy.datapath.kernel.elements import Element
from fwproxy.datapath.kernel.messages import ACK, CREATE, GENERIC, NESTED, attribute, message

_SUBSYSTEM = 10
"""NFNL_SUBSYS_NFTABLES"""
_BEGIN, _END = 0x10, 0x11
_ADD, _DELETE, _DESTROY = (_SUBSYSTEM << 8 | number for number in (12, 14, 30))
"""NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM and, since Linux 6.3, NFT_MSG_DESTROYSETELEM."""
_INET = 1
_TABLE, _SET, _ELEMENTS, _ELEMENT = 1, 2, 3 | NESTED, 1 | NESTED

_BOUND = GENERIC.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM)
_OURS = GENERIC.pack(_INET, 0, 0)


class Transaction:
    """What is to be done together, in this order.

    Args:
        table: the table's name.
        can_destroy: whether the kernel knows how to delete what is perhaps not there.
    """

    def __init__(self, table: str, *, can_destroy: bool) -> None:
        self._table = table
        self._can_destroy = can_destroy
        self._steps: list[tuple[int, int, bytes]] = []

    @property
    def last(self) -> int:
        """The sequence number that the answer to all of it bears."""
        return len(self._steps)

    def add(self, found: Iterable[Element]) -> None:
        """Add elements; those that are there already stay as they are."""
        for each in found:
            self._step(_ADD, CREATE, each, each.key + each.rest)

    def delete(self, found: Iterable[Element]) -> None:
        """Take elements out, which must be there."""
        for each in found:
            self._step(_DELETE, 0, each, each.key)

    def destroy(self, found: Iterable[Element]) -> None:
        """Take elements out that are there, and mind no others."""
        for each in found:
            if self._can_destroy:
                self._step(_DESTROY, 0, each, each.key)
            else:
                self.add([each])
                self.delete([each])

    def _step(self, kind: int, flags: int, element: Element, content: bytes) -> None:
        packed = attribute(_ELEMENTS, attribute(_ELEMENT, content))
        self._steps.append((kind, flags, _place(self._table, element.where) + packed))

    def packed(self) -> bytes:
        """Return all messages; only the last one asks for an answer, unless one is refused."""
        parts = [message(_BEGIN, 0, 0, b"", generic=_BOUND)]
        for number, (kind, flags, body) in enumerate(self._steps, 1):
            asks = ACK if number == len(self._steps) else 0
            parts.append(message(kind, flags | asks, number, body, generic=_OURS))
        parts.append(message(_END, 0, 0, b"", generic=_BOUND))
        return b"".join(parts)


def answers(data: bytes) -> Iterable[tuple[int, int]]:
    """Yield the sequence number and the error of each answer; 0 is none."""
    for kind, _, sequence, body in messages.split(data):
        error = messages.error_of(kind, body)
        if error is not None:
            yield sequence, error


@functools.lru_cache(maxsize=64)
def _place(table: str, where: str) -> bytes:
    return attribute(_TABLE, _text(table)) + attribute(_SET, _text(where))


def _text(word: str) -> bytes:
    return word.encode() + b"\0"
