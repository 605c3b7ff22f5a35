"""SOCKS 5 (RFC 1928), with a user name and a password (RFC 1929).

::

    client: 5 NMETHODS METHODS…                    proxy: 5 METHOD
    client: 1 ULEN USER PLEN PASSWORD              proxy: 1 STATUS      if METHOD is 2
    client: 5 CMD RSV ATYP DST.ADDR DST.PORT(2)    proxy: 5 REP RSV ATYP BND.ADDR BND.PORT(2)
"""

from __future__ import annotations

import enum
import ipaddress
import struct

from fwproxy.address import Destination, Endpoint
from fwproxy.errors import InvalidArgumentError
from fwproxy.handshake.base import Command, Handshake, Login, Outcome, Refusal, Request, Say, Step
from fwproxy.handshake.socks4 import destination_of

VERSION = 5

_NO_LOGIN, _PASSWORD, _NO_METHOD = 0, 2, 255
_LOGIN_VERSION = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
KINDS = frozenset({_IPV4, _NAME, _IPV6})
_COMMANDS = {1: Command.CONNECT, 2: Command.BIND, 3: Command.ASSOCIATE}
_NOWHERE = Endpoint("0.0.0.0")
_FAILED, _BAD_COMMAND, _BAD_ADDRESS = 1, 7, 8
_CODES = {
    Outcome.GRANTED: 0,
    Outcome.FAILED: _FAILED,
    Outcome.NOT_ALLOWED: 2,
    Outcome.BUSY: _FAILED,
    Outcome.NETWORK_UNREACHABLE: 3,
    Outcome.HOST_UNREACHABLE: 4,
    Outcome.REFUSED: 5,
    Outcome.TIMED_OUT: 6,  # "TTL expired" is what others say then, and clients show
    Outcome.NAME_UNKNOWN: 4,
    Outcome.UNSUPPORTED: _BAD_COMMAND,
}


class _Phase(enum.Enum):
    METHODS = "methods"
    LOGIN = "login"
    REQUEST = "request"


class Socks5(Handshake):
    """One client that speaks SOCKS 5.

    Args:
        needs_login: whether users must log in.
    """

    name = "socks5"
    max_size = 1 + 1 + 255 + 1 + 255

    def __init__(self, *, needs_login: bool) -> None:
        self._needs_login = needs_login
        self._phase = _Phase.METHODS

    def step(self, data: bytes) -> Step | None:
        """Read the next message."""
        if self._phase is _Phase.METHODS:
            return self._methods(data)
        return self._login(data) if self._phase is _Phase.LOGIN else _request(data)

    def _methods(self, data: bytes) -> Step | None:
        if data[0] != VERSION:
            return Refusal(len(data), b"", f"{data[0]} is no version of SOCKS 5")
        end = 2 + data[1] if len(data) > 1 else 0
        if not end or len(data) < end:
            return None
        method = _PASSWORD if self._needs_login else _NO_LOGIN
        if method not in data[2:end]:
            offered = ", ".join(map(str, data[2:end])) or "none"
            reason = f"the client cannot do method {method}, but {offered}"
            return Refusal(end, bytes([VERSION, _NO_METHOD]), reason)
        self._phase = _Phase.LOGIN if self._needs_login else _Phase.REQUEST
        return Say(end, bytes([VERSION, method]))

    def _login(self, data: bytes) -> Step | None:
        if data[0] != _LOGIN_VERSION:
            reason = f"{data[0]} is no version of the login"
            return Refusal(len(data), bytes([_LOGIN_VERSION, 1]), reason)
        user_end = 2 + data[1] if len(data) > 1 else len(data)
        if len(data) <= user_end:
            return None
        end = user_end + 1 + data[user_end]
        if len(data) < end:
            return None
        user = data[2:user_end].decode("utf-8", "replace")
        return Login(end, user, data[user_end + 1 : end])

    def logged_in(self, ok: bool) -> Say | Refusal | None:  # noqa: FBT001 - an answer
        """Go on to the request, or refuse: RFC 1929 wants the connection closed then."""
        if ok:
            self._phase = _Phase.REQUEST
            return Say(0, bytes([_LOGIN_VERSION, 0]))
        return Refusal(0, bytes([_LOGIN_VERSION, 1]), "wrong user name or password")

    def too_long(self) -> Refusal:
        """Refuse more than any message can have."""
        return Refusal(0, b"", "a message that is too long")

    def reply(self, outcome: Outcome, address: Endpoint) -> bytes:
        """Return the reply."""
        return _reply(_CODES[outcome], address)


def _request(data: bytes) -> Step | None:
    if data[0] != VERSION:
        return Refusal(len(data), _reply(_FAILED), f"{data[0]} is no version of SOCKS 5")
    if len(data) > 3 and data[3] not in KINDS:
        return Refusal(len(data), _reply(_BAD_ADDRESS), f"{data[3]} is no kind of address")
    end = 4 + address_size(data, 3) if len(data) > 4 else 0  # 4 is where the size of a name is
    if not end or len(data) < end:
        return None
    try:
        return Request(end, _COMMANDS[data[1]], read_address(data, 3))
    except KeyError:
        return Refusal(end, _reply(_BAD_COMMAND), f"{data[1]} is no command of SOCKS 5")
    except InvalidArgumentError as error:
        return Refusal(end, _reply(_FAILED), str(error))


def address_size(data: bytes, at: int) -> int:
    """Return how many bytes an address has after its kind at *at*, the port included.

    The kind must be known, and the byte after it be there.
    """
    return {_IPV4: 4, _NAME: 1 + data[at + 1], _IPV6: 16}[data[at]] + 2


def read_address(data: bytes, at: int) -> Destination:
    """Read the address whose kind is at *at*; all of it is there.

    Raises:
        InvalidArgumentError: it is a name that cannot be one.
    """
    end = at + 1 + address_size(data, at)
    (port,) = struct.unpack_from("!H", data, end - 2)
    if data[at] == _NAME:
        return destination_of(data[at + 2 : end - 2], port)
    return Endpoint(str(ipaddress.ip_address(data[at + 1 : end - 2])), port)


def write_address(address: Endpoint) -> bytes:
    """Spell an address: kind, address and port."""
    packed = address.ip.packed
    kind = _IPV6 if len(packed) == 16 else _IPV4
    return bytes([kind]) + packed + struct.pack("!H", address.port)


def _reply(code: int, address: Endpoint = _NOWHERE) -> bytes:
    return bytes([VERSION, code, 0]) + write_address(address)
