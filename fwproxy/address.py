"""Addresses as they cross the layers: endpoints, named destinations, and sets of hosts."""

from __future__ import annotations

import enum
import ipaddress
import socket
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import Self

import attrs

from fwproxy.errors import InvalidArgumentError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Transport(enum.Enum):
    """What carries a connection."""

    TCP = "tcp"
    UDP = "udp"

    @property
    def socket_type(self) -> socket.SocketKind:
        """The socket type, for `socket.socket`."""
        return socket.SOCK_STREAM if self is Transport.TCP else socket.SOCK_DGRAM


@lru_cache(maxsize=8192)
def parse_ip(text: str) -> IpAddress:
    """Return the address that *text* spells; an IPv4-mapped one is the IPv4 address.

    One host must have one address here, or a rule about the one would not hold for the other.

    Raises:
        InvalidArgumentError: *text* is not an IPv4 or IPv6 address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{text!r} is not an IP address") from error
    mapped = None if address.version == 4 else address.ipv4_mapped
    return mapped or address


class Reach(enum.Enum):
    """From where a connection to an address can be made."""

    NOWHERE = "nowhere"
    """No address of one host: all zeros, or multicast."""
    HOST = "host"
    """Only from the host itself, or its own link."""
    NETWORK = "network"


@lru_cache(maxsize=8192)
def reach_of(host: str) -> Reach:
    """Tell from where a connection to *host*, an IP address, can be made."""
    address = parse_ip(host)
    if address.is_unspecified or address.is_multicast:
        return Reach.NOWHERE
    return Reach.HOST if address.is_loopback or address.is_link_local else Reach.NETWORK


def is_ip(text: str) -> bool:
    """Tell whether *text* spells an IPv4 or IPv6 address."""
    try:
        parse_ip(text)
    except InvalidArgumentError:
        return False
    return True


@lru_cache(maxsize=8192)
def _spelled(text: str) -> str:
    return str(parse_ip(text))


def _canonical_ip(text: str) -> str:
    return _spelled(text)


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise InvalidArgumentError(f"port {port} is outside 0-65535")


@attrs.frozen(slots=True)
class Endpoint:
    """An IP address and a port; port 0 means any, an all-zero address means not known or any.

    Raises:
        InvalidArgumentError: the host is no IP address, or the port is outside 0-65535.
    """

    host: str = attrs.field(converter=_canonical_ip)
    port: int = 0

    def __attrs_post_init__(self) -> None:
        _check_port(self.port)

    @classmethod
    def from_sockaddr(cls, sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Self:
        """Take an address that the kernel gave, which needs no validation."""
        made = cls.__new__(cls)
        object.__setattr__(made, "host", sockaddr[0])
        object.__setattr__(made, "port", sockaddr[1])
        return made

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `192.0.2.1:21` or `[2001:db8::1]:21`.

        Raises:
            InvalidArgumentError: *text* has another form.
        """
        host, port = split_host_port(text)
        return cls(host, port)

    @property
    def ip(self) -> IpAddress:
        """The address as an `ipaddress` object."""
        return parse_ip(self.host)

    @property
    def family(self) -> socket.AddressFamily:
        """`AF_INET` or `AF_INET6`."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.host else 4

    @property
    def is_unspecified(self) -> bool:
        """Whether the address is all zeros, that is, not known yet."""
        return self.ip.is_unspecified

    @property
    def sockaddr(self) -> tuple[str, int]:
        """The form that `bind` and `connect` take."""
        return (self.host, self.port)

    def with_port(self, port: int) -> Self:
        """Return the same address with another port."""
        _check_port(port)
        return self.from_sockaddr((self.host, port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen(slots=True)
class HostName:
    """A destination by name, resolved on the proxy's side when it is connected to."""

    host: str
    port: int = 0

    def __attrs_post_init__(self) -> None:
        _check_port(self.port)
        labels = self.host.rstrip(".").split(".")
        sound = all(0 < len(label) <= 63 and label.isprintable() for label in labels)
        if not sound or len(self.host) > 253 or any(c in self.host for c in " /:@[]\\"):
            raise InvalidArgumentError(f"{self.host!r} is not a host name")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Destination = Endpoint | HostName
"""Where a primary connection goes: an address, or a name still to be resolved."""


