"""The server's side of the control connection: replies, edited on their way to the client."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from fwproxy_filters.ftp.errors import MalformedReplyError
from fwproxy_filters.ftp.features import FeatureEditor
from fwproxy_filters.ftp.pending import GREETING, LOGIN, SETUP_VERBS, Pending
from fwproxy_filters.ftp.replies import ReplyItem, ReplyLine, ReplyReader, format_reply
from fwproxy_filters.ftp.setup import Work

if TYPE_CHECKING:
    from fwproxy_filters.ftp.control import ControlFilter

CLOSING = 421
"""The server closes the connection, whatever it was asked (RFC 959 section 4.2.1)."""

_ACCEPTS_SECURITY = frozenset({234, 334})
_UNREADABLE = format_reply(421, b"The server's reply cannot be read, closing the connection")
_UNMADE = format_reply(425, b"Cannot open a data connection")
_BROKEN = format_reply(426, b"The data connection was broken")


class ServerSide:
    """Finds out which command each reply belongs to, and what the client shall get of it."""

    def __init__(self, control: ControlFilter) -> None:
        settings = control.settings
        self._control = control
        self._reader = ReplyReader(accept_lf=settings.accept_lf_replies)
        self._features = FeatureEditor(
            security=settings.tls == "opaque", read_only=settings.read_only
        )
        self._items: deque[ReplyItem] = deque()
        self._replying: Pending | None = None
        self.is_inside = False

    def feed(self, data: bytes) -> Work:
        """Take bytes of the server."""
        while data and self._control.awaits_auth:  # what comes after its answer may be no reply
            end = data.find(b"\n") + 1 or len(data)
            self._items.extend(self._reader.feed(data[:end]))
            data = data[end:]
            self._advance()  # leaves nothing to wait for: AUTH was sent alone
        if self._control.is_opaque:
            self._control.to_client.send(self._reader.take_pending() + data)
            return None
        self._items.extend(self._reader.feed(data))
        work = self._advance()
        return None if work is None else lambda: self._go_on(work)

    async def _go_on(self, work: Work) -> None:
        while work is not None:
            await work()
            work = self._advance()

    def _advance(self) -> Work:
        while self._items and not self._control.is_closing:
            work = self._reply(self._items.popleft())
            if work is not None:
                return work
        return None

    def _reply(self, item: ReplyItem) -> Work:
        if isinstance(item, MalformedReplyError):
            self._reject(str(item), item.reply)
            return None
        if item.is_first:
            self._begin(item.code)
        pending = self._replying
        work = self._unasked(item) if pending is None else self._line(pending, item)
        if work is not None:
            return lambda: self._finish_later(work, item)
        self._finish(item)
        return None

    def _begin(self, code: int) -> None:
        control = self._control
        self._replying = control.pending.match(code)
        control.tell_replies()  # of those that turned out to be over
        self.is_inside = True

    def _unasked(self, line: ReplyLine) -> Work:
        """Pass a reply on that nobody waits for; an address that nobody asked for is too much."""
        if line.code in {227, 229}:
            self._reject("an address that nobody asked for", _UNREADABLE)
        else:
            self._control.to_client.send(line.raw)
        return None

    def _reject(self, reason: str, reply: bytes) -> None:
        self._control.log.warning("reply refused", reason=reason)
        self._control.hang_up(reply)

    async def _finish_later(self, work: Work, line: ReplyLine) -> None:
        if work is not None:
            await work()
        self._finish(line)

    def _finish(self, line: ReplyLine) -> None:
        """Close the books on a reply whose last line this is."""
        control, pending = self._control, self._replying
        if not line.is_last or control.is_closing:
            return
        self.is_inside, self._replying = False, None
        if pending is not None and line.code < 200:
            pending.is_under_way = True
        elif pending is not None:
            control.pending.finish(pending, line.code)
            if pending.channel is not None:
                control.release(pending.channel)
            if pending.verb == "AUTH":
                control.auth_answered(is_accepted=line.code in _ACCEPTS_SECURITY)
        control.tell_replies()
        self.answer_lost()

    def _line(self, pending: Pending, line: ReplyLine) -> Work:
        control = self._control
        if line.code == CLOSING:
            control.to_client.send(line.raw)
        elif pending.is_answered:
            return None
        elif pending.verb == GREETING:
            control.owner.greeting(control, line)
        elif pending.verb == LOGIN:
            control.owner.reply_to_user(control, line)
        elif pending.verb in SETUP_VERBS:
            if line.code >= 200 and control.setup is not None:
                return control.setup.reply(pending, line)
        elif pending.is_transfer and 200 <= line.code < 300 and line.is_first:
            return self._transfer_succeeds(pending, line)
        else:
            edited = self._features.edit(line) if pending.verb == "FEAT" else line
            if edited is not None:
                control.to_client.send(edited.raw)
        return None

    # The end of a transfer.

    def _transfer_succeeds(self, pending: Pending, line: ReplyLine) -> Work:
        channel = pending.channel
        if channel is not None and (channel.is_half_open or channel.awaits_server):
            return lambda: self._succeed_later(pending, line)
        self._say_how_it_ended(pending, line)
        return None

    async def _succeed_later(self, pending: Pending, line: ReplyLine) -> None:
        """Wait: the server is content, but nobody has seen it come or the client been reached."""
        if pending.channel is not None:
            await pending.channel.settle(self._control.owner.patience)
        self._say_how_it_ended(pending, line)

    def _say_how_it_ended(self, pending: Pending, line: ReplyLine) -> None:
        """Pass on the server's success, unless the client's side of the transfer failed.

        A client that has sent ABOR knows, and what looks like success may be the answer to that.
        """
        channel = pending.channel
        aborted = self._control.pending.abort is not None
        if channel is None or channel.failure is None or aborted:
            self._control.to_client.send(line.raw)
        else:
            pending.is_answered = True
            self._control.tell(_BROKEN if channel.is_established else _UNMADE)

    def answer_lost(self) -> None:
        """Tell the client at once of a data connection that could not be made.

        The server may not know, and wait for minutes until it says 425 itself.
        """
        pending = None if self.is_inside else self._control.pending.first_open
        if pending is None or pending.channel is None:
            return
        if pending.is_transfer and pending.channel.is_lost:
            pending.is_answered = True
            self._control.tell(_UNMADE)
            self._control.tell_replies()
