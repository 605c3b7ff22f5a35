"""The addresses that FTP carries: PORT and EPRT arguments, 227 and 229 replies.

How they are spelled is the kit's business (`fwproxy.kit.endpoints`); which reply a wrong one gets
is FTP's. An address of all zeros is returned as it is: what it stands for is the caller's to
decide. Formatting and parsing are each other's inverses.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

from fwproxy.address import Endpoint
from fwproxy.kit.endpoints import (
    Barred,
    EndpointError,
    FamilyError,
    SixNumbers,
    checked_port,
)
from fwproxy.kit.places import find_six_numbers
from fwproxy_filters.ftp.errors import FtpSyntaxError, ProtocolNotSupportedError

_SIX_NUMBERS = SixNumbers()
_BARRED = Barred()
_EPSV_REPLY = re.compile(rb"\(([!-~])\1\1([1-9][0-9]{0,4})\1\)")


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
    try:
        return _SIX_NUMBERS.parse(argument.strip(b" "))
    except EndpointError:
        raise FtpSyntaxError(501, "Syntax error in the address, PORT h1,h2,h3,h4,p1,p2") from None


def parse_227(text: bytes) -> Endpoint:
    """Return the address in the text of a reply to PASV, with or without its code.

    It must leave no doubt, see `find_six_numbers`.

    Raises:
        FtpSyntaxError: with 425.
    """
    place = find_six_numbers(text)
    if place is None:
        raise FtpSyntaxError(425, "Cannot read the address in the server's reply to PASV")
    return place.destination


def parse_eprt(argument: bytes, supported: Sequence[int] = (1, 2)) -> Endpoint:
    """Return the address in an EPRT argument, such as `|2|2001:db8::1|5282|` (RFC 2428 section 2).

    Args:
        argument: with any delimiter from 33 to 126.
        supported: the address family numbers that may be used, 1 for IPv4 and 2 for IPv6.

    Raises:
        ProtocolNotSupportedError: with 522, the family is another number.
        FtpSyntaxError: with 501.
    """
    try:
        return Barred(supported).parse(argument.strip(b" "))
    except FamilyError:
        raise ProtocolNotSupportedError(supported) from None
    except EndpointError:
        raise FtpSyntaxError(
            501, "Syntax error in the address, EPRT |family|address|port|"
        ) from None


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
        if delimiter not in port and int(port) <= 65535:
            return int(port)
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
    try:
        Barred(supported).version(wanted)
    except FamilyError:
        raise ProtocolNotSupportedError(supported) from None
    except EndpointError:
        raise FtpSyntaxError(501, "EPSV takes a network protocol or ALL") from None
    return EpsvArgument(wanted.decode("ascii"))


def format_port(endpoint: Endpoint) -> bytes:
    """Return the argument of a PORT command.

    Raises:
        InvalidArgumentError: the address is IPv6, or the port 0.
    """
    return _SIX_NUMBERS.format(endpoint)


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
    return _BARRED.format(endpoint)


def format_229(port: int) -> bytes:
    """Return the text of a 229 reply, without its code.

    Raises:
        InvalidArgumentError: the port is not in 1-65535.
    """
    return b"Entering Extended Passive Mode (|||%d|)" % checked_port(port)
