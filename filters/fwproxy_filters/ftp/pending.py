"""Commands that wait for their replies, and which reply is whose.

FTP replies carry no number: they come in the order of the commands, but for two things. While a
transfer is under way (its 150 has come, its 226 has not) a server may answer STAT, NOOP and the
like at once (RFC 959 section 4.1.3). And an ABOR may get one reply or two, depending on the server,
so that a reply may stay out; a 227 or 229 then shows where the queue really stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import attrs

from fwproxy import Endpoint
from fwproxy_filters.ftp.channel import DataChannel
from fwproxy_filters.ftp.verbs import RULES, Kind

GREETING = "greeting"
"""Stands in for a verb where the server speaks first."""

_TRANSFERS = frozenset(verb for verb, rule in RULES.items() if rule.kind is Kind.TRANSFER)
_END_OF_TRANSFER = frozenset({225, 226, 250})
_SETUP_REPLIES = {227: "PASV", 229: "EPSV"}


@attrs.define(slots=True, eq=False)
class Pending:
    """One command sent to the server, or a reply of our own that waits for its turn.

    Attributes:
        verb: the verb as the server got it; `GREETING` for what it says first.
        asked: the verb as the client sent it, where that differs.
        reply: our own reply, for a command that the server never got.
        channel: the data connection that the command sets up or uses.
        tell: what to tell a client that asked for the other mode than the server gets.
        is_under_way: a preliminary reply (1xx) has come.
        is_answered: the client has its answer: what the server still says is swallowed.
    """

    verb: str
    asked: str = ""
    reply: bytes | None = None
    channel: DataChannel | None = None
    tell: Endpoint | None = None
    is_under_way: bool = False
    is_answered: bool = False

    @property
    def is_transfer(self) -> bool:
        """Whether the command uses a data connection."""
        return self.verb in _TRANSFERS


class PendingQueue:
    """The commands that wait, oldest first."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._queue)

    def append(self, pending: Pending) -> None:
        """Add the youngest."""
        self._queue.append(pending)

    @property
    def head(self) -> Pending | None:
        """The oldest, or None."""
        return self._queue[0] if self._queue else None

    def match(self, code: int) -> Pending | None:
        """Return the command that a reply of the server belongs to; None for none."""
        wanted = _SETUP_REPLIES.get(code)
        if wanted is not None:
            return self._skip_to(wanted)
        head = self.head
        if (
            head is not None
            and head.is_transfer
            and head.is_under_way
            and 200 <= code < 300
            and code not in _END_OF_TRANSFER
        ):
            for pending in self._queue:
                if pending.reply is None and not pending.is_transfer:
                    return pending
        return head

    def _skip_to(self, verb: str) -> Pending | None:
        found = next((pending for pending in self._queue if pending.verb == verb), None)
        while found is not None and self._queue[0] is not found:
            self._queue.popleft()
        return found

    def remove(self, pending: Pending) -> None:
        """Take out a command that has its final reply."""
        if self._queue and self._queue[0] is pending:
            self._queue.popleft()
        else:
            self._queue.remove(pending)

    def take_replies(self) -> bytes:
        """Take out our own replies whose turn has come."""
        replies = []
        while self._queue and self._queue[0].reply is not None:
            replies.append(self._queue.popleft().reply or b"")
        return b"".join(replies)

    def clear(self) -> None:
        """Forget everything: the connection has ended."""
        self._queue.clear()
