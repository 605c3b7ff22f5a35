"""The control connection: commands and replies, edited on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from fwproxy import Connection, DataFilter, FilterSocket, Handled
from fwproxy.errors import BufferFullError
from fwproxy_filters.ftp.channel import DataChannel
from fwproxy_filters.ftp.client_side import ClientSide
from fwproxy_filters.ftp.gateway import WELCOME, WELCOME_TO_USERS
from fwproxy_filters.ftp.pending import GREETING, Pending, PendingQueue
from fwproxy_filters.ftp.server_side import ServerSide
from fwproxy_filters.ftp.setup import DataSetup, Work

if TYPE_CHECKING:
    from fwproxy_filters.ftp.filter import FtpSession


class ControlFilter(DataFilter):
    """Reads every command and every reply of one control connection.

    Attributes:
        owner: the session filter.
        settings: the filter's settings for this listener.
        log: with the session's number.
        pending: the commands that wait for their replies.
        channel: the data connection that the next transfer will use, or None.
        setup: handles PORT, PASV and their sisters; None until there is a server.
        awaits_auth: the server has yet to answer AUTH.
        is_opaque: TLS goes through, and nothing is read any more.
        is_closing: the last word has been said.
    """

    def __init__(self, owner: FtpSession) -> None:
        self.owner = owner
        self.settings = owner.settings
        self.log = structlog.get_logger("fwproxy.ftp").bind(session=owner.session.id)
        self.pending = PendingQueue()
        self.channel: DataChannel | None = None
        self.setup: DataSetup | None = None
        self.awaits_auth = False
        self.is_opaque = False
        self.is_closing = False
        self._awaits_data = False
        self._commands = ClientSide(self, owner.max_line_length)
        self._replies = ServerSide(self)

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
            self.expect_greeting(is_exclusive=False)
        else:
            must_log_in = connection.session.must_log_in
            self.to_client.send(WELCOME_TO_USERS if must_log_in else WELCOME)

    def expect_greeting(self, *, is_exclusive: bool) -> None:
        """Wait for the greeting of the server that the connection has now."""
        self.setup = DataSetup(self)
        self.pending.append(Pending(GREETING, is_exclusive=is_exclusive))

    def detach(self) -> None:
        """Let everything go: the control connection has ended."""
        self.is_closing, self._awaits_data = True, False
        self._let_go()
        self.setup = None

    # What the parts of the filter do with the connection.

    def send(self, data: bytes, pending: Pending) -> None:
        """Send a command to the server and wait for its reply."""
        self.pending.append(pending)
        self.to_server.send(data)

    def tell(self, reply: bytes) -> None:
        """Send the client a reply of our own; one that does not read them is cut off."""
        try:
            self.to_client.send(reply)
        except BufferFullError as error:
            self.log.warning("the client reads no replies", reason=str(error))
            self.to_client.abort()

    def tell_replies(self) -> None:
        """Send the client our own replies whose turn has come."""
        replies = self.pending.take_replies()
        if replies:
            self.tell(replies)

    def answer(self, reply: bytes) -> None:
        """Answer a command ourselves, after the replies to all commands before."""
        if self._replies.is_inside or not self.pending.is_settled:
            self.pending.append(Pending("", reply=reply))
        else:
            self.tell(self.pending.take_replies(past_silent=True) + reply)

    def renew(self, channel: DataChannel | None) -> None:
        """Put another data channel in place; what no command uses of the last one is withdrawn."""
        old, self.channel = self.channel, channel
        self.release(old)
        if channel is not None and self.is_closing:
            channel.withdraw()

    def release(self, channel: DataChannel | None) -> None:
        """Withdraw a data connection unless a command uses it or may still come to do so."""
        if channel is not None and channel is not self.channel and not self.pending.uses(channel):
            channel.withdraw()

    def channel_ended(self, channel: DataChannel) -> None:
        """Tell the client of a data connection that could not be made."""
        if channel.is_lost and not self.is_closing:
            self._replies.answer_lost()
        if self._awaits_data and not self.owner.has_open_data:
            self._awaits_data = False
            self.to_server.half_close()

    def hang_up(self, reply: bytes) -> None:
        """Say goodbye and close both sides."""
        self.is_closing = True
        self._let_go()
        self.tell(reply)
        self.to_client.half_close()
        self.to_server.half_close()

    def _let_go(self) -> None:
        """Withdraw every data connection that is not established."""
        self.pending.clear()
        self.renew(None)

    def auth_answered(self, *, is_accepted: bool) -> None:
        """Let TLS through from here on, if the server has agreed to it."""
        held = self._commands.release()
        if is_accepted:
            self.is_opaque = True
            self._let_go()
            self.log.info("the control connection is opaque from here on", reason="AUTH")
            self.to_server.send(held)
        elif held:
            self._commands.put(held)

    # The stream.

    def data_from_client(self, data: bytes) -> Handled:
        """Take commands."""
        if self.is_opaque:
            self.to_server.send(data)
        elif not self.is_closing:
            return _begun(self._commands.feed(data))
        return None

    def data_from_server(self, data: bytes) -> Handled:
        """Take replies, and then the commands that had to wait for them."""
        if self.is_opaque:
            self.to_client.send(data)
        elif not self.is_closing:
            work = self._replies.feed(data)
            return _begun(self._commands.take()) if work is None else self._take_after(work)
        return None

    async def _take_after(self, work: Work) -> None:
        if work is not None:
            await work()
        work = self._commands.take()
        if work is not None:
            await work()

    def end_from_client(self) -> Handled:
        """Tell the server, after the last command."""
        return _begun(self._commands.end())

    def no_more_commands(self) -> None:
        """Withdraw what no command can use any more."""
        self.renew(None)
        self.to_server.half_close()

    def end_from_server(self) -> Handled:
        """Tell the client, and end the other way too: without a server there is no use for it.

        The last bytes of a transfer may still be on their way to the client, and come first.
        """
        self.to_client.half_close()
        if not self.is_opaque:
            self.is_closing = True
            self._let_go()
            self._awaits_data = self.owner.has_open_data
            if not self._awaits_data:
                self.to_server.half_close()
        return None


def _begun(work: Work) -> Handled:
    return None if work is None else work()
