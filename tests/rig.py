"""A firewall on loopback between scripted ends, for the tests of the engine.

Nothing here waits for luck: `eventually` polls for a condition, and `World.advance` moves the
clock of the deadlines by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from fwproxy import (
    Config,
    Connection,
    DataFilter,
    Destination,
    Endpoint,
    Filter,
    Firewall,
    Hooks,
    ListenerConfig,
    ListenerKind,
    ProtocolDefinition,
    Session,
    SessionFilter,
    Verdict,
)
from fwproxy.clock import Deadlines
from fwproxy.config.config import Limits, PortRange, SecondaryConfig
from fwproxy.events import ConnectTcp, Event
from fwproxy.protocol import BUILT_IN

PATIENCE = 10.0
"""Seconds until a condition that should hold soon counts as failed."""
HOST, OTHER_HOST, THIRD_HOST = "127.0.0.1", "127.0.0.2", "127.0.0.3"
PROBE_DATA = ProtocolDefinition("probe-data")
POOL = PortRange(10_000, 19_999)
"""Where the kernel takes no ports for outgoing connections, which linger in other tests' wake."""

Answer = Verdict | Awaitable[Verdict | None] | None


async def eventually(
    predicate: Callable[[], Any], what: str = "", patience: float = PATIENCE
) -> Any:
    """Wait until *predicate* holds and return what it says."""
    give_up = time.monotonic() + patience
    while not (found := predicate()):
        assert time.monotonic() < give_up, what or f"{predicate} never held"
        await asyncio.sleep(0.001)
    return found


async def turns(count: int = 20) -> None:
    """Let the loop turn, so that what is due at once has happened."""
    for _ in range(count):
        await asyncio.sleep(0)


def advance(deadlines: Deadlines, seconds: float) -> None:
    """Let time pass: from now on the wheel's clock is that much ahead of what it was."""
    before = deadlines.now
    deadlines.now = lambda: before() + seconds
    deadlines.run_due(deadlines.now())


