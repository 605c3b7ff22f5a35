"""The flows of a UDP connection: what belongs to one peer, and what bounds them."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from fwproxy.datapath.way import Way
from fwproxy.filter import Ends
from fwproxy.flags import Verdict

MAX_DATAGRAM = 65535
"""The largest one that there is."""

Peer = Any
"""What tells the flows of a relay apart: the kernel's address of a peer, or anything hashable."""

Reply = Callable[[bytes | memoryview, Peer], object]
"""Sends a datagram to a peer; what it returns does not matter. May raise OSError."""

Answer = Callable[[Verdict], None]
"""Told, now or later, whether datagrams may travel; anything but DENY is a yes."""

Admit = Callable[[Ends, Answer], None]
"""Asks, once for each flow, whether datagrams may travel between two ends."""


@attrs.frozen(slots=True)
class DatagramLimits:
    """What bounds a relay.

    Attributes:
        max_peers: peers at a time; 1 binds the relay to its first one (S17).
        peer_timeout: seconds after which a silent one of many peers loses its place; it may take
            twice as long.
        reply_timeout: seconds after a peer's datagram in which the target may reply to it; None
            is for ever.
        max_waiting: datagrams that may wait for a decision or a filter.
        max_buffer: bytes that may wait for a filter.
        filter_timeout: seconds that a filter's handler may take.
    """

    max_peers: int
    peer_timeout: float
    reply_timeout: float | None
    max_waiting: int
    max_buffer: int
    filter_timeout: float


class Flow:
    """What belongs to one peer.

    Attributes:
        ends: the client's end and the server's.
        peer: where replies go.
        far: the socket towards the target, once the flow is admitted.
        waiting: for each direction, datagrams until it is decided about, or None from then on.
        is_asked: whether anybody was asked about replies.
        is_denied: whether replies were.
        seen: whether there was traffic since the last look.
        heard: when the peer last sent, where that matters.
    """

    __slots__ = ("ends", "far", "heard", "is_asked", "is_denied", "peer", "seen", "waiting")

    def __init__(self, ends: Ends, peer: Peer, forward: Way, *, replies_admitted: bool) -> None:
        self.ends = ends
        self.peer = peer
        self.far: socket.socket | None = None
        self.waiting: list[deque[bytes] | None] = [None, None]
        self.waiting[forward] = deque()
        if not replies_admitted:
            self.waiting[1 - forward] = deque()
        self.is_asked = False
        self.is_denied = False
        self.seen = True
        self.heard = 0.0
