"""The order in which to try the addresses of a name: RFC 6724, as the system's resolver has it.

Of its rules for destinations, those are left out that need to know more than addresses (3, 4 and
7), and the one for the longest matching prefix (9), which would undo the order by which servers of
names share the load.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_POLICY = tuple(
    (ipaddress.IPv6Network(prefix), precedence, label)
    for prefix, precedence, label in (
        ("::1/128", 50, 0),
        ("::ffff:0:0/96", 35, 4),
        ("::/96", 1, 3),
        ("2001::/32", 5, 5),
        ("2002::/16", 30, 2),
        ("3ffe::/16", 1, 12),
        ("fec0::/10", 1, 11),
        ("fc00::/7", 3, 13),
        ("::/0", 40, 1),
    )
)
"""Prefix, precedence and label (RFC 6724 section 2.1); the first prefix that matches holds."""

_LINK_LOCAL, _SITE_LOCAL, _GLOBAL = 2, 5, 14
"""Scopes, by the numbers of RFC 4291 section 2.7."""


def source_towards(host: str) -> str | None:
    """Return the address that this computer has for packets to *host*; None without a route.

    Nothing is sent.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, 9))
            return str(sock.getsockname()[0])
    except OSError:
        return None


def in_order(
    hosts: Iterable[str], source_of: Callable[[str], str | None] = source_towards
) -> tuple[str, ...]:
    """Return addresses in the order to try them; equals stay as they are.

    Args:
        hosts: IP addresses.
        source_of: the own address for packets to one of them, or None where none leads there.
    """
    return tuple(sorted(hosts, key=lambda host: _rank(host, source_of(host))))


def _rank(host: str, source: str | None) -> tuple[bool, bool, bool, int, int]:
    target = ipaddress.ip_address(host)
    precedence, label = _policy(target)
    if source is None:
        return True, False, False, -precedence, _scope(target)
    own = ipaddress.ip_address(source.partition("%")[0])
    return (
        False,
        _scope(target) != _scope(own),
        label != _policy(own)[1],
        -precedence,
        _scope(target),
    )


def _policy(address: IpAddress) -> tuple[int, int]:
    if isinstance(address, ipaddress.IPv4Address):
        return 35, 4  # that of ::ffff:0:0/96
    return next((row[1], row[2]) for row in _POLICY if address in row[0])


def _scope(address: IpAddress) -> int:
    if address.is_loopback or address.is_link_local:
        return _LINK_LOCAL
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return _SITE_LOCAL
    return _GLOBAL
