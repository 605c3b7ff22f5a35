"""The control connection: commands and replies, edited on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import structlog

from fwproxy import Connection, DataFilter, FilterSocket, Handled
from fwproxy.errors import CallError
from fwproxy.kit.lines import LineError, LineItem, LineReader
from fwproxy_filters.ftp.channel import DataChannel
from fwproxy_filters.ftp.commands import Command, parse_command
from fwproxy_filters.ftp.errors import FtpSyntaxError, MalformedReplyError
from fwproxy_filters.ftp.features import FeatureEditor
from fwproxy_filters.ftp.gateway import WELCOME
from fwproxy_filters.ftp.pending import GREETING, Pending, PendingQueue
from fwproxy_filters.ftp.replies import ReplyItem, ReplyLine, ReplyReader, format_reply
from fwproxy_filters.ftp.setup import DataSetup, Work
from fwproxy_filters.ftp.telnet import TelnetStripper
from fwproxy_filters.ftp.verbs import Kind

if TYPE_CHECKING:
    from fwproxy_filters.ftp.filter import FtpSession

_SETUP_VERBS = frozenset({"PORT", "EPRT", "PASV", "EPSV"})


class ControlFilter(DataFilter):
    """Reads every command and every reply of one control connection.

    Attributes:
        owner: the session filter.
        settings: the filter's settings for this listener.
        pending: the commands that wait for their replies.
        channel: the data connection that the next transfer will use, or None.
    """

    def __init__(self, owner: FtpSession) -> None:
        self.owner = owner
        self.settings = owner.settings
        self.log = structlog.get_logger("fwproxy.ftp").bind(session=owner.session.id)
        self.pending = PendingQueue()
        self.channel: DataChannel | None = None
        self._setup: DataSetup | None = None
        self._lines: deque[LineItem] = deque()
        self._replies: deque[ReplyItem] = deque()
        self._reader = LineReader(owner.max_line_length, accept_cr_nul=True)
        self._reply_reader = ReplyReader(accept_lf=self.settings.accept_lf_replies)
        self._telnet = TelnetStripper()
        self._features = FeatureEditor(
            security=self.settings.tls == "opaque", read_only=self.settings.read_only
        )
        self._replying: Pending | None = None
        self._reply_done = asyncio.Event()
        self._is_opaque = False
        self._is_closing = False

    def set_sockets(
        self,
        internal: FilterSocket,
        external: FilterSocket,
        connection: Connection,
        context: object,
    ) -> None:
        """Start; the server greets first."""
        super().set_sockets(internal, external, connection, context)
        if connection.server_address is not None:
            self.expect_greeting()
        else:
            self.to_client.send(WELCOME)

    def expect_greeting(self) -> None:
        """Wait for the greeting of the server that the connection has now."""
        self._setup = DataSetup(self)
        self.pending.append(Pending(GREETING))

    def detach(self) -> None:
        """Let everything go: the control connection has ended."""
        self.renew(None)
        self.pending.clear()
        self._setup = None

    def end_from_client(self) -> Handled:
        """Withdraw what no command can use any more."""
        self.renew(None)
        self.to_server.half_close()
        return None

    # What the parts of the filter do with the connection.

    def send(self, data: bytes, pending: Pending) -> None:
        """Send a command to the server and wait for its reply."""
        self.pending.append(pending)
        self.to_server.send(data)

    def answer(self, reply: bytes) -> None:
        """Answer the client, after the replies to all commands before."""
        if len(self.pending):
            self.pending.append(Pending("", reply=reply))
        else:
            self.to_client.send(reply)

    def renew(self, channel: DataChannel | None) -> None:
        """Put another data channel in place; what the last one did not use is withdrawn."""
        if self.channel is not None and self.channel is not channel:
            self.channel.withdraw()
        self.channel = channel

    def hang_up(self, reply: bytes) -> None:
        """Say goodbye and close both sides."""
        self._is_closing = True
        self.renew(None)
        self.to_client.send(reply)
        self.to_client.half_close()
        self.to_server.half_close()

    def channel_ended(self, channel: DataChannel) -> None:
        """Tell the client at once of a data connection that could not be made.

        The server may not know, and wait for minutes until it says 425 itself.
        """
        head = self.pending.head
        if head is None or head.channel is not channel or head.is_answered:
            return
        if head.is_transfer and channel.failure is not None and not channel.is_established:
            self.to_client.send(format_reply(425, b"Cannot open a data connection"))
            head.is_answered = True

    # Commands.

    def data_from_client(self, data: bytes) -> Handled:
        """Take commands."""
        if self._is_opaque:
            self.to_server.send(data)
            return None
        self._lines.extend(self._reader.feed(self._telnet.feed(data)))
        refusals = self._telnet.take_refusals()
        if refusals:
            self.to_client.send(refusals)
        return self._take_lines()

    def _take_lines(self) -> Work:
        while self._lines and not self._is_closing:
            if len(self.pending) >= self.settings.max_pipelined:
                return self._wait_for_replies()
            work = self._line(self._lines.popleft())
            if work is not None:
                return self._go_on(work)
        return None

    async def _go_on(self, work: Work) -> None:
        while work is not None:
            await work
            work = self._take_lines()

    async def _wait_for_replies(self) -> None:
        self._reply_done.clear()
        await self._reply_done.wait()
        work = self._take_lines()
        if work is not None:
            await work

    def _line(self, line: LineItem) -> Work:
        if isinstance(line, LineError):
            self.answer(format_reply(500, b"Syntax error, this line is not a command"))
            return None
        try:
            command = parse_command(line)
            self.log.debug("command", command=command.loggable)
            if command.is_foreign:
                self.log.warning("another protocol", verb=command.verb)
                self.hang_up(format_reply(421, b"This is FTP"))
                return None
            self._check(command)
            if self._setup is None:
                return self.owner.login(self, command)
            return self._command(command, self._setup)
        except FtpSyntaxError as error:
            self.answer(error.reply)
            return None

    def _check(self, command: Command) -> None:
        """Raise FtpSyntaxError unless the command may be used."""
        settings, rule = self.settings, command.rule
        command.check_argument()
        limit = settings.argument_limits.get(command.verb)
        if limit is not None and len(command.argument or b"") > limit:
            raise FtpSyntaxError(501, f"The argument of {command.verb} is too long")
        if command.verb in settings.deny or (settings.allow and command.verb not in settings.allow):
            raise FtpSyntaxError(502, f"{command.verb} is not allowed here")
        if rule is None and settings.unknown_commands == "refuse" and not settings.allow:
            raise FtpSyntaxError(500, "Unknown command")
        if rule is not None and not rule.proxied:
            raise FtpSyntaxError(502, f"{command.verb} cannot work through a proxy")
        if settings.read_only and command.writes:
            raise FtpSyntaxError(550, "Permission denied, this is read-only")
        if rule is not None and rule.kind is Kind.SECURITY and settings.tls == "refuse":
            code = 534 if command.verb == "AUTH" else 503
            raise FtpSyntaxError(code, "TLS is not available through this proxy")

    def _command(self, command: Command, setup: DataSetup) -> Work:
        verb = command.verb
        if verb in _SETUP_VERBS:
            return setup.command(command)
        if command.rule is not None and command.rule.kind is Kind.TRANSFER:
            return self._transfer(command, setup)
        if verb == "AUTH":
            return self._auth(command)
        if verb == "USER":
            command = self.owner.user_command(command)
        elif verb in {"QUIT", "REIN"}:
            self.renew(None)
        self.send(command.wire, Pending(verb))
        return None

    def _transfer(self, command: Command, setup: DataSetup) -> Work:
        channel = self.channel
        if channel is not None and channel.failure is not None and not channel.is_established:
            raise FtpSyntaxError(425, "Cannot open a data connection")
        self.send(command.wire, Pending(command.verb, channel=channel))
        if channel is not None and channel.waits_for_start:
            return self._start(channel, setup)
        return None

    async def _start(self, channel: DataChannel, setup: DataSetup) -> None:
        try:
            await setup.channels.both_wait(channel)
        except CallError as error:
            self.log.warning("data connection refused", reason=str(error))
            channel.ended(str(error))
            self.channel_ended(channel)

    async def _auth(self, command: Command) -> None:
        """Pass AUTH on and read nothing more from the client until the server has answered.

        What already follows AUTH would be taken for commands here and for TLS by the server.
        """
        if self._lines or self._reader.pending or len(self.pending):
            self.answer(format_reply(503, b"AUTH must be sent alone"))
            return
        self.send(command.wire, Pending("AUTH"))
        while len(self.pending) and not self._is_opaque:
            self._reply_done.clear()
            await self._reply_done.wait()

    # Replies.

    def data_from_server(self, data: bytes) -> Handled:
        """Take replies."""
        if self._is_opaque:
            self.to_client.send(data)
            return None
        self._replies.extend(self._reply_reader.feed(data))
        return self._take_replies()

    def _take_replies(self) -> Work:
        while self._replies and not self._is_closing:
            work = self._reply(self._replies.popleft())
            if work is not None:
                return self._go_on_replying(work)
        return None

    async def _go_on_replying(self, work: Work) -> None:
        while work is not None:
            await work
            work = self._take_replies()

    def _reply(self, item: ReplyItem) -> Work:
        if isinstance(item, MalformedReplyError):
            self._reject(str(item), item.reply)
            return None
        if item.is_first:
            self._replying = self.pending.match(item.code)
        pending = self._replying
        if pending is None:
            if item.code in {227, 229}:
                self._reject("an address that nobody asked for", _UNREADABLE)
            else:
                self.to_client.send(item.raw)
            return None
        work = self._reply_line(pending, item)
        if work is not None:
            return self._finish_later(work, pending, item)
        self._finish_line(pending, item)
        return None

    def _reject(self, reason: str, reply: bytes) -> None:
        self.log.warning("reply refused", reason=reason)
        self.hang_up(reply)

    async def _finish_later(self, work: Work, pending: Pending, line: ReplyLine) -> None:
        if work is not None:
            await work
        self._finish_line(pending, line)

    def _finish_line(self, pending: Pending, line: ReplyLine) -> None:
        if not line.is_last:
            return
        self._replying = None
        if line.code < 200:
            pending.is_under_way = True
            return
        self.pending.remove(pending)
        replies = self.pending.take_replies()
        if replies:
            self.to_client.send(replies)
        self._reply_done.set()

    def _reply_line(self, pending: Pending, line: ReplyLine) -> Work:
        if pending.is_answered:
            return None
        if line.code >= 200:
            if pending.verb in _SETUP_VERBS and self._setup is not None:
                return self._setup.reply(pending, line)
            if pending.is_transfer:
                return self._transfer_reply(pending, line)
            if pending.verb == "AUTH" and line.code in {234, 334} and line.is_last:
                self._become_opaque()
            if pending.verb == GREETING:
                return self.owner.greeting(self, line)
        edited = self._features.edit(line) if pending.verb == "FEAT" else line
        if edited is not None:
            self.to_client.send(edited.raw)
        return None

    def _transfer_reply(self, pending: Pending, line: ReplyLine) -> Work:
        channel = pending.channel
        if line.code >= 300 or channel is None:
            self.to_client.send(line.raw)
        elif channel.is_half_open:
            return self._settled_reply(channel, line)
        else:
            self._say_how_it_ended(channel, line)
        return None

    async def _settled_reply(self, channel: DataChannel, line: ReplyLine) -> None:
        """Wait: the server is content, but the client has not been reached yet."""
        await channel.settle()
        self._say_how_it_ended(channel, line)

    def _say_how_it_ended(self, channel: DataChannel, line: ReplyLine) -> None:
        """Pass on the server's success, unless the client's side of the transfer failed."""
        if channel.failure is None:
            self.to_client.send(line.raw)
        elif line.is_last:
            broken = (426, b"The data connection was broken")
            unmade = (425, b"Cannot open a data connection")
            self.to_client.send(format_reply(*(broken if channel.is_established else unmade)))

    def _become_opaque(self) -> None:
        self._is_opaque = True
        self.log.info("the control connection is opaque from here on", reason="AUTH")


_UNREADABLE = format_reply(421, b"The server's reply cannot be read, closing the connection")
