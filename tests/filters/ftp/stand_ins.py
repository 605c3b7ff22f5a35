"""A control filter without sockets: what goes in is said by the test, what comes out is kept.

For random stories, which bring events about in orders that the engine would never let happen; all
other tests use the real session (`scripted`). The stand-ins count: whatever the filter opens is in
`Script.session.open` until it is used up, withdrawn or killed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from fwproxy import Destination, Endpoint, IpFilter, SecondaryFlags
from fwproxy.address_check import client_address_problem
from fwproxy.errors import AddressNotAllowedError, BufferFullError, CallError
from fwproxy.events import (
    AcceptedConnection,
    ConnectionTerminating,
    ConnectTcp,
    EstablishedConnection,
)
from fwproxy.outbound import Redirection
from fwproxy.policy import NetworkRelation
from fwproxy.protocol import FTP
from fwproxy_filters.ftp.control import ControlFilter
from fwproxy_filters.ftp.filter import FtpSession
from fwproxy_filters.ftp.settings import FtpSettings

CLIENT_V4, CLIENT_V6 = "10.0.0.8", "fd00::8"
SERVER_V4, SERVER_V6 = "192.0.2.1", "2001:db8::1"
PROXY_INSIDE = {4: "10.0.0.1", 6: "fd00::1"}
PROXY_OUTSIDE = {4: "198.51.100.1", 6: "2001:db8::99"}
FIRST_PORT = 40000
TURNS = 50
"""Turns of the loop after which a task that is not done is taken to wait for something."""


class FakeSocket:
    """Keeps what a filter sends to one side."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_ended = False
        self.is_aborted = False
        self.is_full = False
        self.urgent: list[bytes] = []

    @property
    def pending(self) -> int:
        return 0

    def send(self, data: bytes, *, urgent: bool = False) -> None:
        if self.is_full:
            raise BufferFullError("the test says so")
        if not self.is_ended:
            self.data += data
            if urgent:
                self.urgent.append(data)

    def half_close(self) -> None:
        self.is_ended = True

    def abort(self) -> None:
        self.is_aborted = True

    def take(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data


class FakeAction:
    """A permission of `redirect_connections`."""

    def __init__(self, session: FakeSession, target: Any, context: Any) -> None:
        self.session = session
        self.target = target
        self.context = context
        self.is_active = True
        self.uses = 0
        session.open.add(self)

    def cancel(self, reason: str = "cancelled") -> bool:
        was_active, self.is_active = self.is_active, False
        self.session.open.discard(self)
        return was_active

    def come(self) -> FakeData:
        """The client connects; the server is dialled."""
        assert self.is_active, "the port is closed"
        self.uses += 1
        self.cancel("used")
        if isinstance(self.target, FakeData):
            self.target.client_is_there = True
            return self.target
        data = FakeData(self.session, self.session.client_address, self.context)
        data.server_address = self.target
        self.session.hear(ConnectTcp(data, self.target, FTP, is_secondary=True))
        return data


class FakeData:
    """A data connection, from the first thought of it to its end."""

    is_secondary = True

    def __init__(self, session: FakeSession, client: Endpoint, context: Any) -> None:
        self.session = session
        self.client_address = client
        self.server_address: Endpoint | None = None
        self.proxy_address: Endpoint | None = None
        self.context = context
        self.client_is_there = False
        self.is_established = False
        self.is_closed = False
        session.open.add(self)
        session.data.append(self)

    def server_comes(self) -> None:
        assert not self.is_closed, "the port is closed"
        self.server_address = self.session.server_address

    def established(self) -> None:
        """Both ends are there; an established connection is nobody's permission any more."""
        assert self.server_address is not None
        self.is_established = True
        self.session.open.discard(self)
        event = EstablishedConnection(self, self.client_address, self.server_address, self.context)
        self.session.hear(event)

    def close(self, reason: str = "closed", *, failed: bool = False) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.session.open.discard(self)
            self.session.hear(ConnectionTerminating(self, reason, failed))

    def kill(self, reason: str = "killed") -> None:
        self.close(reason, failed=True)


class FakeSession:
    """Says yes to everything that the real one would allow, and writes it down.

    Attributes:
        calls: name and arguments of every call, in order.
        open: permissions and unfinished connections.
        data: data connections, in the order in which they were thought of.
        actions: permissions of `redirect_connections`, the same.
        refusals: errors to raise, by the name of the call.
        gate: where calls wait, if there is one.
    """

    id = 1
    client_binds = ()

    def __init__(self, client: Endpoint, server: Endpoint) -> None:
        self.client_address = client
        self.server_address = server
        self.calls: list[tuple[Any, ...]] = []
        self.open: set[Any] = set()
        self.data: list[FakeData] = []
        self.actions: list[FakeAction] = []
        self.refusals: dict[str, CallError] = {}
        self.gate: asyncio.Event | None = None
        self.hear: Callable[[Any], Any] = lambda event: None
        self._ports = itertools.count(FIRST_PORT)

    async def _called(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if self.gate is not None:
            await self.gate.wait()
        if name in self.refusals:
            raise self.refusals[name]

    @property
    def connections(self) -> set[FakeData]:
        return {data for data in self.data if not data.is_closed}

    def check_client_addresses(
        self, clients: Sequence[Endpoint], flags: SecondaryFlags = SecondaryFlags.NONE
    ) -> None:
        for client in clients:
            problem = client_address_problem(self, client, flags)  # type: ignore[arg-type]
            if problem:
                raise AddressNotAllowedError(problem)

    def relation_to_server(self, host: str) -> NetworkRelation:
        return NetworkRelation.ROUTE

    async def bind_for_client(
        self,
        client_addresses: Sequence[Endpoint],
        *,
        proxy_address: Endpoint,
        flags: SecondaryFlags,
        ip_filter: IpFilter,
        context: Any,
        **rest: Any,
    ) -> list[FakeData]:
        self.check_client_addresses(client_addresses, flags)
        await self._called("bind", *client_addresses)
        assert ip_filter == IpFilter.only(self.server_address.host)
        assert SecondaryFlags.TIMEOUT in flags
        (client,) = client_addresses
        data = FakeData(self, client, context)
        data.proxy_address = proxy_address.with_port(next(self._ports))
        return [data]

    async def redirect_connections(
        self, targets: Sequence[Any], *, flags: SecondaryFlags, context: Any, **rest: Any
    ) -> Redirection:
        (target,) = targets
        joins = isinstance(target, FakeData)
        await self._called("redirect", target.proxy_address if joins else target)
        assert flags == SecondaryFlags.TIMEOUT
        action = FakeAction(self, target, context)
        self.actions.append(action)
        inside = PROXY_INSIDE[self.client_address.version]
        return Redirection(Endpoint(inside, next(self._ports)), (action,))  # type: ignore[arg-type]

    async def connect_for_client(
        self, client_address: Endpoint, server_address: Endpoint, *, context: Any, **rest: Any
    ) -> FakeData:
        await self._called("connect", client_address, server_address)
        data = FakeData(self, client_address, context)
        self.hear(ConnectTcp(data, server_address, FTP, is_secondary=True))
        data.server_address = server_address
        return data


class FakeControl:
    """The control connection."""

    context = None
    is_secondary = False

    def __init__(self, script: Script, server: Endpoint | None) -> None:
        self._script = script
        self.client_address = script.session.client_address
        self.server_address = server
        self.filter: Any = None
        self.refusal: CallError | None = None
        self.connects: list[Destination] = []

    @property
    def external_socket_name(self) -> Endpoint:
        assert self.server_address is not None
        return Endpoint(PROXY_OUTSIDE[self.server_address.version], 34567)

    def attach_data_filter(self, data_filter: Any) -> None:
        self.filter = data_filter

    async def connect(self, server: Destination) -> None:
        self.connects.append(server)
        if self._script.session.gate is not None:
            await self._script.session.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.server_address = self._script.session.server_address


class Script:
    """Feeds one control filter, as a relay would, on a loop of its own."""

    def __init__(
        self,
        client: str = CLIENT_V4,
        server: str = SERVER_V4,
        *,
        gateway: bool = False,
        greeted: bool = True,
        patience: float = 10.0,
        **settings: Any,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        server_address = Endpoint(server, 21)
        self.session = FakeSession(Endpoint(client), server_address)
        self.connection = FakeControl(self, None if gateway else server_address)
        owner = FtpSession(self.session, FtpSettings(**settings), 8192, patience)  # type: ignore[arg-type]
        self.session.hear = owner.firewall_event_handler
        if gateway:
            event: Any = AcceptedConnection(self.connection, Endpoint(client), Endpoint(client))  # type: ignore[arg-type]
        else:
            event = ConnectTcp(self.connection, server_address, FTP)  # type: ignore[arg-type]
        owner.firewall_event_handler(event)
        self.owner = owner
        self.control: ControlFilter = self.connection.filter
        self.client_side, self.server_side = FakeSocket(), FakeSocket()
        self._tasks: list[asyncio.Future[None] | None] = [None, None]
        self._queues: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self._error: BaseException | None = None
        self.control.set_sockets(self.client_side, self.server_side, self.connection, None)  # type: ignore[arg-type]
        if greeted and not gateway:
            self.server(b"220 Ready\r\n")
            assert self.heard() == b"220 Ready\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.end()
            if kind is None:
                assert not self.session.open, "something was left open"
        finally:
            self.loop.close()

    # What the two ends say.

    def client(self, *pieces: bytes) -> Self:
        for piece in pieces:
            self._deliver(0, piece)
        return self

    def server(self, *pieces: bytes) -> Self:
        for piece in pieces:
            self._deliver(1, piece)
        return self

    def client_ends(self) -> None:
        self._deliver(0, b"")

    def server_ends(self) -> None:
        self._deliver(1, b"")

    def heard(self) -> bytes:
        """Return what the client has got since the last call."""
        return self.client_side.take()

    def got(self) -> bytes:
        """Return what the server has got since the last call."""
        return self.server_side.take()

    def ask(self, line: bytes, reply: bytes) -> bytes:
        """Let the client say *line* and the server *reply*; return what the client hears."""
        self.client(line + b"\r\n").server(reply)
        return self.heard()

    @property
    def is_waiting(self) -> bool:
        """Whether a handler waits for something."""
        return any(task is not None for task in self._tasks)

    @property
    def has_hung_up(self) -> bool:
        return self.client_side.is_ended and self.server_side.is_ended

    @property
    def is_in_step(self) -> bool:
        """Whether a reply of the filter's own is sent at once: no reply is waited for."""
        self.client(b"LPSV\r\n")
        return self.heard() == b"502 LPSV cannot work through a proxy\r\n"

    def end(self) -> None:
        """The relay ends: handlers are cancelled, the filter is let go."""
        for task in self._tasks:
            if task is not None:
                task.cancel()
        self.control.detach()
        for queue in self._queues:
            queue.clear()
        self._turn()

    def open_gate(self) -> None:
        """Let the calls that wait go on."""
        assert self.session.gate is not None
        self.session.gate.set()
        self._turn()

    def wait(self) -> None:
        """Wait until no handler waits any more."""

        async def wait() -> None:
            async with asyncio.timeout(5):
                while tasks := [task for task in self._tasks if task is not None]:
                    await asyncio.wait(tasks)

        self.loop.run_until_complete(wait())
        self._raise()

    # The relay.

    def _deliver(self, way: int, piece: bytes) -> None:
        if self._tasks[way] is not None:
            self._queues[way].append(piece)
        else:
            self._handle(way, piece)
        self._turn()

    def _handle(self, way: int, piece: bytes) -> None:
        if piece:
            handler = (self.control.data_from_client, self.control.data_from_server)[way]
            work = handler(piece)
        else:
            work = (self.control.end_from_client, self.control.end_from_server)[way]()
        if work is not None:
            task = asyncio.ensure_future(work, loop=self.loop)
            self._tasks[way] = task
            task.add_done_callback(lambda done: self._handled(way, done))

    def _handled(self, way: int, task: asyncio.Future[None]) -> None:
        self._tasks[way] = None
        if not task.cancelled() and task.exception() is not None:
            self._error = task.exception()
            return
        while self._queues[way] and self._tasks[way] is None:
            self._handle(way, self._queues[way].popleft())

    def _turn(self) -> None:
        for _ in range(TURNS):
            if not self.is_waiting:
                break
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
