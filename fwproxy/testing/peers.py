"""The ends that a test plays: clients, servers, and whoever else comes or is connected to."""

from __future__ import annotations

import errno
from collections.abc import Callable

from fwproxy.address import Endpoint
from fwproxy.testing.loop import ManualLoop
from fwproxy.testing.sockets import ScriptedSocket


class Peer:
    """One end of a TCP connection, whose other end is the proxy's.

    Whatever it does is handled before the call returns.

    Attributes:
        address: its own address.
        remote: the proxy's, as this end sees it.
        urgent: pieces of which the last byte came as urgent data.
        has_ended: the proxy sends no more.
        is_reset: the proxy has broken the connection.
        room: bytes that it will still take, or None: without limit. See `stall`.
    """

    def __init__(
        self, loop: ManualLoop, sock: ScriptedSocket, address: Endpoint, remote: Endpoint
    ) -> None:
        self.address = address
        self.remote = remote
        self.urgent: list[bytes] = []
        self.has_ended = False
        self.is_reset = False
        self.room: int | None = None
        self._loop = loop
        self._sock = sock
        self._received = bytearray()

    def __repr__(self) -> str:
        return f"<Peer {self.address} of {self.remote}>"

    def send(self, *pieces: bytes) -> None:
        """Send bytes; each piece arrives by itself, unless the proxy is not reading."""
        for piece in pieces:
            if piece and not self._sock.receive(piece):
                self.is_reset = True
            self._loop.settle()

    def end(self) -> None:
        """Say that no more bytes follow; what comes is still taken."""
        if self._sock.fileno() >= 0:
            self._sock.receive_end()
        self._loop.settle()

    def reset(self) -> None:
        """Break the connection."""
        if self._sock.fileno() >= 0:
            self._sock.fail(errno.ECONNRESET)
        self._loop.settle()

    def take(self) -> bytes:
        """Return what has arrived since the last call."""
        data = bytes(self._received)
        self._received.clear()
        return data

    @property
    def received(self) -> bytes:
        """What has arrived and not been taken."""
        return bytes(self._received)

    @property
    def is_gone(self) -> bool:
        """Whether nothing can be said to the proxy any more."""
        return self._sock.fileno() < 0

    def stall(self, room: int = 0) -> None:
        """Read no more than *room* further bytes: the proxy has to keep the rest."""
        self.room = room

    def read_on(self) -> None:
        """Read everything again."""
        self.room = None
        if self._sock.fileno() >= 0:
            self._sock.writable()
        self._loop.settle()

    # What the socket tells.

    def takes(self, data: bytes, *, urgent: bool) -> int:
        """Take as many bytes as there is room for."""
        if self.room is not None:
            data = data[: self.room]
            self.room -= len(data)
        self._received += data
        if urgent and data:
            self.urgent.append(data)
        return len(data)

    def is_told_the_end(self) -> None:
        """Note the end of the proxy's stream."""
        self.has_ended = True

    def is_cut_off(self) -> None:
        """Note a reset."""
        self.is_reset = True


class DatagramPeer:
    """Somebody who sends and receives datagrams at one address."""

    def __init__(
        self,
        loop: ManualLoop,
        deliver: Callable[[bytes, Endpoint, Endpoint], None],
        address: Endpoint,
    ) -> None:
        self.address = address
        self._loop = loop
        self._deliver = deliver
        self._received: list[tuple[bytes, Endpoint]] = []

    def send(self, data: bytes, target: Endpoint) -> None:
        """Send a datagram to an address of the proxy."""
        self._deliver(data, self.address, target)
        self._loop.settle()

    def take(self) -> list[tuple[bytes, Endpoint]]:
        """Return the datagrams since the last call, each with the address it came from."""
        received, self._received = self._received, []
        return received

    def receive(self, data: bytes, source: Endpoint) -> None:
        """Take a datagram of the proxy."""
        self._received.append((data, source))
