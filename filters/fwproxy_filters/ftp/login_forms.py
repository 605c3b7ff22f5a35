"""The forms in which FTP clients' proxy settings say who comes and which server is wanted.

In them u and p are user and password at the server, g and q those at the gateway, and h is a
server, `host` or `host:port` (`host port` as well, where no user of the gateway can follow).

Where nobody logs in at the gateway, or the client has done so::

    USER u@h                            ncftp 1, 8 and 9; lftp; FileZilla's USER@HOST
    OPEN h or SITE h, USER u            lftp's `open`; FileZilla's OPEN and SITE

Where the client has yet to log in at it::

    USER g, PASS q                      then one of the two above; ncftp 2, 3 and 4; lftp's `user`
    USER u@g@h, PASS p@q                ncftp 5; lftp's `joined`
    USER g@h, PASS q, USER u            ncftp 6; lftp's `proxy-user@host`
    USER u@h g, PASS p, ACCT q          ncftp 7; lftp's `joined-acct`

No two of a kind can be taken for each other: a user of the gateway has no @, and a host has neither
that nor a space. Each is split at the last @ that fits, so that u and p may hold others. Where g
could be a port, nobody knows what is meant, and the login is refused.
"""

from __future__ import annotations

import enum
import re

import attrs

from fwproxy import Destination
from fwproxy.address import parse_destination
from fwproxy.errors import CallError
from fwproxy.protocol import FTP
from fwproxy_filters.ftp.errors import FtpSyntaxError

NAMING_VERBS = frozenset({"OPEN", "SITE"})
"""They name a server without a user, and are for the gateway alone."""

HOW = "Log in first, as user@host or user@host:port"
HOW_TO_USERS = "Log in to the gateway first, by USER and PASS, and then as user@host"
_NOT_ITS_USER = "No user of the gateway is expected, log in as user@host or user@host:port"
_WHICH = "Name a server, as host or host:port"


class GatewayPassword(enum.Enum):
    """Where a client says its password at the gateway."""

    NOWHERE = enum.auto()
    PASS = enum.auto()
    END_OF_PASS = enum.auto()
    """Behind the last @; what stands before that is for the server."""
    ACCT = enum.auto()
    """And what PASS said is for the server."""


@attrs.frozen(slots=True)
class LoginRequest:
    """Who a client says it is, and where it wants to go. Nobody has checked that.

    Attributes:
        server: None if it will be named later.
        user: for the server; None if the client says it there.
        gateway_user: None if the client is nobody at the gateway, or has logged in.
        gateway_password: where it is to come.
    """

    server: Destination | None = None
    user: bytes | None = None
    gateway_user: str | None = None
    gateway_password: GatewayPassword = GatewayPassword.NOWHERE


def _form(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


# A user of the gateway begins with no space: with spaces before it, which may be many, a line would
# take the square of its length.
_HOST, _GATEWAY, _USER = rb"(?P<host>[^@ ]+)", rb"(?P<gateway>[^@ ][^@]*)", rb"(?P<user>.+)"
_SERVER = _HOST + rb"(?: +(?P<port>[0-9]{1,5}))?"
_NAMED = _form(_SERVER)
_NAMED_BY_USER = _form(_USER + rb"@" + _SERVER)
_WITH_GATEWAY_USER = _form(_USER + rb"@" + _HOST + rb" +" + _GATEWAY)
_LOGINS = (
    (_form(_GATEWAY), GatewayPassword.PASS),
    (_form(_GATEWAY + rb"@" + _HOST), GatewayPassword.PASS),
    (_form(_USER + rb"@" + _GATEWAY + rb"@" + _HOST), GatewayPassword.END_OF_PASS),
    (_form(_USER + rb"@" + _HOST + rb" +(?![0-9]{1,5}(?: |$))" + _GATEWAY), GatewayPassword.ACCT),
)


def parse_user(argument: bytes, *, must_log_in: bool) -> LoginRequest:
    """Read the argument of USER.

    Args:
        argument: may have spaces around it.
        must_log_in: the client has yet to log in at the gateway.

    Raises:
        FtpSyntaxError: with 530, it has none of the forms, or there is no such host.
    """
    said = argument.strip(b" ")
    if must_log_in:
        return _parse_login(said)
    found = _NAMED_BY_USER.fullmatch(said)
    if found is None:
        raise FtpSyntaxError(530, _NOT_ITS_USER if _WITH_GATEWAY_USER.fullmatch(said) else HOW)
    return LoginRequest(_destination(found, FtpSyntaxError(530, HOW)), found["user"])


def _parse_login(said: bytes) -> LoginRequest:
    for form, place in _LOGINS:
        found = form.fullmatch(said)
        if found is not None:
            parts = found.groupdict()
            error = FtpSyntaxError(530, HOW_TO_USERS)
            server = _destination(found, error) if "host" in parts else None
            gateway_user = found["gateway"].decode("utf-8", "replace")
            return LoginRequest(server, parts.get("user"), gateway_user, place)
    raise FtpSyntaxError(530, HOW_TO_USERS)


def parse_server(argument: bytes) -> LoginRequest:
    """Read the argument of OPEN or SITE.

    Raises:
        FtpSyntaxError: with 501, it names no server.
    """
    error = FtpSyntaxError(501, _WHICH)
    found = _NAMED.fullmatch(argument.strip(b" "))
    if found is None:
        raise error
    return LoginRequest(_destination(found, error))


def _destination(found: re.Match[bytes], error: FtpSyntaxError) -> Destination:
    host, port = found["host"], found.groupdict().get("port")
    try:
        text = host.decode("ascii")
        if port is not None or text.endswith("]"):
            text += f":{int(port or FTP.ports[0])}"
        return parse_destination(text, FTP.ports[0])
    except (CallError, UnicodeDecodeError):
        raise error from None
