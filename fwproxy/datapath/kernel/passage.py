"""A passage: all connections of a protocol between two prefixes, which nobody looks at."""

from __future__ import annotations

import attrs

from fwproxy.address import Transport


@attrs.frozen(slots=True)
class Passage:
    """What is let through, or is not although a wider one would let it.

    Attributes:
        version: 4 or 6.
        transport: TCP or UDP.
        ports: the servers' ports.
        source: the clients' prefix; None is everybody.
        target: the servers' prefix; None is everywhere.
        is_open: whether to let it through; otherwise it goes on to the proxy.
        is_translated: whether servers see an address of this host.
    """

    version: int
    transport: Transport
    ports: tuple[int, ...]
    source: str | None = None
    target: str | None = None
    is_open: bool = True
    is_translated: bool = True