class Peer:
    """One scripted end of a TCP connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(0)

    @classmethod
    async def connect(cls, address: Endpoint, source: str | None = None) -> Peer:
        """Connect, from a given address of this host if asked to."""
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        peer = cls(sock)
        try:
            if source is not None:
                sock.bind((source, 0))
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
        except BaseException:
            sock.close()
            raise
        return peer

    @property
    def address(self) -> Endpoint:
        return Endpoint.from_sockaddr(self.sock.getsockname())

    @property
    def remote(self) -> Endpoint:
        return Endpoint.from_sockaddr(self.sock.getpeername())

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, limit: int = 1 << 18) -> bytes:
        """Return what comes next; nothing at the end of the stream."""
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(self.sock, limit)

    async def read(self, size: int) -> bytes:
        """Return exactly *size* bytes, fewer only at the end of the stream."""
        data = b""
        while len(data) < size and (more := await self.receive(size - len(data))):
            data += more
        return data

    async def read_all(self) -> bytes:
        """Return everything up to the end of the stream."""
        pieces = []
        while more := await self.receive():
            pieces.append(more)
        return b"".join(pieces)

    async def is_cut_off(self) -> bool:
        """Tell whether the next thing to hear is a reset, after what is still on its way."""
        try:
            await self.read_all()
        except ConnectionError:
            return True
        return False

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class Upstream:
    """A listening server that a test speaks for."""

    def __init__(self, host: str = HOST, backlog: int = 64) -> None:
        self.sock = socket.socket(Endpoint(host).family, socket.SOCK_STREAM)
        self.sock.settimeout(0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, 0))
        self.sock.listen(backlog)

    @property
    def address(self) -> Endpoint:
        return Endpoint.from_sockaddr(self.sock.getsockname())

    async def accept(self) -> Peer:
        async with asyncio.timeout(PATIENCE):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        return Peer(sock)

    def close(self) -> None:
        self.sock.close()


class Mute:
    """A server that never answers a SYN: its backlog is full."""

    def __init__(self, host: str = HOST) -> None:
        self._listener = Upstream(host, backlog=0)
        self.address = self._listener.address
        self._fillers = [socket.socket() for _ in range(3)]
        for filler in self._fillers:
            filler.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self.address.sockaddr)

    def close(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._listener.close()


class Datagrams:
    """A UDP socket that a test speaks for."""

    def __init__(self, host: str = HOST) -> None:
        self.sock = socket.socket(Endpoint(host).family, socket.SOCK_DGRAM)
        self.sock.settimeout(0)
        self.sock.bind((host, 0))

    @property
    def address(self) -> Endpoint:
        return Endpoint.from_sockaddr(self.sock.getsockname())

    def send(self, data: bytes, to: Endpoint) -> None:
        self.sock.sendto(data, to.sockaddr)

    def take(self) -> tuple[bytes, Endpoint] | None:
        """Return the next datagram with its sender, or None when there is none yet."""
        try:
            data, sender = self.sock.recvfrom(65535)
        except BlockingIOError:
            return None
        return data, Endpoint.from_sockaddr(sender)

    async def receive(self) -> tuple[bytes, Endpoint]:
        found: tuple[bytes, Endpoint] = await eventually(self.take, "a datagram was expected")
        return found

    def close(self) -> None:
        self.sock.close()


def unused_endpoint(host: str = HOST) -> Endpoint:
    """Return an address where nobody listens."""
    with socket.socket(Endpoint(host).family) as sock:
        sock.bind((host, 0))
        return Endpoint.from_sockaddr(sock.getsockname())


def free_ports(count: int, align: int = 1, hosts: Sequence[str] = (HOST,)) -> PortRange:
    """Return a range of free ports that the kernel gives to nobody by itself."""
    lowest = min(28_000, 31_000 - count)
    for _ in range(1000):
        first = random.randrange(lowest // align, (32_000 - count) // align) * align
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    for host in hosts:
                        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                            sock = stack.enter_context(socket.socket(type=kind))
                            sock.bind((host, port))
            except OSError:
                continue
            return PortRange(first, first + count - 1)
    raise AssertionError("no free ports")


def make_filter(
    name: str,
    hear: Callable[[Event], Answer],
    *events: type[Event],
    associated: Sequence[type[Event]] = (),
) -> type[Filter]:
    """Make a filter whose session filters all answer with *hear*."""

    class Scripted(SessionFilter):
        def firewall_event_handler(self, event: Event) -> Answer:
            return hear(event)

    class Probe(Filter):
        def filter_init(self, firewall: Firewall) -> Hooks:
            return Hooks.on(*events, associated=associated)

        def attach_to_session(self, session: Session) -> SessionFilter:
            return Scripted(session)

    Probe.name = name
    return Probe


def attaching(*factories: Callable[[], DataFilter]) -> type[Filter]:
    """Make a filter that attaches data filters to every primary connection, in this order."""

    def hear(event: Event) -> None:
        for factory in factories:
            event.connection.attach_data_filter(factory())

    return make_filter("probe", hear, ConnectTcp)


def tagger(template: bytes) -> DataFilter:
    """Return a data filter that puts all that the two ends say, piece by piece, into a template."""

    class Tagger(DataFilter):
        def data_from_client(self, data: bytes) -> None:
            self.to_server.send(template % data)

        def data_from_server(self, data: bytes) -> None:
            self.to_client.send(template % data)

    return Tagger()


class Hearing(SessionFilter):
    """A session filter that remembers what it was told, to be passed to the session's calls."""

    def __init__(self, session: Session, answer: Answer = None) -> None:
        super().__init__(session)
        self.heard: list[Any] = []
        self.answer = answer

    def firewall_event_handler(self, event: Event) -> Answer:
        self.heard.append(event)
        return self.answer


@attrs.define
class Primary:
    """A session whose primary connection is established, with both of its ends."""

    session: Session
    client: Peer
    server: Peer

    @property
    def connection(self) -> Connection:
        assert self.session.primary is not None
        return self.session.primary