def split_host_port(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`; without a port take *default_port*, if there is one.

    Raises:
        InvalidArgumentError: there is no port and no default, or it is not a number.
    """
    bracket_end = text.find("]") if text.startswith("[") else -1
    if bracket_end > 0:
        host, rest = text[1:bracket_end], text[bracket_end + 1 :]
        separator, port_text = rest[:1], rest[1:]
    else:
        host, separator, port_text = text.rpartition(":")
        if not separator:
            host, port_text = text, ""
        elif ":" in host:  # an IPv6 address without brackets: its last part may be a port or not
            host = ""
    if not separator and not port_text and default_port is not None and host:
        return host, default_port
    digits = port_text.isascii() and port_text.isdigit()
    if not host or separator != ":" or not digits or len(port_text) > 5:
        raise InvalidArgumentError(f"{text!r} is not of the form host:port or [IPv6 address]:port")
    _check_port(int(port_text))
    return host, int(port_text)


def parse_destination(text: str, default_port: int | None = None) -> Destination:
    """Read an address or a name with its port.

    Raises:
        InvalidArgumentError: it is neither.
    """
    host, port = split_host_port(text, default_port)
    return Endpoint(host, port) if is_ip(host) else HostName(host, port)


_Interval = tuple[int, int]
_TOP = {4: (1 << 32) - 1, 6: (1 << 128) - 1}


def _merged(intervals: Iterable[_Interval]) -> tuple[_Interval, ...]:
    merged: list[_Interval] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _complement(intervals: tuple[_Interval, ...], top: int) -> tuple[_Interval, ...]:
    gaps, start = [], 0
    for low, high in intervals:
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    if start <= top:
        gaps.append((start, top))
    return tuple(gaps)


def _subtract(
    keep: tuple[_Interval, ...], remove: tuple[_Interval, ...], top: int
) -> tuple[_Interval, ...]:
    kept = []
    allowed = _complement(remove, top)
    i = j = 0
    while i < len(keep) and j < len(allowed):
        low, high = max(keep[i][0], allowed[j][0]), min(keep[i][1], allowed[j][1])
        if low <= high:
            kept.append((low, high))
        if keep[i][1] < allowed[j][1]:
            i += 1
        else:
            j += 1
    return tuple(kept)


@attrs.frozen(slots=True)
class IpFilter:
    """A set of hosts, IPv4 and IPv6, that may be at the remote end of a connection.

    It is a value: including and excluding return another filter, so that a copy is never needed.
    No filter (None) leaves a connection unrestricted; an empty one blocks everybody. Two filters
    are equal when they hold the same hosts. A look-up is a binary search over merged ranges.
    """

    _v4: tuple[_Interval, ...] = ()
    _v6: tuple[_Interval, ...] = ()

    @staticmethod
    @lru_cache(maxsize=1024)
    def only(*hosts: str) -> IpFilter:
        """Hold just these addresses and prefixes (`"198.51.100.9"`, `"2001:db8::/32"`)."""
        return IpFilter().include(*hosts)

    @classmethod
    def everyone(cls) -> Self:
        """Hold every IPv4 and IPv6 address, as a start for exclusions."""
        return cls(((0, _TOP[4]),), ((0, _TOP[6]),))

    def include(self, *hosts: str) -> Self:
        """Return a filter that also holds these addresses and prefixes."""
        return self._added(_intervals(hosts))

    def exclude(self, *hosts: str) -> Self:
        """Return a filter that does not hold these addresses and prefixes."""
        return self._removed(_intervals(hosts))

    def include_range(self, first: str, last: str) -> Self:
        """Return a filter that also holds the addresses from *first* to *last*."""
        return self._added([_range(first, last)])

    def exclude_range(self, first: str, last: str) -> Self:
        """Return a filter without the addresses from *first* to *last*."""
        return self._removed([_range(first, last)])

    def include_filter(self, other: IpFilter) -> Self:
        """Return the union of both."""
        return type(self)(_merged(self._v4 + other._v4), _merged(self._v6 + other._v6))

    def exclude_filter(self, other: IpFilter) -> Self:
        """Return this filter without the hosts of the other."""
        return type(self)(
            _subtract(self._v4, other._v4, _TOP[4]), _subtract(self._v6, other._v6, _TOP[6])
        )

    def is_included(self, host: str) -> bool:
        """Tell whether *host*, an IP address, may be the remote end."""
        address = parse_ip(host)
        intervals = self._v4 if address.version == 4 else self._v6
        position = bisect_right(intervals, (int(address), _TOP[6] + 1)) - 1
        return position >= 0 and int(address) <= intervals[position][1]

    def ranges(self, version: int) -> tuple[tuple[int, int], ...]:
        """Return the first and the last address, as numbers, of each range of an IP version."""
        return self._v4 if version == 4 else self._v6

    def _added(self, more: list[tuple[int, _Interval]]) -> Self:
        return self.include_filter(_filter_of(more))

    def _removed(self, fewer: list[tuple[int, _Interval]]) -> Self:
        return self.exclude_filter(_filter_of(fewer))

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)

    def __str__(self) -> str:
        parts = [_span(v, low, high) for v in (4, 6) for low, high in (self._v4, self._v6)[v == 6]]
        return ", ".join(parts) or "nobody"


def _filter_of(intervals: list[tuple[int, _Interval]]) -> IpFilter:
    return IpFilter(
        _merged(interval for version, interval in intervals if version == 4),
        _merged(interval for version, interval in intervals if version == 6),
    )


def _span(version: int, low: int, high: int) -> str:
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return str(kind(low)) if low == high else f"{kind(low)}-{kind(high)}"


def parse_prefix(text: str) -> IpNetwork:
    """Return the prefix (or the single address) that *text* spells; host bits must be zero.

    Raises:
        InvalidArgumentError: it is no prefix.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{text!r} is not an IP prefix: {error}") from error


def _intervals(hosts: Iterable[str]) -> list[tuple[int, _Interval]]:
    networks = [parse_prefix(host) for host in hosts]
    return [(n.version, (int(n.network_address), int(n.broadcast_address))) for n in networks]


def _range(first: str, last: str) -> tuple[int, _Interval]:
    low, high = parse_ip(first), parse_ip(last)
    if low.version != high.version or int(low) > int(high):
        raise InvalidArgumentError(f"{first}-{last} is not a range of one address family")
    return low.version, (int(low), int(high))
