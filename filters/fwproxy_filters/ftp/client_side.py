"""The client's side of the control connection: lines become commands, and go to the server."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import TYPE_CHECKING

from fwproxy.kit.lines import LineError, LineItem, LineReader
from fwproxy_filters.ftp.checks import check_command
from fwproxy_filters.ftp.commands import Command, parse_command
from fwproxy_filters.ftp.errors import FtpSyntaxError
from fwproxy_filters.ftp.pending import SETUP_VERBS, Pending
from fwproxy_filters.ftp.replies import format_reply
from fwproxy_filters.ftp.setup import DataSetup, Work
from fwproxy_filters.ftp.telnet import IAC, TELNET_SYNCH, TelnetSignal, TelnetStripper
from fwproxy_filters.ftp.verbs import Kind

if TYPE_CHECKING:
    from fwproxy_filters.ftp.control import ControlFilter

MAX_WAITING = 64 * 1024
"""Bytes of commands that may wait here; with more the client is not read until all are sent."""

_NOT_A_COMMAND = format_reply(500, b"Syntax error, this line is not a command")
_THIS_IS_FTP = format_reply(421, b"This is FTP")
_NOT_ALONE = format_reply(503, b"AUTH must be sent alone")
_TOO_EARLY = format_reply(421, b"Too much before the answer to AUTH")
_TOO_SLOW = format_reply(421, b"Too many commands for this server")


class _Mark(enum.Enum):
    """What stands between two lines."""

    SYNCH = "synch"


class ClientSide:
    """Sends the server one command after the other, as far as it may have them.

    A command that must wait (`max_pipelined`, `Pending.is_exclusive`) stays here with all that
    follow, and is taken up again when a reply has come.
    """

    def __init__(self, control: ControlFilter, max_line_length: int) -> None:
        self._control = control
        self._telnet = TelnetStripper()
        self._is_synch = False
        self._reader = LineReader(max_line_length, accept_cr_nul=True)
        self._lines: deque[LineItem | _Mark] = deque()
        self._waiting = 0
        self._is_busy = False
        self._all_sent = asyncio.Event()
        self._has_ended = False
        self._held: bytes | None = None

    def feed(self, data: bytes) -> Work:
        """Take bytes of the client."""
        if self._held is not None:
            self._hold(self._held + data)
            return None
        if self._waiting > MAX_WAITING:
            return lambda: self._feed_later(data)
        self.put(data)
        return self.take()

    def put(self, data: bytes) -> None:
        """Take bytes of the client, and do nothing yet."""
        self._waiting += len(data)
        if not self._telnet.pending and IAC not in data:
            self._lines.extend(self._reader.feed(data))
            return
        for piece in data.splitlines(keepends=True):  # a Synch belongs to the line that it is in
            lines = self._reader.feed(self._telnet.feed(piece))
            if TelnetSignal.SYNCH in self._telnet.take_signals():
                self._lines.append(_Mark.SYNCH)
            self._lines.extend(lines)
        refusals = self._telnet.take_refusals()
        if refusals:
            self._control.tell(refusals)

    async def _feed_later(self, data: bytes) -> None:
        self._all_sent.clear()
        try:
            async with asyncio.timeout(self._control.owner.patience):
                await self._all_sent.wait()
        except TimeoutError:
            self._control.log.warning("the server answers too slowly for so many commands")
            self._control.hang_up(_TOO_SLOW)
            return
        work = self.feed(data)
        if work is not None:
            await work()

    def take(self) -> Work:
        """Handle the lines whose turn has come."""
        if self._is_busy or not (self._waiting or self._lines or self._has_ended):
            return None
        work = self._advance()
        if work is None:
            return None
        self._is_busy = True
        return lambda: self._go_on(work)

    async def _go_on(self, work: Work) -> None:
        try:
            while work is not None:
                await work()
                work = self._advance()
        finally:
            self._is_busy = False

    def _advance(self) -> Work:
        control = self._control
        while self._lines and not control.is_closing:
            full = len(control.pending) >= control.settings.max_pipelined
            if full or control.pending.is_exclusive:
                return None
            line = self._lines.popleft()
            if line is _Mark.SYNCH:
                self._is_synch = True
                continue
            work = self._line(line)
            if work is not None:
                return work
        self._waiting = 0
        self._all_sent.set()
        if self._has_ended:
            control.no_more_commands()
        return None

    def end(self) -> Work:
        """Note that the client sends no more; the server hears of it after the last command."""
        self._has_ended = True
        return self.take()

    def _line(self, line: LineItem) -> Work:
        control = self._control
        if isinstance(line, LineError):
            control.answer(_NOT_A_COMMAND)
            return None
        try:
            command = parse_command(line)
            control.log.debug("command", command=command.loggable)
            if command.is_foreign:
                control.log.warning("another protocol", verb=command.verb)
                control.hang_up(_THIS_IS_FTP)
                return None
            if control.setup is None:
                return control.owner.login(control, command)
            check_command(command, control.settings)
            return self._command(command, control.setup)
        except FtpSyntaxError as error:
            control.answer(error.reply)
            return None

    def _command(self, command: Command, setup: DataSetup) -> Work:
        verb = command.verb
        if verb in SETUP_VERBS:
            return setup.command(command)
        if command.rule is not None and command.rule.kind is Kind.TRANSFER:
            return self._transfer(command, setup)
        if verb == "AUTH":
            self._auth(command)
            return None
        if verb == "ABOR" and self._is_synch:
            # Some servers look at their control connection during a transfer only when an
            # urgent byte comes (RFC 959 section 4.1.3).
            self._is_synch = False
            self._control.to_server.send(TELNET_SYNCH, urgent=True)
        if verb in {"USER", "ACCT"}:
            command = self._control.owner.server_command(command)
        elif verb in {"QUIT", "REIN"}:
            self._control.renew(None)
            setup.reset()
        self._control.send(command.wire, Pending(verb))
        return None

    def _transfer(self, command: Command, setup: DataSetup) -> Work:
        channel = self._control.channel
        if channel is not None and channel.is_lost:
            raise FtpSyntaxError(425, "Cannot open a data connection")
        if channel is not None and channel.has_ended:
            channel = None  # used up by a transfer before
        self._control.send(command.wire, Pending(command.verb, channel=channel))
        if channel is not None and channel.waits_for_start:
            return lambda: setup.start(channel)
        return None

    # AUTH: what follows is TLS if the server agrees, and commands if not.

    def _auth(self, command: Command) -> None:
        control = self._control
        if self._lines or self._reader.pending or self._telnet.pending or len(control.pending):
            control.answer(_NOT_ALONE)
            return
        control.send(command.wire, Pending("AUTH"))
        self._held = b""
        control.awaits_auth = True

    def _hold(self, data: bytes) -> None:
        self._held = data
        if len(data) > MAX_WAITING:
            self._control.hang_up(_TOO_EARLY)

    def release(self) -> bytes:
        """Hand over what has come since AUTH, unread."""
        held, self._held = self._held or b"", None
        self._control.awaits_auth = False
        return held
