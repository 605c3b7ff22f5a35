"""UDP: datagrams from peers at one bound socket to one target, and replies where permitted."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from fwproxy.address import Endpoint
from fwproxy.datapath.base import Done
from fwproxy.datapath.poll import EVERYTHING, Poller

DATAGRAMS_PER_TURN = 64
"""Datagrams read from one socket before others have their turn."""

_Peer = tuple[str, int]


class DatagramRelay:
    """Carries datagrams between the peers of a bound socket and one target.

    Each peer gets a socket of its own towards the target, so that a reply finds its way back.

    Args:
        poller: where the sockets are watched.
        sock: the bound, non-blocking socket; closed by `close`.
        open_far: makes a socket for a peer that is connected to the target, or raises OSError.
        allowed: whether a host may send; asked for every new peer.
        replies: whether datagrams of the target go back to the peers.
        max_peers: peers at a time; 1 binds the relay to its first one (S17).
        from_client: whether the peers are clients, for the counters.
        on_first: told the first peer, before anything is passed on; False refuses it.
        on_done: told when the relay ends by itself.
    """

    kind = "datagram"

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        *,
        open_far: Callable[[Endpoint], socket.socket],
        allowed: Callable[[str], bool],
        replies: bool,
        max_peers: int,
        from_client: bool,
        on_first: Callable[[Endpoint], bool],
        on_done: Done,
    ) -> None:
        self._poller = poller
        self.sock = sock
        self._open_far = open_far
        self._allowed = allowed
        self._replies = replies
        self._max_peers = max_peers
        self._from_client = from_client
        self._on_first = on_first
        self._on_done = on_done
        self._far: dict[_Peer, socket.socket] = {}
        self._peers: dict[int, _Peer] = {}
        self._forward_bytes = 0
        self._reply_bytes = 0
        self._ended = False
        self.last_active = poller.now
        self.dropped = 0

    @property
    def client_bytes(self) -> int:
        """Bytes received from the client's side."""
        return self._forward_bytes if self._from_client else self._reply_bytes

    @property
    def server_bytes(self) -> int:
        """Bytes received from the server's side."""
        return self._reply_bytes if self._from_client else self._forward_bytes

    def start(self) -> None:
        """Watch the bound socket."""
        self._poller.watch(self.sock.fileno(), self, EVERYTHING)

    def on_ready(self, fd: int, events: int) -> None:  # noqa: ARG002 - reading tells
        """Pass on what waits."""
        if fd == self.sock.fileno():
            self._forward()
        elif fd in self._peers:
            self._reply(fd)

    def on_broken(self, error: Exception) -> None:
        """End after a fault of our own."""
        self._poller.report(error)
        self._end("internal error")

    def _forward(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            if self._ended:
                return
            try:
                data, peer = self.sock.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier reply (udp(7)): says nothing of this one
            far = self._far.get(peer[:2]) or self._new_peer(peer[:2])
            if far is None:
                self.dropped += 1
                continue
            self.last_active = self._poller.now
            self._forward_bytes += len(data)
            with contextlib.suppress(OSError):  # lost, as datagrams may be
                far.send(data)
        self._poller.defer(self._forward)

    def _new_peer(self, peer: _Peer) -> socket.socket | None:
        if len(self._far) >= self._max_peers or not self._allowed(peer[0]):
            return None
        source = Endpoint.from_sockaddr(peer)
        try:
            far = self._open_far(source)
        except OSError:
            return None
        if not self._far and not self._on_first(source):
            far.close()
            return None
        self._far[peer] = far
        self._peers[far.fileno()] = peer
        self._poller.watch(far.fileno(), self, EVERYTHING)
        return far

    def _reply(self, fd: int) -> None:
        peer = self._peers[fd]
        far = self._far[peer]
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data = far.recv(65535)
            except BlockingIOError:
                return
            except OSError:
                continue  # ICMP: the target was not there for an earlier datagram
            if not self._replies:
                self.dropped += 1
                continue
            self.last_active = self._poller.now
            self._reply_bytes += len(data)
            with contextlib.suppress(OSError):
                self.sock.sendto(data, peer)
        self._poller.defer(lambda: self._reply(fd) if fd in self._peers else None)

    def _end(self, reason: str) -> None:
        if not self._ended:
            self.close()
            self._on_done(reason, True, None)  # noqa: FBT003 - Done

    def close(self, *, abort: bool = False) -> None:  # noqa: ARG002 - datagrams know no reset
        """Close every socket; harmless when repeated."""
        if self._ended:
            return
        self._ended = True
        for sock in (self.sock, *self._far.values()):
            self._poller.forget(sock.fileno())
            sock.close()
        self._far.clear()
        self._peers.clear()