class World:
    """A running firewall, and everything that a test has opened around it."""

    def __init__(self, firewall: Firewall, upstream: Upstream) -> None:
        self.firewall = firewall
        self.upstream = upstream
        self._ends: list[Any] = [upstream]

    @property
    def engine(self) -> Any:
        return self.firewall.engine

    @property
    def address(self) -> Endpoint:
        return self.firewall.listeners["probe"].address

    @property
    def sessions(self) -> list[Session]:
        return list(self.firewall.sessions)

    def add(self, end: Any) -> Any:
        """Close *end* when the test is over."""
        self._ends.append(end)
        return end

    async def connect(self, address: Endpoint | None = None, source: str | None = None) -> Peer:
        """Connect to the listener, or to another address, as a client or a server would."""
        peer: Peer = self.add(await Peer.connect(address or self.address, source))
        return peer

    def arrive(self, address: Endpoint, source: str | None = None) -> Peer:
        """Connect before the proxy notices: until the loop turns only its kernel knows."""
        own = None if source is None else (source, 0)
        peer: Peer = self.add(Peer(socket.create_connection(address.sockaddr, PATIENCE, own)))
        return peer

    async def accept(self, upstream: Upstream | None = None) -> Peer:
        peer: Peer = self.add(await (upstream or self.upstream).accept())
        return peer

    def listen(self, host: str = HOST) -> Upstream:
        upstream: Upstream = self.add(Upstream(host))
        return upstream

    def datagrams(self, host: str = HOST) -> Datagrams:
        made: Datagrams = self.add(Datagrams(host))
        return made

    async def primary(self, source: str | None = None) -> Primary:
        """Make a session by connecting a client through the proxy to the upstream."""
        before = set(self.sessions)
        client = await self.connect(source=source)
        server = await self.accept()
        (session,) = set(self.sessions) - before
        await eventually(lambda: session.primary and session.primary.data_path)
        return Primary(session, client, server)

    async def ended(self, session: Session | None = None) -> None:
        """Wait until a session, or every session, has ended."""
        await eventually(lambda: session not in self.sessions if session else not self.sessions)

    def advance(self, seconds: float) -> None:
        """Let time pass for every deadline."""
        advance(self.engine.deadlines, seconds)

    def close_ends(self) -> None:
        for end in self._ends:
            end.close()


def leftovers(firewall: Firewall) -> dict[str, int]:
    """Return what a running firewall holds besides its listeners."""
    engine = firewall.engine
    kernel = engine.kernel
    in_kernel = kernel.path is not None  # conntrack's events, and a look now and then
    looks = in_kernel + sum(each is not None for each in (kernel._timer, kernel._postponed))
    watched = in_kernel + 2 * (kernel._watch is not None)
    counts = {
        "sessions": len(firewall.sessions),
        "permissions": len(engine.ledger),
        "ports": engine.ports.in_use,
        "pipes": engine.pipes.in_use,
        "watched descriptors": len(engine.poller) - len(firewall.listeners) - watched,
        "deadlines": len(engine.deadlines) - looks,
    }
    return {name: count for name, count in counts.items() if count}


async def assert_nothing_left(firewall: Firewall, patience: float = 1.0) -> None:
    """Make sure that no session, permission, port, pipe, watched socket or deadline is left."""
    with contextlib.suppress(AssertionError):
        await eventually(lambda: not leftovers(firewall), patience=patience)
    assert not leftovers(firewall)


def probe_config(
    filters: Sequence[str] = (),
    *,
    upstream: Destination | None = None,
    kind: ListenerKind = ListenerKind.FORWARD,
    bind: Endpoint = Endpoint(HOST),  # noqa: B008 - a frozen value
    limits: Limits | None = None,
    more: Sequence[ListenerConfig] = (),
    listener: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Config:
    """Return a configuration with a listener that is called and speaks `probe`, and *more*."""
    probe = ProtocolDefinition("probe", secondary=("probe-data",), filters=tuple(filters))
    way_in = ListenerConfig(
        "probe",
        bind,
        "probe",
        kind,
        upstream if kind is ListenerKind.FORWARD else None,
        **(listener or {}),
    )
    protocols = (*BUILT_IN, probe, PROBE_DATA)
    rest.setdefault("secondary", SecondaryConfig(POOL))
    return Config((way_in, *more), protocols=protocols, limits=limits or Limits(), **rest)


@contextlib.asynccontextmanager
async def open_world(
    *filters: type[Filter], upstream: Destination | None = None, host: str = HOST, **settings: Any
) -> AsyncIterator[World]:
    """Run a firewall in front of an upstream; afterwards nothing may be left in it."""
    server = Upstream(host)
    names = [kind.name for kind in filters]
    config = probe_config(
        names, upstream=upstream or server.address, bind=Endpoint(host), **settings
    )
    firewall = Firewall(config, filters)
    world = World(firewall, server)
    try:
        await firewall.start()
        yield world
        if firewall._engine is not None:
            world.close_ends()
            for session in world.sessions:
                session.end("the test is over", at_once=True)
            await assert_nothing_left(firewall)
    finally:
        world.close_ends()
        await firewall.stop(0)


@contextlib.contextmanager
def closing(*things: Any) -> Iterator[Any]:
    """Close sockets and the like at the end; the value is the thing, or all of several."""
    try:
        yield things[0] if len(things) == 1 else things
    finally:
        for thing in things:
            thing.close()
