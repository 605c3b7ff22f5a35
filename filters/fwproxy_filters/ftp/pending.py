"""Commands that wait for their replies, and which reply is whose.

FTP replies carry no number. They come in the order of the commands, but for three things:

- While a transfer is under way (its 150 has come, its 226 has not) some servers answer STAT, NOOP
  and the like at once (RFC 959 section 4.1.3), and some refuse them at once with 500.
- A transfer and the ABOR that ends it get two replies, 426 and 226, or 226 and 225 when ABOR came
  too late (vsftpd, ProFTPD); but one, 225, where the data connection had not been made yet
  (pyftpdlib). After the first reply nobody knows whether ABOR still gets one: it *may be silent*.
- Replies to ABOR may so come in pairs where one is expected; what is left over belongs to nobody.

A 227 or 229 belongs to a PASV or EPSV and to nothing else, and so shows where the queue stands.
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
LOGIN = "login"
"""Stands in for USER where a gateway logs in, with a password that the client has said already."""

ACTIVE_VERBS = frozenset({"PORT", "EPRT"})
PASSIVE_VERBS = frozenset({"PASV", "EPSV"})
SETUP_VERBS = ACTIVE_VERBS | PASSIVE_VERBS

_TRANSFERS = frozenset(verb for verb, rule in RULES.items() if rule.kind is Kind.TRANSFER)
_END_OF_TRANSFER = frozenset({225, 226, 250})
_REPLIES_TO_ABOR = frozenset({225, 226, 426})
_UNKNOWN_COMMAND = frozenset({500, 501, 502, 503, 504})
_SETUP_REPLIES = {227: "PASV", 229: "EPSV"}


@attrs.define(slots=True, eq=False)
class Pending:
    """One command sent to the server, or a reply of our own that waits for its turn.

    Attributes:
        verb: the verb as the server got it; `GREETING` for what it says first,
            and `LOGIN`.
        asked: the verb as the client sent it, where that differs.
        reply: our own reply, for a command that the server never got.
        channel: the data connection that the command sets up or uses.
        tell: what to tell a client that asked for the other mode than the server gets.
        is_exclusive: the server gets no further command before it has answered this one.
        is_under_way: a preliminary reply (1xx) has come.
        is_answered: the client has its answer: what the server still says is swallowed.
        may_be_silent: the server may have answered already, together with another command.
        is_transfer: the command uses a data connection.
    """

    verb: str
    asked: str = ""
    reply: bytes | None = None
    channel: DataChannel | None = None
    tell: Endpoint | None = None
    is_exclusive: bool = False
    is_under_way: bool = False
    is_answered: bool = False
    may_be_silent: bool = False
    is_transfer: bool = attrs.field(init=False)

    @is_transfer.default
    def _uses_data(self) -> bool:
        return self.verb in _TRANSFERS

    @property
    def is_open(self) -> bool:
        """Whether the client still waits for what the server says."""
        return self.reply is None and not self.is_answered

    def withdraw(self) -> None:
        """Take back what the command has not used of its data connection."""
        if self.channel is not None:
            self.channel.withdraw()


class PendingQueue:
    """The commands that wait, oldest first, and between them our own replies."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def append(self, pending: Pending) -> None:
        """Add the youngest."""
        self._queue.append(pending)

    @property
    def _commands(self) -> Iterator[Pending]:
        return (pending for pending in self._queue if pending.reply is None)

    @property
    def head(self) -> Pending | None:
        """The oldest command, or None."""
        for pending in self._queue:
            if pending.reply is None:
                return pending
        return None

    @property
    def first_open(self) -> Pending | None:
        """The oldest command whose answer the client waits for, or None."""
        for pending in self._queue:
            if pending.is_open:
                return pending
        return None

    @property
    def is_exclusive(self) -> bool:
        """Whether the server must not get another command now."""
        for pending in self._queue:  # noqa: SIM110 - asked for every line: no generator
            if pending.is_exclusive:
                return True
        return False

    @property
    def abort(self) -> Pending | None:
        """The oldest ABOR, or None."""
        return next((pending for pending in self._commands if pending.verb == "ABOR"), None)

    @property
    def is_settled(self) -> bool:
        """Whether nothing that is certain to come must come before a reply of our own."""
        return not any(pending.is_open and not pending.may_be_silent for pending in self._queue)

    def uses(self, channel: DataChannel) -> bool:
        """Tell whether a transfer that is not over was given this data connection."""
        return any(p.channel is channel and p.is_transfer and p.is_open for p in self._queue)

    def match(self, code: int) -> Pending | None:
        """Return the command that a reply of the server belongs to; None for none.

        Commands that the reply shows to have been answered already are dropped.
        """
        wanted = _SETUP_REPLIES.get(code)
        if wanted is not None:
            return self._setup(wanted)
        head = self.head
        if head is not None and (head.may_be_silent or head.is_answered):
            self._drop_silent(code)
            head = self.head
        if head is None or (head.verb in SETUP_VERBS and code in _REPLIES_TO_ABOR):
            return None
        if head.is_transfer and head.is_under_way and not _may_end_transfer(code):
            return self._beside(head)
        return head

    def _setup(self, wanted: str) -> Pending | None:
        """Find the PASV or EPSV that has been answered; what is older has been, too.

        A server that answers with the wrong one of the two codes is not understood, but it has
        answered.
        """
        found = next((pending for pending in self._commands if pending.verb == wanted), None)
        if found is None:
            head = self.head
            return head if head is not None and head.verb in SETUP_VERBS else None
        for pending in list(self._commands):
            if pending is found:
                break
            self._drop(pending)
        return found

    def _drop_silent(self, code: int) -> None:
        """Drop the oldest command if the reply shows that it gets none of its own."""
        head, *others = self._commands
        if head.may_be_silent:  # a refusal is that of ABOR if nothing else can be meant
            is_over = code not in _REPLIES_TO_ABOR and (bool(others) or code < 400)
        else:  # we have answered for the transfer, and the client waits for its ABOR's answer
            is_abort = bool(others) and others[0].verb == "ABOR"
            is_over = head.is_answered and is_abort and code in {225, 226}
        if is_over:
            self._drop(head)

    def _beside(self, transfer: Pending) -> Pending:
        """Return the command that is answered while a transfer goes on."""
        others = (p for p in self._commands if not p.is_transfer and p.verb not in PASSIVE_VERBS)
        return next(others, transfer)

    def _drop(self, pending: Pending) -> None:
        self._queue.remove(pending)
        pending.withdraw()

    def finish(self, pending: Pending, code: int) -> None:
        """Take out a command that has its final reply."""
        self._queue.remove(pending)
        if pending.is_transfer and pending.is_under_way:
            if code >= 300:
                pending.withdraw()
            if self.abort is not None:
                self.abort.may_be_silent = True

    def take_replies(self, *, past_silent: bool = False) -> bytes:
        """Take out our own replies whose turn has come."""
        if not self._queue or (self._queue[0].is_open and not past_silent):
            return b""  # which is how it nearly always is
        replies = []
        for pending in list(self._queue):
            if pending.reply is not None:
                replies.append(pending.reply)
                self._queue.remove(pending)
            elif pending.is_open and not (past_silent and pending.may_be_silent):
                break
        return b"".join(replies)

    def clear(self) -> None:
        """Forget everything, and take back what no command can use any more."""
        while self._queue:
            self._queue.popleft().withdraw()


def _may_end_transfer(code: int) -> bool:
    """Tell whether a reply can be about a transfer that is under way."""
    if 200 <= code < 300:
        return code in _END_OF_TRANSFER
    return not 300 <= code < 400 and code not in _UNKNOWN_COMMAND
