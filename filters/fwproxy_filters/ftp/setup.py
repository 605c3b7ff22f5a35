"""PORT, EPRT, PASV and EPSV, and the server's replies to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fwproxy import Endpoint
from fwproxy.errors import AddressNotAllowedError, CallError
from fwproxy_filters.ftp.addresses import (
    EpsvArgument,
    format_227,
    format_229,
    format_eprt,
    format_port,
    parse_227,
    parse_229,
    parse_eprt,
    parse_epsv,
    parse_port,
)
from fwproxy_filters.ftp.channel import DataChannel, DataChannels
from fwproxy_filters.ftp.commands import Command
from fwproxy_filters.ftp.errors import FtpSyntaxError, ProtocolNotSupportedError
from fwproxy_filters.ftp.pending import ACTIVE_VERBS, Pending
from fwproxy_filters.ftp.replies import ReplyLine, format_reply

if TYPE_CHECKING:
    from fwproxy_filters.ftp.control import ControlFilter

Work = Callable[[], Coroutine[Any, Any, None]] | None
"""What handling a line leaves to do and to wait for, if anything.

It is begun when its turn has come, which it may never have: the connection may end before.
"""

_EXTENDED = frozenset({"EPRT", "EPSV"})
_FAMILY_NUMBER = {4: 1, 6: 2}
"""Network protocol numbers of RFC 2428 section 2 by IP version."""


class DataSetup:
    """Turns what the client asks for into what the server gets, and its answer back.

    With IPv4 on one side and IPv6 on the other, EPSV becomes PASV and EPRT becomes PORT, or the
    other way round (RFC 6384 sections 6 and 7).
    """

    def __init__(self, control: ControlFilter) -> None:
        self._control = control
        self._mode = control.settings.data_mode
        self._epsv_all = False
        connection = control.connection
        assert connection.server_address is not None  # noqa: S101 - made when it is connected
        self._client_version = connection.client_address.version
        self._server_version = connection.server_address.version
        self._channels = DataChannels(control.owner, connection, control.settings)

    def reset(self) -> None:
        """Forget what held for the last user (REIN)."""
        self._epsv_all = False

    def command(self, command: Command) -> Work:
        """Handle one of the four commands.

        Raises:
            FtpSyntaxError: with the reply that the client gets.
        """
        if command.verb == "EPSV":
            return self._epsv(command)
        if self._epsv_all:
            raise FtpSyntaxError(503, f"{command.verb} is not allowed after EPSV ALL")
        if self._client_version == 6 and command.verb not in _EXTENDED:
            raise ProtocolNotSupportedError((_FAMILY_NUMBER[6],))
        if command.verb == "PASV":
            return self._passive("PASV")
        argument = (command.argument or b"").strip(b" ")
        if command.verb == "PORT":
            client = parse_port(argument)
        else:
            client = parse_eprt(argument, (_FAMILY_NUMBER[self._client_version],))
        if client.is_unspecified:  # what lftp says of itself (`EPRT |2|::|port|`)
            client = self._control.connection.client_address.with_port(client.port)
        return lambda: self._guarded(lambda: self._active(command.verb, client))

    def _epsv(self, command: Command) -> Work:
        wanted = parse_epsv(command.argument, (_FAMILY_NUMBER[self._client_version],))
        if wanted is EpsvArgument.ALL:
            # Kept from the server, which may have to be sent PASV or PORT all the same.
            self._epsv_all = True
            self._control.answer(format_reply(200, b"EPSV ALL command successful"))
            return None
        return self._passive("EPSV")

    def _is_extended(self, asked: str, *, converted: bool) -> bool:
        """Whether the server gets EPSV or EPRT: IPv4 servers all know PASV and PORT."""
        if self._server_version == 6:
            return True
        return asked in _EXTENDED and self._client_version == 4 and not converted

    def _passive(self, asked: str) -> Work:
        if self._mode == "active":
            return lambda: self._guarded(lambda: self._server_connects(asked, None))
        self._ask_server_to_wait(asked, None, converted=False)
        return None

    async def _active(self, asked: str, client: Endpoint) -> None:
        control = self._control
        relation = control.owner.session.relation_to_server(client.host)
        control.log.debug("client address", client=str(client), relation=relation.value)
        if await self._channels.is_held(client):
            control.renew(None)
            self._tell_server(asked, client, None)
        elif self._mode == "passive":
            control.owner.session.check_client_addresses([client], self._channels.flags)
            self._ask_server_to_wait(
                asked, DataChannel(client=client, trigger=asked), converted=True
            )
        else:
            await self._server_connects(asked, client)

    def _ask_server_to_wait(
        self, asked: str, channel: DataChannel | None, *, converted: bool
    ) -> None:
        """Send PASV or EPSV, and nothing more until it is known where the server waits."""
        self._control.renew(None)
        verb = "EPSV" if self._is_extended(asked, converted=converted) else "PASV"
        pending = Pending(verb, asked, channel=channel, is_exclusive=True)
        self._control.send(f"{verb}\r\n".encode(), pending)

    async def _server_connects(self, asked: str, client: Endpoint | None) -> None:
        """Open a port for the server, and one for the client too if that asked to be passive."""
        self._control.renew(None)
        channel, address = await self._channels.server_connects(asked, client)
        tell = None
        if client is None:
            try:
                channel, tell = await self._channels.client_connects(asked, None, channel)
            except CallError:
                channel.withdraw()
                raise
        self._control.renew(channel)
        self._tell_server(asked, address, channel, tell)

    def _tell_server(
        self,
        asked: str,
        address: Endpoint,
        channel: DataChannel | None,
        tell: Endpoint | None = None,
    ) -> None:
        """Send PORT or EPRT."""
        if self._is_extended(asked, converted=asked not in ACTIVE_VERBS):
            verb, argument = "EPRT", format_eprt(address)
        else:
            verb, argument = "PORT", format_port(address)
        pending = Pending(verb, asked, channel=channel, tell=tell)
        self._control.send(b"%b %b\r\n" % (verb.encode(), argument), pending)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work*; a refusal is the client's answer and is logged."""
        try:
            await work()
        except AddressNotAllowedError as error:
            self._refused(error)
            self._control.answer(format_reply(501, b"This address is not allowed"))
        except CallError as error:
            self._refused(error)
            self._control.answer(format_reply(425, b"Cannot open a data connection"))

    def _refused(self, error: Exception) -> None:
        self._control.log.warning("data connection refused", reason=str(error))

    async def start(self, channel: DataChannel) -> None:
        """Connect to both sides: the transfer that was waited for has been asked for."""
        try:
            await self._channels.both_wait(channel)
        except CallError as error:
            self._refused(error)
            channel.ended(str(error))
            self._control.channel_ended(channel)

    # The server's replies.

    def reply(self, pending: Pending, line: ReplyLine) -> Work:
        """Handle a line of the final reply to one of the four commands."""
        if line.code >= 300:
            self._server_refuses(pending, line)
        elif pending.verb in ACTIVE_VERBS:
            self._server_will_connect(pending, line)
        elif line.is_last:
            return lambda: self._server_waits(pending, line)
        return None

    def _server_refuses(self, pending: Pending, line: ReplyLine) -> None:
        if (pending.asked in ACTIVE_VERBS) == (pending.verb in ACTIVE_VERBS):
            self._control.to_client.send(line.raw)  # it fits what the client asked for
        elif line.is_last:
            self._control.tell(format_reply(425, b"The server refuses the data connection"))
        if line.is_last:
            pending.withdraw()

    def _server_will_connect(self, pending: Pending, line: ReplyLine) -> None:
        if pending.tell is None:
            self._control.to_client.send(line.raw)
        elif line.is_last:
            self._control.tell(_passive_reply(pending.asked, pending.tell))

    async def _server_waits(self, pending: Pending, line: ReplyLine) -> None:
        control = self._control
        try:
            server = self._channels.server_address(_said(pending.verb, line))
            if pending.channel is not None:
                channel = pending.channel
                channel.server = server
                told = format_reply(200, b"%b command successful" % pending.asked.encode())
            else:
                channel, internal = await self._channels.client_connects(pending.asked, server)
                told = _passive_reply(pending.asked, internal)
            control.renew(channel)
        except (CallError, FtpSyntaxError) as error:
            self._refused(error)
            told = format_reply(425, b"Cannot open a data connection")
        control.tell(told)


def _said(verb: str, line: ReplyLine) -> Endpoint | int:
    """Read where the server waits."""
    if verb == "PASV" and line.code == 227:
        return parse_227(line.text)
    if verb == "EPSV" and line.code == 229:
        return parse_229(line.text)
    raise FtpSyntaxError(425, f"the server answered {verb} with {line.code}")


def _passive_reply(asked: str, internal: Endpoint) -> bytes:
    if asked == "EPSV":
        return format_reply(229, format_229(internal.port))
    return format_reply(227, format_227(internal))
