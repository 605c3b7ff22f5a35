"""A network that a test plays: who is at the other ends, and what the system would say."""

from __future__ import annotations

import contextlib
import enum
import errno
import itertools
import select
import socket
from collections.abc import Callable, Iterable
from typing import cast

import attrs

from fwproxy.address import Endpoint
from fwproxy.testing.loop import ManualLoop
from fwproxy.testing.peers import DatagramPeer, Peer
from fwproxy.testing.sockets import ScriptedSocket, refusal

_FIRST_DESCRIPTOR = 1_000_000
"""Far from those of the system, so that a mistake is noticed."""
_FIRST_EPHEMERAL_PORT = 50_000
_STREAM, _DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM

Arrange = Callable[[list[int]], Iterable[int]]
"""Given the descriptors that something has happened to, returns those that are to be reported now,
in their order; the others are reported later."""


class Answer(enum.Enum):
    """What happens to a connection that the proxy makes."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    SILENCE = "silence"
    """Nothing, until the test says so (`Dialled`)."""


@attrs.define(eq=False)
class Dialled:
    """A connection that the proxy makes and nobody has answered yet.

    Attributes:
        target: where to.
        source: where it comes from.
    """

    target: Endpoint
    source: Endpoint
    _network: Network
    _sock: ScriptedSocket

    def accept(self) -> Peer:
        """Answer; return the end there."""
        peer = self._network.answer(self, Answer.ACCEPT)
        self._network.loop.settle()
        assert peer is not None  # noqa: S101 - it was accepted
        return peer

    def refuse(self, code: int = errno.ECONNREFUSED) -> None:
        """Refuse, with the error number that the proxy gets."""
        self._network.answer(self, Answer.REFUSE, code)
        self._network.loop.settle()


class Network:
    """The sockets of the proxy and the ends that the test plays.

    Args:
        loop: turned after each thing that happens.
        hosts: the proxy's own addresses.
        route: tells the proxy's address that faces another one.

    Attributes:
        dials: connections of the proxy that nobody has answered.
        peers: those that were accepted, by their addresses; the last one of each.
    """

    def __init__(self, loop: ManualLoop, hosts: set[str], route: Callable[[Endpoint], str]) -> None:
        self.loop = loop
        self.epoll = ScriptedEpoll(self)
        self.dials: list[Dialled] = []
        self.peers: dict[Endpoint, Peer] = {}
        self.how: Callable[[Endpoint], Answer] = lambda _: Answer.ACCEPT
        self._hosts = hosts
        self._route = route
        self._descriptors = itertools.count(_FIRST_DESCRIPTOR)
        self._ports = itertools.count(_FIRST_EPHEMERAL_PORT)
        self._sockets: dict[int, ScriptedSocket] = {}
        self._datagram_peers: dict[Endpoint, DatagramPeer] = {}

    def __len__(self) -> int:
        return len(self._sockets)

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """Make a socket for the proxy."""
        return cast(socket.socket, ScriptedSocket(self, family, kind))

    # The ends that the test plays.

    def connect(self, target: Endpoint, source: Endpoint) -> Peer:
        """Come to a port of the proxy.

        Raises:
            ConnectionRefusedError: nobody listens there.
        """
        listener = self._listener(target)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens on {target}")
        source = source if source.port else source.with_port(next(self._ports))
        sock = ScriptedSocket(self, listener.family, listener.type)
        sock.name = target
        peer = Peer(self.loop, sock, source, target)
        sock.connected(peer, source)
        listener.arrive(sock, source)
        self.loop.settle()
        return peer

    def datagram_peer(self, address: Endpoint) -> DatagramPeer:
        """Return who sends and receives datagrams at an address."""
        if address not in self._datagram_peers:
            self._datagram_peers[address] = DatagramPeer(self.loop, self.deliver, address)
        return self._datagram_peers[address]

    def deliver(self, data: bytes, source: Endpoint, target: Endpoint) -> None:
        """Bring a datagram to the socket of the proxy that takes it, if there is one."""
        bound = [each for each in self._at(_DATAGRAM, target) if each.peer in {None, source}]
        if bound:
            max(bound, key=lambda sock: sock.peer is not None).receive_datagram(data, source)

    def carry(self, data: bytes, source: Endpoint, target: Endpoint) -> None:
        """Bring a datagram of the proxy to whoever it is for, or lose it."""
        peer = self._datagram_peers.get(target)
        if peer is not None:
            peer.receive(data, source)

    def answer(self, dialled: Dialled, how: Answer, code: int = errno.ECONNREFUSED) -> Peer | None:
        """Answer a connection of the proxy."""
        sock, target = dialled._sock, dialled.target  # noqa: SLF001 - the other half of this
        if how is Answer.SILENCE:
            return None
        self.dials.remove(dialled)
        if how is Answer.REFUSE:
            sock.fail(code)
            return None
        peer = self.peers[target] = Peer(self.loop, sock, target, dialled.source)
        sock.connected(peer, target)
        return peer

    # What the sockets ask for.

    def add(self, sock: ScriptedSocket) -> int:
        """Give a socket its descriptor."""
        fd = next(self._descriptors)
        self._sockets[fd] = sock
        return fd

    def remove(self, sock: ScriptedSocket) -> None:
        """Forget a socket that is closed."""
        fd = sock.fileno()
        del self._sockets[fd]
        self.dials = [dialled for dialled in self.dials if dialled._sock is not sock]  # noqa: SLF001
        with contextlib.suppress(KeyError):
            self.epoll.unregister(fd)

    def socket_of(self, fd: int) -> ScriptedSocket:
        """Return the socket with a descriptor."""
        return self._sockets[fd]

    def note(self, fd: int, events: int) -> None:
        """Say that something has happened to a socket."""
        self.epoll.note(fd, events)

    def bind(self, sock: ScriptedSocket, address: Endpoint) -> None:
        """Give a socket its name.

        Raises:
            OSError: as the system.
        """
        transparent = (socket.IPPROTO_IP, getattr(socket, "IP_TRANSPARENT", 19)) in sock.options
        if address.host not in self._hosts and not address.is_unspecified and not transparent:
            raise refusal(errno.EADDRNOTAVAIL)
        if not address.port:
            sock.name = address.with_port(next(self._ports))
            return
        reuse = (socket.SOL_SOCKET, socket.SO_REUSEADDR)
        for other in self._at(sock.type, address):
            both = bool(sock.options.get(reuse) and other.options.get(reuse))
            if other is not sock and (not both or other.backlog is not None):
                raise refusal(errno.EADDRINUSE)
        sock.name = address

    def check_listen(self, sock: ScriptedSocket) -> None:
        """Make sure that nobody else listens there."""
        name = sock.name
        others = () if name is None else self._at(_STREAM, name)
        if any(other is not sock and other.backlog is not None for other in others):
            raise refusal(errno.EADDRINUSE)

    def find_source(self, sock: ScriptedSocket, target: Endpoint) -> Endpoint:
        """Return the name of a socket that sends to *target*, giving it one if it has none."""
        name = sock.name
        if name is None or name.is_unspecified:
            host = self._route(target)
            name = sock.name = Endpoint(host, next(self._ports) if name is None else name.port)
        return name

    def dial(self, sock: ScriptedSocket, target: Endpoint) -> None:
        """Begin to connect."""
        dialled = Dialled(target, self.find_source(sock, target), self, sock)
        self.dials.append(dialled)
        self.answer(dialled, self.how(target))

    def _at(self, kind: int, address: Endpoint) -> list[ScriptedSocket]:
        return [
            sock
            for sock in self._sockets.values()
            if sock.type == kind and sock.far is None and _covers(sock.name, address)
        ]

    def _listener(self, address: Endpoint) -> ScriptedSocket | None:
        listening = (each for each in self._at(_STREAM, address) if each.backlog is not None)
        return next(listening, None)


def _covers(name: Endpoint | None, address: Endpoint) -> bool:
    if name is None or name.port != address.port or name.version != address.version:
        return False
    return name.host == address.host or name.is_unspecified or address.is_unspecified


class ScriptedEpoll:
    """What `select.epoll` is for the sockets of the system: edges, and levels for listeners.

    Attributes:
        arrange: what is reported first, and what only later; as it has come, unless set.
    """

    def __init__(self, network: Network) -> None:
        self.closed = False
        self.arrange: Arrange = list
        self._network = network
        self._registered: dict[int, int] = {}
        self._edges: dict[int, int] = {}

    def fileno(self) -> int:
        """Return a descriptor that no socket has."""
        return _FIRST_DESCRIPTOR - 1

    def register(self, fd: int, eventmask: int) -> None:
        """Watch a descriptor; what is ready now is reported."""
        self._registered[fd] = eventmask
        self.note(fd, self._network.socket_of(fd).ready)

    def unregister(self, fd: int) -> None:
        """Watch it no more."""
        del self._registered[fd]
        self._edges.pop(fd, None)

    def note(self, fd: int, events: int) -> None:
        """Report events of a descriptor that is watched."""
        wanted = self._registered.get(fd)
        if wanted is None:
            return
        events &= wanted | select.EPOLLERR | select.EPOLLHUP
        if events:
            self._edges[fd] = self._edges.get(fd, 0) | events
            self._network.loop.wake(self.fileno())

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:  # noqa: ARG002
        """Return what has happened since the last call."""
        found = [(fd, self._edges.pop(fd)) for fd in self.arrange(list(self._edges))]
        if self._edges:
            self._network.loop.wake(self.fileno())
        for fd, _ in found:
            if not self._registered[fd] & select.EPOLLET:
                self._network.loop.call_soon(self._level, fd)
        return found

    def _level(self, fd: int) -> None:
        if fd in self._registered:
            self.note(fd, self._network.socket_of(fd).ready)

    def close(self) -> None:
        """Report nothing any more."""
        self.closed = True
