"""The elements of one pinhole in the sets of fwproxy's table, packed as the kernel keeps them.

A key of several parts has each of them in big-endian order, filled up to four bytes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import attrs

from fwproxy.address import Endpoint, Transport
from fwproxy.datapath.kernel.messages import NESTED, attribute
from fwproxy.datapath.kernel.pinhole import Pinhole
from fwproxy.errors import KernelPathError

Five = tuple[Transport, Endpoint, Endpoint]
"""Transport, source and destination of packets."""

_KEY, _VALUE, _TIMEOUT, _KEY_END = 1 | NESTED, 2 | NESTED, 4, 10 | NESTED
"""NFTA_SET_ELEM_*."""
_PLAIN = 1
"""NFTA_DATA_VALUE."""
_NUMBERS = {Transport.TCP: socket.IPPROTO_TCP, Transport.UDP: socket.IPPROTO_UDP}
_SIZES = {4: 4, 6: 16}
_PORT = struct.Struct(">H2x")


@attrs.frozen(slots=True)
class Element:
    """What is in one set.

    Attributes:
        where: the set.
        key: what tells it from all others there, packed.
        rest: its value and its time-out, packed.
    """

    where: str
    key: bytes
    rest: bytes = b""


@attrs.frozen(slots=True)
class PackedPinhole:
    """A pinhole as the kernel has it.

    Attributes:
        own: what makes it.
        shared: what it needs and others with the same target have too: the source that the target
            sees, and whether it may answer.
        use: what says that it is used up, unless it lasts for many.
        is_lasting: whether it has no time-out of its own.
    """

    own: tuple[Element, ...]
    shared: tuple[Element, ...]
    use: Element | None
    is_lasting: bool

    @property
    def all(self) -> Iterator[Element]:
        """What may be there only because of this pinhole."""
        yield from self.own
        if self.use is not None:
            yield self.use


def packed(pinhole: Pinhole, lease: float) -> PackedPinhole:
    """Pack a pinhole.

    Args:
        pinhole: which.
        lease: seconds for which it stays when it has no time-out and nobody renews it.

    Raises:
        KernelPathError: an address has a scope.
    """
    version, proxy = pinhole.version, pinhole.proxy_address
    place = _number(pinhole.transport) + _host(proxy) + _PORT.pack(proxy.port)
    own = tuple(_own(pinhole, place, _expiry(pinhole.timeout or lease)))
    use = Element(f"used{version}", _key(place)) if pinhole.is_single else None
    return PackedPinhole(own, tuple(_shared(pinhole)), use, pinhole.timeout is None)


def _own(pinhole: Pinhole, place: bytes, expiry: bytes) -> Iterator[Element]:
    version, target, key = pinhole.version, pinhole.target, _key(place)
    value = attribute(_VALUE, _plain(_host(target) + _PORT.pack(target.port)))
    yield Element(f"targets{version}", key, value + expiry)
    if not pinhole.is_single:
        yield Element(f"lasting{version}", key, expiry)
    if pinhole.peers is None:
        yield Element(f"open{version}", key, expiry)
    for first, last in pinhole.peer_ranges:
        low, high = (number.to_bytes(_SIZES[version], "big") for number in (first, last))
        if low == high:
            yield Element(f"peers{version}", _key(low + place), expiry)
        else:
            ends = _key(low + place) + attribute(_KEY_END, _plain(high + place))
            yield Element(f"ranges{version}", ends, expiry)


def _shared(pinhole: Pinhole) -> Iterator[Element]:
    proxy, target = _host(pinhole.proxy_address), pinhole.target
    far = _host(target) + _PORT.pack(target.port)
    if pinhole.source is not None:
        value = attribute(_VALUE, _plain(_host(pinhole.source)))
        key = _key(proxy + _number(pinhole.transport) + far)
        yield Element(f"sources{pinhole.version}", key, value)
    if pinhole.is_one_way:
        yield Element(f"mute{pinhole.version}", _key(proxy + far))


def kill(five: Five, seconds: float) -> Element:
    """Return what refuses packets of a connection that conntrack is to forget."""
    transport, *ends = five
    key = b"".join(_host(end) + _PORT.pack(end.port) for end in ends)
    return Element(f"killed{ends[0].version}", _key(key + _number(transport)), _expiry(seconds))


def _host(end: Endpoint) -> bytes:
    try:
        return socket.inet_pton(end.family, end.host)
    except OSError as error:
        raise KernelPathError(f"{end.host} is not translated") from error


def _number(transport: Transport) -> bytes:
    return bytes((_NUMBERS[transport], 0, 0, 0))


def _plain(value: bytes) -> bytes:
    return attribute(_PLAIN, value)


def _key(value: bytes) -> bytes:
    return attribute(_KEY, _plain(value))


def _expiry(seconds: float) -> bytes:
    return attribute(_TIMEOUT, max(int(seconds * 1000), 1).to_bytes(8, "big"))
