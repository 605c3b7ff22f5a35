"""The PROXY protocol, versions 1 and 2: who the client of a load balancer is.

After "The PROXY protocol, Versions 1 & 2" of HAProxy's documentation. It is read where a listener
is told to expect it, and written where a server is.
"""

from __future__ import annotations

import ipaddress
import struct

import attrs

from fwproxy.address import Endpoint, Transport
from fwproxy.errors import InvalidArgumentError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_LINE = 107
"""Bytes of version 1, its end included."""
MAX_EXTRA = 2048
"""Bytes that may follow the fixed head of version 2: addresses, and additional values."""
MAX_SIZE = len(SIGNATURE) + 4 + MAX_EXTRA

_PREFIX = b"PROXY "
_HEAD = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_IPV4, _IPV6 = 1, 2
_TRANSPORTS = {1: Transport.TCP, 2: Transport.UDP}
_NUMBERS = {Transport.TCP: 1, Transport.UDP: 2}
_SIZES = {_IPV4: 4, _IPV6: 16}


@attrs.frozen(slots=True)
class ProxyHeader:
    """What a header says.

    Attributes:
        used: how many bytes it has.
        source: the client; None if the header speaks of nobody (LOCAL, UNKNOWN), so that the
            sender itself is the client.
        destination: the address that the client has connected to, or None.
    """

    used: int
    source: Endpoint | None = None
    destination: Endpoint | None = None


def parse(data: bytes) -> ProxyHeader | None:
    """Read a header from the beginning of *data*, or return None if more is needed.

    Raises:
        InvalidArgumentError: there is no header, or one that is wrong.
    """
    if data.startswith(_PREFIX):
        return _parse_line(data)
    if data.startswith(SIGNATURE):
        return _parse_binary(data)
    if _PREFIX.startswith(data) or SIGNATURE.startswith(data):
        return None
    raise InvalidArgumentError("the PROXY header is missing")


def _parse_line(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise InvalidArgumentError("a PROXY line that is too long")
        return None
    used = end + 2
    fields = data[:end].split(b" ")
    if fields[1] == b"UNKNOWN":
        return ProxyHeader(used)
    version = {b"TCP4": 4, b"TCP6": 6}.get(fields[1])
    if version is None or len(fields) != 6:
        raise InvalidArgumentError("a PROXY line of another form")
    source, destination = _spelled(fields[2], fields[4]), _spelled(fields[3], fields[5])
    if not _is_version(fields[2], version) or not _is_version(fields[3], version):
        raise InvalidArgumentError(f"an address in the PROXY line is not IPv{version}")
    return ProxyHeader(used, source, destination)


def _is_version(host: bytes, version: int) -> bool:
    return ipaddress.ip_address(host.decode("ascii")).version == version


def _spelled(host: bytes, port: bytes) -> Endpoint:
    if not port.isdigit() or len(port) > 5 or (port[:1] == b"0" and len(port) > 1):
        raise InvalidArgumentError(f"{port!r} is no port")
    return Endpoint(host.decode("ascii", "replace"), int(port))


def _parse_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _HEAD.size:
        return None
    _, command, kind, size = _HEAD.unpack_from(data)
    if command not in {_LOCAL, _PROXY}:
        raise InvalidArgumentError(f"{command:#x} is no version and command of the PROXY protocol")
    if size > MAX_EXTRA:
        raise InvalidArgumentError(f"a PROXY header of {size} bytes")
    used = _HEAD.size + size
    if len(data) < used:
        return None
    family, transport = kind >> 4, kind & 15
    if command == _LOCAL or family not in _SIZES or transport not in _TRANSPORTS:
        return ProxyHeader(used)  # "the receiver must ignore address information"
    width = _SIZES[family]
    if size < 2 * width + 4:
        raise InvalidArgumentError("a PROXY header without room for its addresses")
    at = _HEAD.size
    hosts = [data[at : at + width], data[at + width : at + 2 * width]]
    ports = struct.unpack_from("!HH", data, at + 2 * width)
    source, destination = (
        Endpoint(str(ipaddress.ip_address(host)), port)
        for host, port in zip(hosts, ports, strict=True)
    )
    return ProxyHeader(used, source, destination)


def write(
    version: int, source: Endpoint, destination: Endpoint, transport: Transport = Transport.TCP
) -> bytes:
    """Spell a header; with addresses of different families it speaks of nobody.

    Args:
        version: 1 or 2.
        source: the client.
        destination: what the client has connected to.
        transport: TCP, or with version 2 also UDP.
    """
    mixed = source.version != destination.version
    if version == 1:
        if mixed or transport is Transport.UDP:
            return b"PROXY UNKNOWN\r\n"
        hosts = f"{source.host} {destination.host} {source.port} {destination.port}"
        return f"PROXY TCP{source.version} {hosts}\r\n".encode("ascii")
    if mixed:
        return _HEAD.pack(SIGNATURE, _LOCAL, 0, 0)
    family = _IPV6 if source.version == 6 else _IPV4
    body = source.ip.packed + destination.ip.packed
    body += struct.pack("!HH", source.port, destination.port)
    return _HEAD.pack(SIGNATURE, _PROXY, family << 4 | _NUMBERS[transport], len(body)) + body
