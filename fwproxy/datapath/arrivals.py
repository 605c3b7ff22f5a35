"""Datagrams with the address that they were sent to, which a wildcard socket does not know."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable

from fwproxy.address import Endpoint

ANCILLARY_SIZE = 256
"""Bytes for what the kernel tells with a datagram."""

_ORIGINAL_V4, _ORIGINAL_V6 = 20, 74
"""IP_ORIGDSTADDR and IPV6_ORIGDSTADDR, from linux/in.h and linux/in6.h."""
_PKTINFO_V4, _RECVPKTINFO_V6, _PKTINFO_V6 = 8, 49, 50
"""IP_PKTINFO, IPV6_RECVPKTINFO and IPV6_PKTINFO, from the same."""

Ancillary = tuple[int, int, bytes]


def tell_original(sock: socket.socket) -> None:
    """Make the kernel tell where each datagram was sent to, also if that is another host (TPROXY).

    Raises:
        OSError: it does not.
    """
    if sock.family is socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _ORIGINAL_V6, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _ORIGINAL_V4, 1)


def tell_local(sock: socket.socket) -> None:
    """Make the kernel tell which of this host's addresses each datagram has come to.

    Raises:
        OSError: it does not.
    """
    if sock.family is socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _RECVPKTINFO_V6, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _PKTINFO_V4, 1)


def read_near(ancillary: Iterable[Ancillary], bound: Endpoint) -> Endpoint | None:
    """Return where a datagram was sent to, as far as the kernel has told.

    Args:
        ancillary: what came with the datagram.
        bound: the address that the socket is bound to, for the port.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _ORIGINAL_V4:
            port, raw = struct.unpack_from("!2xH4s", data)
            return Endpoint(socket.inet_ntoa(raw), port)
        if level == socket.IPPROTO_IPV6 and kind == _ORIGINAL_V6:
            port, raw = struct.unpack_from("!2xH4x16s", data)
            return Endpoint(str(ipaddress.IPv6Address(raw)), port)
        if level == socket.IPPROTO_IP and kind == _PKTINFO_V4:
            return Endpoint(socket.inet_ntoa(data[4:8]), bound.port)
        if level == socket.IPPROTO_IPV6 and kind == _PKTINFO_V6:
            return Endpoint(str(ipaddress.IPv6Address(data[:16])), bound.port)
    return None


def leaving_from(near: Endpoint) -> list[Ancillary]:
    """Return what makes a datagram leave from one of this host's addresses."""
    packed = near.ip.packed
    if near.version == 6:
        return [(socket.IPPROTO_IPV6, _PKTINFO_V6, packed + bytes(4))]
    return [(socket.IPPROTO_IP, _PKTINFO_V4, struct.pack("=I4s4s", 0, packed, bytes(4)))]
