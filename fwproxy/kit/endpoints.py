"""The ways in which protocols spell an address and its port, each strict and reversible.

A codec has two halves: `parse` takes exactly the bytes of one address, `format` makes them. What
`format` makes, `parse` reads back as the same. `parse` takes nothing that is only nearly right: no
sign, blank or leading zero, no number out of its range, no port 0, and no address that could be
read in two ways. Textual codecs also `find` addresses inside a text (`fwproxy.kit.places`).

========================  =======================================  ============================
codec                     spelling                                 where
========================  =======================================  ============================
`SixNumbers`              ``10,0,0,8,6,17``                        FTP PORT and 227
`HostPort`                ``10.0.0.8:1553``, ``[2001:db8::1]:80``  Redis, many others
`Barred`                  ``|2|2001:db8::1|5282|``                 FTP EPRT
`Packed`                  4 or 16 bytes, and 2 for the port        SOCKS, trackers
`DecimalAddress`          ``167772168 5000``                       IRC DCC
`CountedHost`             counted host, and a number               Kafka brokers
========================  =======================================  ============================
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol, TypeVar

import attrs

from fwproxy.address import Destination, Endpoint, HostName
from fwproxy.errors import InvalidArgumentError

_LONGEST_IP = 45
"""Characters of the longest spelling of an IPv6 address."""
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,9}")
_IPV4_TEXT = re.compile(rb"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")
_LABEL = rb"(?!-)[A-Za-z0-9_-]{1,63}+(?<!-)"
_NAME = re.compile(rb"%b(?:\.%b)*+\.?" % (_LABEL, _LABEL))


class EndpointError(InvalidArgumentError):
    """These bytes are no address in this spelling, or this address cannot be spelled so."""


class FamilyError(EndpointError):
    """An address of another family than IPv4 and IPv6, or than the spelling or place has."""


FoundT_co = TypeVar("FoundT_co", bound=Destination, covariant=True)
"""What a codec parses: addresses only, or names as well."""


class Codec(Protocol[FoundT_co]):
    """One way to spell an address and its port."""

    def parse(self, data: bytes) -> FoundT_co:
        """Return the address that exactly these bytes spell.

        Raises:
            EndpointError: they do not.
        """

    def format(self, destination: Destination) -> bytes:
        """Return the bytes for an address.

        Raises:
            EndpointError: it cannot be spelled so.
        """


def parse_number(digits: bytes, highest: int) -> int:
    """Return a plain decimal number.

    Raises:
        EndpointError: it is none, or more than *highest*.
    """
    if not _NUMBER.fullmatch(digits) or int(digits) > highest:
        raise EndpointError(f"{digits!r:.60} is not a plain number up to {highest}")
    return int(digits)


def parse_port(digits: bytes) -> int:
    """Return a port, which is never 0.

    Raises:
        EndpointError: it is none.
    """
    return checked_port(parse_number(digits, 65535))


def checked_port(port: int) -> int:
    """Return the port.

    Raises:
        EndpointError: it is not within 1 to 65535.
    """
    if not 1 <= port <= 65535:
        raise EndpointError(f"port {port} is not in 1-65535")
    return port


def parse_host(text: bytes, *, names: bool = False) -> str:
    """Return the IP address that *text* spells, or the host name where *names* are welcome.

    IPv6 addresses have no zone, and do not stand for IPv4 ones: one host, one spelling.

    Raises:
        EndpointError: it is neither.
    """
    if b":" in text:
        return str(_ipv6(text))
    if _IPV4_TEXT.fullmatch(text):
        octets = [parse_number(octet, 255) for octet in text.split(b".")]
        return ".".join(map(str, octets))
    # What ends with a number is an address for some and a name for others (RFC 3696 section 2).
    last = text.rstrip(b".").rpartition(b".")[2]
    if not names or len(text) > 253 or not _NAME.fullmatch(text) or last.isdigit():
        raise EndpointError(f"{text!r:.60} is not a host")
    return text.decode("ascii")


def _ipv6(text: bytes) -> ipaddress.IPv6Address:
    if len(text) > _LONGEST_IP or b"%" in text:
        raise EndpointError(f"{text!r:.60} is not an IPv6 address without a zone")
    try:
        address = ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        raise EndpointError(f"{text!r:.60} is not an IPv6 address") from None
    if address.ipv4_mapped is not None:
        raise EndpointError(f"{address} stands for an IPv4 address")
    return address


def format_host(host: str) -> bytes:
    """Return the text of a host: what `parse_host` reads back as the same.

    Raises:
        EndpointError: it is a name that cannot be told from what stands around it, or not ASCII.
    """
    try:
        text = host.encode("ascii")
    except UnicodeEncodeError:
        raise EndpointError(f"{host!r:.60} is not ASCII") from None
    if parse_host(text, names=True) != host:
        raise EndpointError(f"{host!r:.60} has another spelling")
    return text


def destination(host: str, port: int) -> Destination:
    """Return an address, or a name to be resolved, with its port.

    Raises:
        EndpointError: it is neither.
    """
    try:
        if ":" in host or _IPV4_TEXT.fullmatch(host.encode()):
            return Endpoint(host, port)
        return HostName(host, port)
    except (InvalidArgumentError, UnicodeError) as error:
        raise EndpointError(str(error)) from None


def _ip(where: Destination, version: int | None = None) -> Endpoint:
    if not isinstance(where, Endpoint):
        raise EndpointError(f"{where} has to be resolved before it can be spelled so")
    if version is not None and where.version != version:
        raise FamilyError(f"{where} is not an IPv{version} address")
    checked_port(where.port)
    return where


@attrs.frozen
class SixNumbers:
    """`h1,h2,h3,h4,p1,p2`: the four bytes of an IPv4 address, the two of the port (RFC 959)."""

    def parse(self, data: bytes) -> Endpoint:
        """Return the address."""
        numbers = [parse_number(each, 255) for each in data.split(b",", 6)]
        if len(numbers) != 6:
            raise EndpointError("not six numbers")
        *octets, high, low = numbers
        return Endpoint(".".join(map(str, octets)), checked_port(high * 256 + low))

    def format(self, destination: Destination) -> bytes:
        """Return the six numbers; of an IPv4 address only."""
        endpoint = _ip(destination, 4)
        high, low = divmod(endpoint.port, 256)
        return f"{endpoint.host.replace('.', ',')},{high},{low}".encode("ascii")


@attrs.frozen
class HostPort:
    """`host:port`, with IPv6 addresses in brackets.

    Attributes:
        names: whether host names are addresses, too.
        brackets: whether IPv6 addresses have them; Redis leaves them away.
        default_port: the port that is meant, and left away, where none stands; None: one must.
        same_host: the host that is meant where none stands (Redis `-MOVED 5 :6379`), or None.
    """

    names: bool = True
    brackets: bool = True
    default_port: int | None = None
    same_host: str | None = None

    def parse(self, data: bytes) -> Destination:
        """Return the address or name."""
        host, port = self._split(data)
        number = self.default_port if port is None else parse_port(port)
        if number is None:
            raise EndpointError(f"{data!r:.60} has no port")
        if not host and self.same_host is not None:
            return destination(self.same_host, number)
        bracketed = host.startswith(b"[") and host.endswith(b"]")
        text = host[1:-1] if bracketed else host
        if bracketed != (b":" in text and self.brackets):
            raise EndpointError(f"{data!r:.60} has an IPv6 address with its brackets wrong")
        return destination(parse_host(text, names=self.names), number)

    def _split(self, data: bytes) -> tuple[bytes, bytes | None]:
        has_none = b":" not in data or data.endswith(b"]")
        if has_none and self.default_port is not None:
            return data, None
        host, colon, port = data.rpartition(b":")
        return (host, port) if colon else (data, None)

    def format(self, destination: Destination) -> bytes:
        """Return `host:port`; no name unless those are welcome."""
        port = checked_port(destination.port)
        if not self.names:
            _ip(destination)
        host = format_host(destination.host)
        is_bare = b":" in host and not self.brackets  # its last part would be read as a port
        if b":" in host and self.brackets:
            host = b"[%b]" % host
        return host if port == self.default_port and not is_bare else b"%b:%d" % (host, port)


@attrs.frozen
class Barred:
    """`|family|host|port|`, with any delimiter from 33 to 126 (RFC 2428 section 2).

    Attributes:
        families: the address family numbers that may be used, 1 for IPv4 and 2 for IPv6.
    """

    families: Sequence[int] = (1, 2)

    VERSIONS: ClassVar[dict[bytes, int]] = {b"1": 4, b"2": 6}
    """IP versions by address family number."""

    def version(self, family: bytes) -> int:
        """Return the IP version of an address family.

        Raises:
            FamilyError: it is none of those that may be used.
            EndpointError: it is no number at all.
        """
        if not family.isdigit():
            raise EndpointError(f"{family!r:.60} is no address family")
        if family not in self.VERSIONS or int(family) not in self.families:
            raise FamilyError(f"{family!r:.60} is none of the address families {self.families}")
        return self.VERSIONS[family]

    def parse(self, data: bytes) -> Endpoint:
        """Return the address; FamilyError for one of another family."""
        delimiter = data[:1]
        fields = data.split(delimiter, 5) if delimiter else []
        if len(fields) != 5 or fields[0] or fields[4] or not b"!" <= delimiter <= b"~":
            raise EndpointError("not of the form |family|host|port|")
        _, family, host, port, _ = fields
        version = self.version(family)
        endpoint = Endpoint(parse_host(host), parse_port(port))
        if endpoint.version != version:
            raise EndpointError(f"{endpoint.host} is not of the family {family.decode()}")
        return endpoint

    def format(self, destination: Destination) -> bytes:
        """Return the three fields between bars."""
        endpoint = _ip(destination)
        family = 1 if endpoint.version == 4 else 2
        self.version(b"%d" % family)
        return f"|{family}|{endpoint.host}|{endpoint.port}|".encode("ascii")


@attrs.frozen
class Packed:
    """The bytes of an IPv4 or IPv6 address and two more for the port.

    Attributes:
        order: of the bytes of the port; those of an address are always in network order.
    """

    order: Literal["big", "little"] = "big"

    def parse(self, data: bytes) -> Endpoint:
        """Return the address; its family is told by the length."""
        if len(data) not in {6, 18}:
            raise EndpointError(f"{len(data)} bytes are no address and port")
        address = ipaddress.ip_address(data[:-2])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            raise EndpointError(f"{address} stands for an IPv4 address")
        return Endpoint(str(address), checked_port(int.from_bytes(data[-2:], self.order)))

    def format(self, destination: Destination) -> bytes:
        """Return 6 or 18 bytes."""
        endpoint = _ip(destination)
        return endpoint.ip.packed + endpoint.port.to_bytes(2, self.order)


@attrs.frozen
class DecimalAddress:
    """`167772168 5000`: an IPv4 address as one number, IPv6 as text, and the port (IRC DCC).

    Attributes:
        separator: what stands between the two.
    """

    separator: bytes = b" "

    def parse(self, data: bytes) -> Endpoint:
        """Return the address."""
        host, separator, port = data.partition(self.separator)
        if not separator:
            raise EndpointError("not an address and a port")
        if b":" in host:
            return Endpoint(parse_host(host), parse_port(port))
        number = parse_number(host, (1 << 32) - 1)
        return Endpoint(str(ipaddress.IPv4Address(number)), parse_port(port))

    def format(self, destination: Destination) -> bytes:
        """Return the two words."""
        endpoint = _ip(destination)
        host = str(int(endpoint.ip)) if endpoint.version == 4 else endpoint.host
        return b"%b%b%d" % (host.encode("ascii"), self.separator, endpoint.port)


@attrs.frozen
class CountedHost:
    """A host or address as text, with its length before it, and then the port as a number.

    Attributes:
        length_format: of the length, for `struct`; `">h"` for Kafka.
        port_format: of the port; `">i"` for Kafka.
    """

    length_format: str = ">h"
    port_format: str = ">i"

    def size(self, data: bytes, start: int = 0) -> int:
        """Return how many bytes the host that begins at *start* and its port take.

        Raises:
            EndpointError: fewer are there, or the length is negative.
        """
        try:
            (length,) = struct.unpack_from(self.length_format, data, start)
        except struct.error:
            raise EndpointError("no length of a host") from None
        size: int = struct.calcsize(self.length_format) + length + struct.calcsize(self.port_format)
        if length < 0 or start + size > len(data):
            raise EndpointError(f"{length} bytes of a host are not there")
        return size

    def parse(self, data: bytes) -> Destination:
        """Return the address or name."""
        if self.size(data) != len(data):
            raise EndpointError("bytes are left behind a host and its port")
        host = data[struct.calcsize(self.length_format) : -struct.calcsize(self.port_format)]
        (port,) = struct.unpack(self.port_format, data[-struct.calcsize(self.port_format) :])
        return destination(parse_host(host, names=True), checked_port(port))

    def format(self, destination: Destination) -> bytes:
        """Return the length, the host and the port."""
        host = format_host(destination.host)
        try:
            length = struct.pack(self.length_format, len(host))
            return length + host + struct.pack(self.port_format, checked_port(destination.port))
        except struct.error as error:
            raise EndpointError(f"{destination} has no room here: {error}") from None
