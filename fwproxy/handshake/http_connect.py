"""HTTP CONNECT (RFC 9110 section 9.3.6) with Basic authentication (RFC 7617).

The request is parsed by h11. Other methods are refused: a tunnel carries every protocol, TLS
included, and nothing of it has to be rewritten.
"""

from __future__ import annotations

import base64
import binascii
import re

import h11

from fwproxy.address import Destination, Endpoint, parse_destination
from fwproxy.errors import InvalidArgumentError, NotSupportedError
from fwproxy.handshake.base import Command, Handshake, Login, Outcome, Refusal, Request, Say, Step

MAX_HEAD = 8192
"""Bytes of a request, its headers included."""
MAX_LOGINS = 3
"""Requests of one client that may end with 407, until the connection is closed."""

_HEAD_END = re.compile(rb"\n\r?\n")
_FIRST_PRINTABLE = 0x21
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_CHALLENGE = b'Proxy-Authenticate: Basic realm="fwproxy", charset="UTF-8"'
_REASONS = {
    400: b"Bad Request",
    403: b"Forbidden",
    405: b"Method Not Allowed",
    407: b"Proxy Authentication Required",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
_ANSWERS = {  # the status, and the error type of RFC 9209
    Outcome.FAILED: (500, b"proxy_internal_error"),
    Outcome.NOT_ALLOWED: (403, b"destination_ip_prohibited"),
    Outcome.BUSY: (503, b"connection_limit_reached"),
    Outcome.NETWORK_UNREACHABLE: (502, b"destination_ip_unroutable"),
    Outcome.HOST_UNREACHABLE: (502, b"destination_unavailable"),
    Outcome.REFUSED: (502, b"connection_refused"),
    Outcome.TIMED_OUT: (504, b"connection_timeout"),
    Outcome.NAME_UNKNOWN: (502, b"dns_error"),
    Outcome.UNSUPPORTED: (501, b"proxy_internal_error"),
}


class HttpConnect(Handshake):
    """One client that speaks HTTP.

    Args:
        needs_login: whether users must log in.
    """

    name = "http"
    max_size = MAX_HEAD

    def __init__(self, *, needs_login: bool) -> None:
        self._needs_login = needs_login
        self._logins = 0
        self._keeps_alive = False
        self._used = 0
        self._destination: Destination | None = None
        self._is_logged_in = False

    def step(self, data: bytes) -> Step | None:
        """Read the request."""
        if self._is_logged_in and self._destination is not None:
            return Request(self._used, Command.CONNECT, self._destination)
        found = _HEAD_END.search(data)
        if found is None:
            return None if data[0] >= _FIRST_PRINTABLE else _refusal(len(data), 400, "no request")
        used = found.end()
        try:
            return self._read(used, data[:used])
        except h11.RemoteProtocolError as error:
            what = str(error).partition(": ")[0]  # the line that follows may be a login
            return _refusal(used, error.error_status_hint, f"no HTTP request: {what}")
        except NotSupportedError as error:
            return _refusal(used, 405, str(error), b"Allow: CONNECT")
        except InvalidArgumentError as error:
            return _refusal(used, 400, str(error))

    def _read(self, used: int, head: bytes) -> Step:
        request = _parse(head)
        self._destination = _destination(request)
        if not self._needs_login:
            return Request(used, Command.CONNECT, self._destination)
        self._keeps_alive = request.http_version == b"1.1"
        self._used = used
        return self._login(used, request)

    def _login(self, used: int, request: h11.Request) -> Step:
        values = [value for name, value in request.headers if name == b"proxy-authorization"]
        scheme, _, credentials = b"".join(values).partition(b" ")
        if not values:
            return self._challenge(used, "no login")
        if len(values) > 1 or scheme.lower() != b"basic":
            return self._challenge(used, "another login than Basic")
        try:
            plain = base64.b64decode(credentials.strip(), validate=True)
        except binascii.Error:
            return _refusal(used, 400, "a login that is not in base 64")
        user, _, password = plain.partition(b":")
        return Login(0, user.decode("utf-8", "replace"), password)

    def logged_in(self, ok: bool) -> Say | Refusal | None:  # noqa: FBT001 - an answer
        """Go on, or ask again. The request stays where it is until it is known which."""
        if ok:
            self._is_logged_in = True
            return None
        return self._challenge(self._used, "wrong user name or password")

    def _challenge(self, used: int, reason: str) -> Say | Refusal:
        self._logins += 1
        if self._keeps_alive and self._logins < MAX_LOGINS:
            return Say(used, _response(407, _CHALLENGE))
        return _refusal(used, 407, reason, _CHALLENGE)

    def too_long(self) -> Refusal:
        """Refuse a request without an end."""
        return _refusal(0, 431, f"a request of more than {MAX_HEAD} bytes")

    def reply(self, outcome: Outcome, address: Endpoint) -> bytes:  # noqa: ARG002 - not told
        """Return the response."""
        if outcome is Outcome.GRANTED:
            return _ESTABLISHED
        status, error = _ANSWERS[outcome]
        return _response(status, b"Proxy-Status: fwproxy; error=" + error, _CLOSE)


_CLOSE = b"Connection: close"


def _parse(head: bytes) -> h11.Request:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    parser.receive_data(head)
    request = parser.next_event()
    if not isinstance(request, h11.Request):
        raise h11.RemoteProtocolError("there is no request in it")
    if request.method != b"CONNECT":
        raise NotSupportedError(f"the method {request.method!r}")
    return request


def _destination(request: h11.Request) -> Destination:
    for name, value in request.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise InvalidArgumentError("CONNECT with content")
    try:
        destination = parse_destination(request.target.decode("ascii", "replace"))
    except InvalidArgumentError:  # which would repeat a password before an @
        raise InvalidArgumentError("CONNECT to something else than host:port") from None
    if not destination.port:
        raise InvalidArgumentError("CONNECT to port 0")
    return destination


def _refusal(used: int, status: int, reason: str, *headers: bytes) -> Refusal:
    return Refusal(used, _response(status, *headers, _CLOSE), reason)


def _response(status: int, *headers: bytes) -> bytes:
    status = status if status in _REASONS else 400
    lines = [b"HTTP/1.1 %d %b" % (status, _REASONS[status]), *headers, b"Content-Length: 0"]
    return b"\r\n".join([*lines, b"", b""])
