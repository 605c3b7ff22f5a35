"""The FTP gateway's login, until the client has named a server and that has greeted.

`login_forms` has the forms in which clients do it. Where the listener has users, they log in at the
gateway before anything is connected to. What else a client says of itself is for the server: nobody
here knows whether it is true, and it grants nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from fwproxy.errors import CallError, DeniedError, NotAuthenticatedError
from fwproxy_filters.ftp.checks import check_command
from fwproxy_filters.ftp.commands import Command, parse_command
from fwproxy_filters.ftp.errors import FtpSyntaxError
from fwproxy_filters.ftp.login_forms import (
    HOW,
    HOW_TO_USERS,
    NAMING_VERBS,
    GatewayPassword,
    LoginRequest,
    parse_server,
    parse_user,
)
from fwproxy_filters.ftp.pending import LOGIN, Pending
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
_NEEDS_PASSWORD = 331
_KEY_SIZE = 32


class GatewayLogin:
    """Talks with the client until it has named a server that can be reached.

    It waits for USER, OPEN or SITE; with a request that awaits a password at the gateway for PASS;
    and for ACCT after that, if the password is to come there. Any USER begins anew, also one
    that is refused.
    """

    def __init__(self, settings: FtpSettings) -> None:
        self._settings = settings
        self._request: LoginRequest | None = None  # awaits a password at the gateway
        self._server_password: bytes | None = None  # until the server asks for it
        self._granted: LoginRequest | None = None  # has led to the server
        self._wrong_logins = 0
        self._key = secrets.token_bytes(_KEY_SIZE)
        self._gateway_digest: bytes | None = None  # of the right password there

    def command(self, control: ControlFilter, command: Command) -> Work:
        """Handle a command before there is a server.

        Raises:
            FtpSyntaxError: with the reply that the client gets.
        """
        verb, argument = command.verb, command.argument or b""
        if verb == "USER":
            self._forget()
        check_command(command, self._settings, is_for_gateway=verb in NAMING_VERBS)
        must_log_in, request = control.owner.session.must_log_in, self._request
        if verb == "USER":
            return self._take_user(control, argument, must_log_in=must_log_in)
        if verb == "PASS" and request is not None:
            return self._take_password(control, request, argument)
        if verb == "ACCT" and request is not None and self._server_password is not None:
            return lambda: self._log_in(control, request, argument)
        if verb in NAMING_VERBS and not must_log_in:
            named = parse_server(argument)
            return lambda: self._connect(control, named)
        if verb == "QUIT":
            control.hang_up(format_reply(221, b"Goodbye"))
        elif verb == "NOOP":
            control.answer(format_reply(200, b"NOOP command successful"))
        elif verb == "FEAT":
            control.answer(format_reply(211, b"Features:", b"UTF8", b"End"))
        else:
            raise FtpSyntaxError(530, HOW_TO_USERS if must_log_in else HOW)
        return None

    def _take_user(self, control: ControlFilter, argument: bytes, *, must_log_in: bool) -> Work:
        request = parse_user(argument, must_log_in=must_log_in)
        if request.gateway_password is GatewayPassword.NOWHERE:
            return lambda: self._connect(control, request)
        self._request = request
        both = request.gateway_password is GatewayPassword.END_OF_PASS
        text = b"password@gateway-password, please" if both else b"Password, please"
        if request.user is None:
            text = b"Password of the gateway, please"
        control.answer(format_reply(_NEEDS_PASSWORD, text))
        return None

    def _take_password(
        self, control: ControlFilter, request: LoginRequest, password: bytes
    ) -> Work:
        if request.gateway_password is GatewayPassword.PASS:
            return lambda: self._log_in(control, request, password)
        if request.gateway_password is GatewayPassword.ACCT:
            self._server_password = password
            text = b"Password of the gateway, please, by ACCT"
            control.answer(format_reply(332, text))
            return None
        self._server_password, at, gateway_password = password.rpartition(b"@")
        if not at:
            self._forget()
            raise FtpSyntaxError(530, "Give both passwords, as password@gateway-password")
        return lambda: self._log_in(control, request, gateway_password)

    def _forget(self) -> None:
        self._request = self._server_password = None

    async def _log_in(self, control: ControlFilter, request: LoginRequest, password: bytes) -> None:
        self._request = None
        if not await control.owner.session.log_in(request.gateway_user or "", password):
            self._server_password = None
            self._refuse(control)
            return
        self._gateway_digest = self._digest(password)
        if request.server is not None:
            await self._connect(control, request)
            return
        text = b"Welcome to the gateway, now log in as user@host or user@host:port"
        control.answer(format_reply(230, text))

    def _refuse(self, control: ControlFilter) -> None:
        self._wrong_logins += 1
        if self._wrong_logins < MAX_LOGINS:
            control.answer(format_reply(530, b"Login incorrect"))
        else:
            control.hang_up(format_reply(421, b"Too many wrong logins"))

    def _digest(self, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._key).digest()

    async def _connect(self, control: ControlFilter, request: LoginRequest) -> None:
        """Connect to the server that has been named, if the policy allows it.

        A client that has named itself together with the server cannot try again: the same words
        would mean something else now, and tell the server the password at the gateway.
        """
        server = request.server
        assert server is not None  # noqa: S101 - whoever calls has found one
        try:
            await control.connection.connect(server)
        except CallError as error:
            self._server_password = None
            control.log.warning("gateway login refused", server=str(server), reason=str(error))
            if request.gateway_user is None:
                control.answer(_refusal(error))
            else:
                control.hang_up(_refusal(error))
            return
        self._granted = request
        control.expect_greeting(is_exclusive=True)

    # When there is a server.

    def greeting(self, control: ControlFilter, line: ReplyLine) -> None:
        """Keep the server's greeting to ourselves and log in; pass a refusal on."""
        request = self._granted
        if line.code >= 300 or request is None:
            self._server_password = None
            control.to_client.send(line.raw)
        elif not line.is_last or line.code < 200:
            return
        elif request.user is not None:
            has_password = self._server_password is not None
            pending = Pending(LOGIN if has_password else "USER", is_exclusive=has_password)
            control.send(b"USER %b\r\n" % request.user, pending)
        elif request.gateway_user is not None:
            control.tell(format_reply(230, b"Welcome to the gateway, now log in to the server"))
        else:
            control.tell(format_reply(220, b"Connected to the server, now log in"))

    def reply_to_user(self, control: ControlFilter, line: ReplyLine) -> None:
        """Answer the server's question for the password, which the client has said already."""
        if line.code != _NEEDS_PASSWORD:
            control.to_client.send(line.raw)
        elif line.is_last and self._server_password is not None:
            control.send(b"PASS %b\r\n" % self._server_password, Pending("PASS"))
        if line.is_last and line.code >= 200:
            self._server_password = None

    def server_command(self, command: Command) -> Command:
        """Return USER or ACCT as the server shall get it: without a host, which must be the same.

        Some clients (ncftp) answer every question for an account with their password at the
        gateway: no server shall get that by asking.

        Raises:
            FtpSyntaxError: the server must not get it.
        """
        argument = command.argument or b""
        if command.verb == "ACCT":
            if self._digest(argument) == self._gateway_digest:
                raise FtpSyntaxError(530, "That is the password of the gateway")
            return command
        granted = self._granted
        if b"@" not in argument or granted is None or granted.user is None:
            return command
        request = parse_user(argument, must_log_in=False)
        if granted.gateway_user is not None or request.server != granted.server:
            raise FtpSyntaxError(530, "This connection has a server, open another one")
        return parse_command(b"USER " + (request.user or b""))


def _refusal(error: CallError) -> bytes:
    if isinstance(error, DeniedError | NotAuthenticatedError):
        return format_reply(530, b"This server is not allowed")
    return format_reply(434, b"The server cannot be reached")
