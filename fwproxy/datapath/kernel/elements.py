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


def elements(pinhole: Pinhole, seconds: float) -> Iterator[Element]:
    """Yield what makes a pinhole, but for the source that its target sees.

    Args:
        pinhole: which.
        seconds: how long it stays when nobody renews it.

    Raises:
        KernelPathError: an address has a scope.
    """
    version, target = pinhole.version, pinhole.target
    key, expiry = _place(pinhole), _expiry(seconds)
    value = attribute(_VALUE, attribute(_PLAIN, _host(target) + _PORT.pack(target.port)))
    yield Element(f"targets{version}", _key(key), value + expiry)
    if not pinhole.is_single:
        yield Element(f"lasting{version}", _key(key), expiry)
    if pinhole.peers is None:
        yield Element(f"open{version}", _key(key), expiry)
    for host in pinhole.single_peers:
        yield Element(f"peers{version}", _key(_packed(host) + key), expiry)
    for first, last in pinhole.peer_ranges:
        ends = _key(_packed(first) + key), attribute(_KEY_END, _plain(_packed(last) + key))
        yield Element(f"ranges{version}", b"".join(ends), expiry)


def use(pinhole: Pinhole) -> Element:
    """Return what says that a pinhole for one connection is used up."""
    return Element(f"used{pinhole.version}", _key(_place(pinhole)))


def shared(pinhole: Pinhole) -> Iterator[Element]:
    """Yield what several pinholes with the same target have in common.

    That is the source address that the target sees, and whether it may answer.
    """
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


def _place(pinhole: Pinhole) -> bytes:
    """Return transport, address and port where peers come to a pinhole."""
    address = pinhole.proxy_address
    return _number(pinhole.transport) + _host(address) + _PORT.pack(address.port)


def _host(end: Endpoint) -> bytes:
    return _packed(end.host)


def _packed(host: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError as error:
        raise KernelPathError(f"{host} is no address that is translated") from error


def _number(transport: Transport) -> bytes:
    return bytes((_NUMBERS[transport], 0, 0, 0))


def _plain(value: bytes) -> bytes:
    return attribute(_PLAIN, value)


def _key(value: bytes) -> bytes:
    return attribute(_KEY, attribute(_PLAIN, value))


def _expiry(seconds: float) -> bytes:
    return attribute(_TIMEOUT, max(int(seconds * 1000), 1).to_bytes(8, "big"))
