"""A pinhole: one permission as the kernel enforces it."""

from __future__ import annotations

import ipaddress

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
        if self.peers is not None and len(self.peers.ranges(self.version)) > MAX_RANGES:
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
    def single_peers(self) -> list[str]:
        """The allowed peers that stand alone."""
        return [first for first, last in self._ranges() if first == last]

    @property
    def peer_ranges(self) -> list[tuple[str, str]]:
        """The allowed peers that come in ranges: first and last address."""
        return [(first, last) for first, last in self._ranges() if first != last]

    def _ranges(self) -> list[tuple[str, str]]:
        if self.peers is None:
            return []
        kind = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        return [(str(kind(low)), str(kind(high))) for low, high in self.peers.ranges(self.version)]
