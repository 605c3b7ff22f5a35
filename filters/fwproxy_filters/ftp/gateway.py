"""The FTP gateway's login, `USER user@host[:port]`, which clients' proxy settings produce.

Where the listener has users, they log in at the gateway before that, by USER and PASS. What stands
before the @ later is for the server: nobody here knows whether it is true, and it grants nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwproxy import Destination
from fwproxy.address import parse_destination
from fwproxy.errors import CallError, DeniedError, NotAuthenticatedError
from fwproxy.protocol import FTP
from fwproxy_filters.ftp.commands import Command, parse_command
from fwproxy_filters.ftp.errors import FtpSyntaxError
from fwproxy_filters.ftp.pending import Pending
from fwproxy_filters.ftp.replies import ReplyLine, format_reply
from fwproxy_filters.ftp.settings import FtpSettings

if TYPE_CHECKING:
    from fwproxy_filters.ftp.control import ControlFilter
    from fwproxy_filters.ftp.setup import Work

WELCOME = format_reply(220, b"FTP gateway, log in as user@host or user@host:port")
WELCOME_TO_USERS = format_reply(
    220, b"FTP gateway, log in to it first, and then as user@host or user@host:port"
)
MAX_LOGINS = 3
"""Wrong logins at the gateway on one connection, until it is closed."""
_HOW = "Log in first, as user@host or user@host:port"
_HOW_TO_USERS = "Log in to the gateway first, by USER and PASS, and then as user@host"


class GatewayLogin:
    """Talks with the client until it has named a server that can be reached."""

    def __init__(self, settings: FtpSettings) -> None:
        self._settings = settings
        self._server: Destination | None = None
        self._user = b""
        self._proxy_user: str | None = None
        self._wrong_logins = 0

    def command(self, control: ControlFilter, command: Command) -> Work:
        """Handle a command before there is a server.

        Raises:
            FtpSyntaxError: with the reply that the client gets.
        """
        must_log_in = control.owner.session.must_log_in
        if command.verb == "USER" and not must_log_in:
            self._user, server = split_user(command.argument or b"")
            return self._connect(control, server)
        if command.verb == "USER":
            self._take_name(control, command.argument or b"")
        elif command.verb == "PASS" and must_log_in and self._proxy_user is not None:
            return self._log_in(control, self._proxy_user, command.argument or b"")
        elif command.verb == "QUIT":
            control.hang_up(format_reply(221, b"Goodbye"))
        elif command.verb == "NOOP":
            control.answer(format_reply(200, b"NOOP command successful"))
        elif command.verb == "FEAT":
            control.answer(format_reply(211, b"Features:", b"UTF8", b"End"))
        else:
            raise FtpSyntaxError(530, _HOW_TO_USERS if must_log_in else _HOW)
        return None

    def _take_name(self, control: ControlFilter, argument: bytes) -> None:
        """Take the name of a user of the gateway; the password for a server must not follow."""
        self._proxy_user = None
        if not argument or b"@" in argument:
            raise FtpSyntaxError(530, _HOW_TO_USERS)
        self._proxy_user = argument.decode("utf-8", "replace")
        control.answer(format_reply(331, b"Password of the gateway, please"))

    async def _log_in(self, control: ControlFilter, user: str, password: bytes) -> None:
        self._proxy_user = None
        if await control.owner.session.log_in(user, password):
            text = b"Welcome to the gateway, now log in as user@host or user@host:port"
            control.answer(format_reply(230, text))
            return
        self._wrong_logins += 1
        if self._wrong_logins < MAX_LOGINS:
            control.answer(format_reply(530, b"Login incorrect"))
        else:
            control.hang_up(format_reply(421, b"Too many wrong logins"))

    async def _connect(self, control: ControlFilter, server: Destination) -> None:
        try:
            await control.connection.connect(server)
        except CallError as error:
            control.log.warning("gateway login refused", server=str(server), reason=str(error))
            denied = isinstance(error, DeniedError | NotAuthenticatedError)
            text = b"This server is not allowed" if denied else b"The server cannot be reached"
            control.answer(format_reply(530 if denied else 434, text))
            return
        self._server = server
        control.expect_greeting(is_exclusive=True)

    def greeting(self, control: ControlFilter, line: ReplyLine) -> None:
        """Keep the server's greeting to ourselves and log in; pass a refusal on."""
        if line.code >= 300:
            control.to_client.send(line.raw)
        elif line.is_last and line.code >= 200:
            control.send(b"USER %b\r\n" % self._user, Pending("USER"))

    def user_command(self, command: Command) -> Command:
        """Take the host off a later USER, which must be the same.

        Raises:
            FtpSyntaxError: it is another one.
        """
        if b"@" not in (command.argument or b""):
            return command
        user, server = split_user(command.argument or b"")
        if server != self._server:
            raise FtpSyntaxError(530, "This connection has a server, open another one")
        return parse_command(b"USER " + user)


def split_user(argument: bytes) -> tuple[bytes, Destination]:
    """Split `user@host[:port]` at its last at-sign; the user may hold others.

    Raises:
        FtpSyntaxError: with 530, there is no host or it is none.
    """
    user, at, host = argument.strip(b" ").rpartition(b"@")
    if not at or not user or not host.isascii():
        raise FtpSyntaxError(530, _HOW)
    try:
        text = host.decode("ascii")
        if text.startswith("[") and text.endswith("]"):
            text += f":{FTP.ports[0]}"
        return user, parse_destination(text, FTP.ports[0])
    except CallError as error:
        raise FtpSyntaxError(530, _HOW) from error
