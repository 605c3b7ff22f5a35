"""Addresses as they cross the layers: endpoints, named destinations, and sets of hosts."""

from __future__ import annotations

import enum
import ipaddress
import operator
import socket
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Self

import attrs

from fwproxy.errors import InvalidArgumentError
from fwproxy.intervals import Bounds, combine, ranges_of, union_of

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


@lru_cache(maxsize=8192)
def is_loopback(host: str) -> bool:
    """Tell whether *host*, an IP address, leads back to the host itself."""
    return parse_ip(host).is_loopback


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
        if port != 0:
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


_V6 = 1 << 32
"""Where the IPv6 addresses begin among the numbers of all addresses: after the IPv4 ones."""
_END = _V6 + (1 << 128)


class Comparison(enum.Enum):
    """How the hosts of one filter stand to those of another."""

    EQUAL = "equal"
    SUBSET = "subset"
    """The other one has all of them, and more."""
    SUPERSET = "superset"
    """It has all of the other one's, and more."""
    OVERLAPPING = "overlapping"
    DISJOINT = "disjoint"


@attrs.frozen(slots=True)
class IpFilter:
    """A set of hosts, IPv4 and IPv6, that may be at the remote end of a connection.

    It is a value: including and excluding return another filter, so that a copy is never needed.
    No filter (None) leaves a connection unrestricted; an empty one blocks everybody. Two filters
    are equal when they hold the same hosts, and `<=` tells whether one's hosts are all in the
    other. A look-up is one binary search, however many prefixes there are.
    """

    _bounds: Bounds = ()

    @staticmethod
    @lru_cache(maxsize=1024)
    def only(*hosts: str) -> IpFilter:
        """Hold just these addresses and prefixes (`"198.51.100.9"`, `"2001:db8::/32"`)."""
        return IpFilter().include(*hosts)

    @classmethod
    def everyone(cls) -> Self:
        """Hold every IPv4 and IPv6 address, as a start for exclusions."""
        return cls((0, _END))

    @classmethod
    def of_numbers(cls, bounds: Bounds) -> Self:
        """Hold the hosts of these `number_of`, as a set of `fwproxy.intervals`."""
        return cls(bounds)

    def include(self, *hosts: str) -> Self:
        """Return a filter that also holds these addresses and prefixes."""
        return self._with(union_of(map(prefix_numbers, hosts)), operator.or_)

    def exclude(self, *hosts: str) -> Self:
        """Return a filter that does not hold these addresses and prefixes."""
        return self._with(union_of(map(prefix_numbers, hosts)), operator.gt)

    def include_range(self, first: str, last: str) -> Self:
        """Return a filter that also holds the addresses from *first* to *last*."""
        return self._with(_range(first, last), operator.or_)

    def exclude_range(self, first: str, last: str) -> Self:
        """Return a filter without the addresses from *first* to *last*."""
        return self._with(_range(first, last), operator.gt)

    def include_filter(self, other: IpFilter) -> Self:
        """Return the union of both."""
        return self._with(other._bounds, operator.or_)

    def exclude_filter(self, other: IpFilter) -> Self:
        """Return this filter without the hosts of the other."""
        return self._with(other._bounds, operator.gt)

    def intersect(self, other: IpFilter) -> Self:
        """Return the hosts that are in both."""
        return self._with(other._bounds, operator.and_)

    def clone(self) -> Self:
        """Return a filter that holds the same hosts: itself, because nothing can change it."""
        return self

    def is_included(self, host: str) -> bool:
        """Tell whether *host*, an IP address, may be the remote end."""
        return bisect_right(self._bounds, number_of(host)) & 1 == 1

    def ranges(self, version: int) -> tuple[tuple[int, int], ...]:
        """Return the first and the last address, as numbers, of each range of an IP version."""
        base = 0 if version == 4 else _V6
        found = ((low, end) for low, end in self._ranges() if (low < _V6) == (version == 4))
        return tuple((low - base, end - 1 - base) for low, end in found)

    def compare(self, other: IpFilter) -> Comparison:
        """Tell how its hosts stand to those of the other one."""
        if self == other:
            return Comparison.EQUAL
        if self <= other:
            return Comparison.SUBSET
        if other <= self:
            return Comparison.SUPERSET
        return Comparison.OVERLAPPING if self.intersect(other) else Comparison.DISJOINT

    def __le__(self, other: IpFilter) -> bool:
        return not self.exclude_filter(other)

    def _with(self, bounds: Bounds, keep: Callable[[int, int], int]) -> Self:
        return type(self)(combine(self._bounds, bounds, keep))

    def __bool__(self) -> bool:
        return bool(self._bounds)

    def __str__(self) -> str:
        return ", ".join(self.spans()) or "nobody"

    def spans(self) -> list[str]:
        """Return its addresses and ranges in words, IPv4 first."""
        return [_span(low, end) for low, end in self._ranges()]

    def _ranges(self) -> Iterator[tuple[int, int]]:
        for low, end in ranges_of(self._bounds):
            if low < _V6 < end:
                yield from ((low, _V6), (_V6, end))
            else:
                yield low, end


@lru_cache(maxsize=8192)
def number_of(host: str) -> int:
    """Return the number of an IP address among all addresses, IPv4 before IPv6."""
    try:  # as the kernel spells addresses, which costs a third
        return int.from_bytes(socket.inet_pton(socket.AF_INET, host), "big")
    except (OSError, ValueError):
        address = parse_ip(host)
    return int(address) if address.version == 4 else _V6 + int(address)


def _span(low: int, end: int) -> str:
    first, last = _address(low), _address(end - 1)
    return str(first) if first == last else f"{first}-{last}"


def _address(number: int) -> IpAddress:
    if number < _V6:
        return ipaddress.IPv4Address(number)
    return ipaddress.IPv6Address(number - _V6)


def parse_prefix(text: str) -> IpNetwork:
    """Return the prefix (or the single address) that *text* spells; host bits must be zero.

    Raises:
        InvalidArgumentError: it is no prefix.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{text!r} is not an IP prefix: {error}") from error


def prefix_numbers(text: str) -> tuple[int, int]:
    """Return the numbers of a prefix's addresses, from the first to before the second one.

    One of IPv4-mapped addresses holds nobody: those are the IPv4 addresses, as `parse_ip` has it.

    Raises:
        InvalidArgumentError: it is no prefix.
    """
    host, slash, length = text.partition("/")
    if not slash:
        number = number_of(host)
        return number, number + 1
    if (
        ":" not in host and length.isascii() and length.isdigit() and int(length) <= 32
    ):  # makes no objects
        number, size = number_of(host), 1 << (32 - int(length))
        if not number % size:
            return number, number + size
    prefix = parse_prefix(text)
    low = int(prefix.network_address)
    if prefix.version == 4:
        return low, low + (1 << (32 - prefix.prefixlen))
    return _V6 + low, _V6 + low + (1 << (128 - prefix.prefixlen))


def _range(first: str, last: str) -> Bounds:
    low, high = number_of(first), number_of(last)
    if low > high or low < _V6 <= high:
        raise InvalidArgumentError(f"{first}-{last} is not a range of one address family")
    return low, high + 1
