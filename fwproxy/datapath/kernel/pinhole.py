"""A pinhole: one permission as the kernel enforces it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import attrs

from fwproxy.address import Endpoint, IpFilter, Transport
from fwproxy.errors import KernelPathError

MAX_RANGES = 64
"""Ranges of allowed peers in one pinhole; more of them are for user space."""

PinholeKey = tuple[Transport, str, int]
"""What no two pinholes have in common: transport, host and port that peers come to."""


@attrs.frozen(slots=True)
class Pinhole:
    """What may come through, and where it goes.

    Attributes:
        proxy_address: the address and port that peers come to.
        transport: TCP or UDP.
        target: where their connections are passed on to.
        peers: who may come; None is everybody.
        source: the address of the proxy that the target sees; None keeps the peer's own.
        is_single: whether the first packet uses it up.
        timeout: seconds until it expires when nobody has come, or None.
        is_one_way: whether the target may not answer (datagrams).

    Raises:
        KernelPathError: the kernel cannot translate so; the message says why.
    """

    proxy_address: Endpoint
    transport: Transport
    target: Endpoint
    peers: IpFilter | None = None
    source: Endpoint | None = None
    is_single: bool = True
    timeout: float | None = None
    is_one_way: bool = False

    def __attrs_post_init__(self) -> None:
        versions = {self.version, self.target.version}
        if self.source is not None:
            versions.add(self.source.version)
        if len(versions) > 1:
            raise KernelPathError("IPv4 and IPv6 are not translated into each other")
        if not self.proxy_address.port or not self.target.port or self.target.is_unspecified:
            raise KernelPathError("an end of the connection is not known yet")
        if len(self.peer_ranges) > MAX_RANGES:
            raise KernelPathError(f"more than {MAX_RANGES} ranges of peers")

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.proxy_address.version

    @property
    def key(self) -> PinholeKey:
        """What tells it from all others."""
        return self.transport, self.proxy_address.host, self.proxy_address.port

    @property
    def peer_ranges(self) -> Sequence[tuple[int, int]]:
        """The allowed peers as numbers, first and last of each range; empty also for everybody."""
        return [] if self.peers is None else self.peers.ranges(self.version)

    @property
    def only_peer(self) -> str | None:
        """The one host that may come, if there is just one."""
        ranges = self.peer_ranges
        if len(ranges) != 1 or ranges[0][0] != ranges[0][1]:
            return None
        kind = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        return str(kind(ranges[0][0]))
