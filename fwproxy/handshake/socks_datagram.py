"""The head of each datagram between a SOCKS 5 client and the proxy (RFC 1928 section 7).

::

    RSV(2) FRAG ATYP DST.ADDR DST.PORT(2) data
"""

from __future__ import annotations

import attrs

from fwproxy.address import Destination, Endpoint
from fwproxy.errors import InvalidArgumentError
from fwproxy.handshake.socks5 import KINDS, address_size, read_address, write_address

MAX_HEAD = 3 + 1 + 1 + 255 + 2


@attrs.frozen(slots=True)
class SocksDatagram:
    """A datagram without its head, and where it goes to."""

    destination: Destination
    data: bytes


def parse(datagram: bytes) -> SocksDatagram:
    """Take the head off.

    Raises:
        InvalidArgumentError: the head is wrong, or it is one of several fragments, which RFC 1928
            lets an implementation drop.
    """
    if len(datagram) < 5:
        raise InvalidArgumentError("a datagram without a head")
    if datagram[2]:
        raise InvalidArgumentError("a fragment")
    if datagram[:2] != b"\0\0" or datagram[3] not in KINDS:
        raise InvalidArgumentError("a wrong head")
    end = 4 + address_size(datagram, 3)
    if len(datagram) < end:
        raise InvalidArgumentError("an incomplete head")
    return SocksDatagram(read_address(datagram, 3), datagram[end:])


def head(source: Endpoint) -> bytes:
    """Return the head of a datagram to the client that has come from *source*."""
    return b"\0\0\0" + write_address(source)
