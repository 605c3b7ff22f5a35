"""SOCKS 4 and 4a, after the two notes of their authors ("SOCKS: A protocol for TCP proxy …").

::

    client: VN=4 CD DSTPORT(2) DSTIP(4) USERID 0 [with DSTIP 0.0.0.x, x not 0: name 0]
    proxy:  0    CD DSTPORT(2) DSTIP(4)
"""

from __future__ import annotations

import socket
import struct

from fwproxy.address import Endpoint, HostName
from fwproxy.errors import InvalidArgumentError
from fwproxy.handshake.base import Command, Handshake, Outcome, Refusal, Request, Step

VERSION = 4

_GRANTED, _REJECTED, _OTHER_USER = 90, 91, 93
_HEAD = struct.Struct("!BBH4s")
_MAX_USER = 255
_MAX_NAME = 255
_COMMANDS = {1: Command.CONNECT, 2: Command.BIND}


class Socks4(Handshake):
    """One client that speaks SOCKS 4 or 4a.

    Args:
        needs_login: whether users must log in: then this is refused, because there is no
            password in it.
    """

    name = "socks4"
    max_size = _HEAD.size + _MAX_USER + 1 + _MAX_NAME + 1

    def __init__(self, *, needs_login: bool) -> None:
        self._needs_login = needs_login

    def step(self, data: bytes) -> Step | None:
        """Read the request."""
        if data[0] != VERSION:
            return _refusal(len(data), f"{data[0]} is no version of SOCKS 4")
        if len(data) < _HEAD.size:
            return None
        _, code, port, raw = _HEAD.unpack_from(data)
        user_end = data.find(0, _HEAD.size, _HEAD.size + _MAX_USER + 1)
        if user_end < 0:
            return self.too_long() if len(data) > _HEAD.size + _MAX_USER else None
        end, name = user_end + 1, b""
        if raw[:3] == b"\0\0\0" and raw[3]:  # 4a: the name follows
            name_end = data.find(0, end, end + _MAX_NAME + 1)
            if name_end < 0:
                return self.too_long() if len(data) > end + _MAX_NAME else None
            name, end = data[end:name_end], name_end + 1
            if not name:
                return _refusal(end, "an empty host name")
        return self._request(end, code, port, raw, name)

    def _request(self, used: int, code: int, port: int, raw: bytes, name: bytes) -> Step:
        if self._needs_login:
            return Refusal(used, _reply(_OTHER_USER), "SOCKS 4 has no password, and users log in")
        if code not in _COMMANDS:
            return _refusal(used, f"{code} is no command of SOCKS 4")
        try:
            host = socket.inet_ntoa(raw)
            destination = destination_of(name, port) if name else Endpoint(host, port)
        except InvalidArgumentError as error:
            return _refusal(used, str(error))
        return Request(used, _COMMANDS[code], destination)

    def too_long(self) -> Refusal:
        """Refuse a user or a name without an end."""
        return _refusal(0, "a user or a host name that is too long")

    def reply(self, outcome: Outcome, address: Endpoint) -> bytes:
        """Return the reply; there is one code for everything that is not granted."""
        return _reply(_GRANTED if outcome is Outcome.GRANTED else _REJECTED, address)


def destination_of(name: bytes, port: int) -> Endpoint | HostName:
    """Return the destination that a client spells, which may be an address in letters.

    Raises:
        InvalidArgumentError: it is neither an address nor a name.
    """
    try:
        text = name.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{name!r} is not a host name") from None
    try:
        return Endpoint(text.removeprefix("[").removesuffix("]"), port)
    except InvalidArgumentError:
        return HostName(text, port)


def _refusal(used: int, reason: str) -> Refusal:
    return Refusal(used, _reply(_REJECTED), reason)


def _reply(code: int, address: Endpoint | None = None) -> bytes:
    if address is None or address.version == 6:  # it has no room for IPv6
        return _HEAD.pack(0, code, 0 if address is None else address.port, bytes(4))
    return _HEAD.pack(0, code, address.port, address.ip.packed)
