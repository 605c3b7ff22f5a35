"""The addresses that FTP carries: PORT and EPRT arguments, 227 and 229 replies.

All parsers are strict: numbers are plain decimals without sign, leading zero or blanks inside, in
their range, and exactly as many as there must be. Port 0 is refused everywhere, and an address of
all zeros is returned as it is: what it stands for is the caller's to decide. Formatting and parsing
are each other's inverses.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

from fwproxy.address import Endpoint
from fwproxy.errors import InvalidArgumentError
from fwproxy_filters.ftp.errors import FtpSyntaxError, ProtocolNotSupportedError

_NUMBER = rb"(0|[1-9][0-9]{0,2})"
_PORT = re.compile(rb" *" + b",".join([_NUMBER] * 6) + rb" *")
_NUMBER_LIST = re.compile(rb"(?<![0-9])[0-9]++(?: *+, *+[0-9]++)++")
_SIX_NUMBERS = re.compile(rb" *, *".join([_NUMBER] * 6))
_NOT_BEFORE = re.compile(rb"(?:[\w+.-]|,[ ]*)\Z", re.ASCII)
_NOT_AFTER = re.compile(rb"[\w+-]|[ ]*,|\.[0-9]", re.ASCII)
_EPSV_REPLY = re.compile(rb"\(([!-~])\1\1([1-9][0-9]{0,4})\1\)")
_LONGEST_IP = 45
"""Characters of the longest spelling of an IPv6 address."""

_VERSION = {b"1": 4, b"2": 6}
"""IP versions by address family number (RFC 2428 section 2)."""


class EpsvArgument(enum.Enum):
    """What EPSV asks for (RFC 2428 sections 3 and 4)."""

    ANY = "any"
    IPV4 = "1"
    IPV6 = "2"
    ALL = "ALL"
    """No other command that sets up data connections shall follow."""


def parse_port(argument: bytes) -> Endpoint:
    """Return the address in a PORT argument, `h1,h2,h3,h4,p1,p2` (RFC 959 section 4.1.2).

    Raises:
        FtpSyntaxError: with 501.
    """
    match = _PORT.fullmatch(argument)
    endpoint = _six_numbers(match) if match else None
    if endpoint is None:
        raise FtpSyntaxError(501, "Syntax error in the address, PORT h1,h2,h3,h4,p1,p2")
    return endpoint


def parse_227(text: bytes) -> Endpoint:
    """Return the address in the text of a reply to PASV, with or without its code.

    The six numbers may stand anywhere, in parentheses or not, with blanks around their commas (RFC
    1123 section 4.1.2.6), but the text must leave no doubt: two addresses, or a list of more than
    six numbers, are refused.

    Raises:
        FtpSyntaxError: with 425.
    """
    lists = [m for m in _NUMBER_LIST.finditer(text) if m.group().count(b",") >= 5]
    if len(lists) == 1:
        start, end = lists[0].span()
        match = _SIX_NUMBERS.fullmatch(text, start, end)
        apart = not _NOT_BEFORE.search(text, 0, start) and not _NOT_AFTER.match(text, end)
        endpoint = _six_numbers(match) if match and apart else None
        if endpoint is not None:
            return endpoint
    raise FtpSyntaxError(425, "Cannot read the address in the server's reply to PASV")


def parse_eprt(argument: bytes, supported: Sequence[int] = (1, 2)) -> Endpoint:
    """Return the address in an EPRT argument, such as `|2|2001:db8::1|5282|` (RFC 2428 section 2).

    Args:
        argument: with any delimiter from 33 to 126.
        supported: the address family numbers that may be used, 1 for IPv4 and 2 for IPv6.

    Raises:
        ProtocolNotSupportedError: with 522, the family is another number.
        FtpSyntaxError: with 501.
    """
    argument = argument.strip(b" ")
    delimiter = argument[:1]
    fields = argument.split(delimiter) if delimiter else []
    if len(fields) != 5 or fields[4] or not b"!" <= delimiter <= b"~":
        raise _bad_eprt()
    _, family, host, port = fields[:4]
    _check_family(family, supported, _bad_eprt())
    number = _port_number(port)
    if number is None or len(host) > _LONGEST_IP or b"%" in host or not host.isascii():
        raise _bad_eprt()
    try:
        endpoint = Endpoint(host.decode("ascii"), number)
    except InvalidArgumentError:
        raise _bad_eprt() from None
    if endpoint.version != _VERSION[family]:
        raise _bad_eprt()
    return endpoint


def parse_229(text: bytes) -> int:
    """Return the port in the text of a reply to EPSV, `(|||port|)` (RFC 2428 section 3).

    The two fields before the port must be empty, as the RFC says: a server has no business to name
    another address there.

    Raises:
        FtpSyntaxError: with 425.
    """
    matches = _EPSV_REPLY.findall(text)
    if len(matches) == 1:
        delimiter, port = matches[0]
        number = _port_number(port)
        if number is not None and delimiter not in port:
            return number
    raise FtpSyntaxError(425, "Cannot read the port in the server's reply to EPSV")


def parse_epsv(argument: bytes | None, supported: Sequence[int] = (1, 2)) -> EpsvArgument:
    """Return what EPSV asks for.

    Raises:
        ProtocolNotSupportedError: with 522, the family is another number than those *supported*.
        FtpSyntaxError: with 501.
    """
    wanted = (argument or b"").strip(b" ").upper()
    if not wanted:
        return EpsvArgument.ANY
    if wanted == b"ALL":
        return EpsvArgument.ALL
    _check_family(wanted, supported, FtpSyntaxError(501, "EPSV takes a network protocol or ALL"))
    return EpsvArgument(wanted.decode("ascii"))


def format_port(endpoint: Endpoint) -> bytes:
    """Return the argument of a PORT command.

    Raises:
        InvalidArgumentError: the address is IPv6, or the port 0.
    """
    if endpoint.version != 4:
        raise InvalidArgumentError(f"{endpoint} is not an IPv4 address, PORT and 227 need one")
    high, low = divmod(_checked_port(endpoint.port), 256)
    return f"{endpoint.host.replace('.', ',')},{high},{low}".encode("ascii")


def format_227(endpoint: Endpoint) -> bytes:
    """Return the text of a 227 reply, without its code.

    Raises:
        InvalidArgumentError: the address is IPv6, or the port 0.
    """
    return b"Entering Passive Mode (%b)" % format_port(endpoint)


def format_eprt(endpoint: Endpoint) -> bytes:
    """Return the argument of an EPRT command.

    Raises:
        InvalidArgumentError: the port is 0.
    """
    family = 1 if endpoint.version == 4 else 2
    return f"|{family}|{endpoint.host}|{_checked_port(endpoint.port)}|".encode("ascii")


def format_229(port: int) -> bytes:
    """Return the text of a 229 reply, without its code.

    Raises:
        InvalidArgumentError: the port is not in 1-65535.
    """
    return b"Entering Extended Passive Mode (|||%d|)" % _checked_port(port)


def _six_numbers(match: re.Match[bytes]) -> Endpoint | None:
    *octets, high, low = numbers = [int(group) for group in match.groups()]
    port = high * 256 + low
    if max(numbers) > 255 or not port:
        return None
    return Endpoint.from_sockaddr((".".join(map(str, octets)), port))


def _check_family(family: bytes, supported: Sequence[int], otherwise: FtpSyntaxError) -> None:
    if not family.isdigit():
        raise otherwise
    if family not in _VERSION or int(family) not in supported:
        raise ProtocolNotSupportedError(supported)


def _port_number(digits: bytes) -> int | None:
    if not digits.isdigit() or len(digits) > 5 or digits.startswith(b"0"):
        return None
    number = int(digits)
    return number if number <= 65535 else None


def _checked_port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise InvalidArgumentError(f"port {port} is not in 1-65535")
    return port


def _bad_eprt() -> FtpSyntaxError:
    return FtpSyntaxError(501, "Syntax error in the address, EPRT |family|address|port|")
