"""Sessions of datagrams: one begins with the first datagram, and ends when there are no more."""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import attrs

from fwproxy.address import Destination, Endpoint, HostName, Transport
from fwproxy.connection.connection import Connection
from fwproxy.connection.sources import ANY_SOURCE, Source, source_towards_server
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.errors import CallError, NoServerReplyError
from fwproxy.filter import Ends
from fwproxy.flags import ConnectionFlags
from fwproxy.secondary.call import connected_udp
from fwproxy.secondary.datagrams import Destinations, Welcome, datagram_limits
from fwproxy.session.services import Service
from fwproxy.session.session import Session

if TYPE_CHECKING:
    from fwproxy.listeners.base import Listener

MAX_REFUSED = 1024
"""Refused clients and destinations that are remembered."""
REFUSAL_MEMORY = 10.0
"""Seconds until one who was refused is heard again."""


@attrs.frozen(slots=True)
class Arrived:
    """A datagram that has come to a listener.

    Attributes:
        key: what tells its session from others.
        client: who has sent it.
        near: the address that it has come to.
        destination: where it goes to.
        peer: the kernel's address of the client, where the session has a socket towards it.
    """

    key: Hashable
    client: Endpoint
    near: Endpoint
    destination: Destination
    peer: Any = None


class DatagramSessions:
    """The sessions of one listener for datagrams, or of one client of another listener.

    Args:
        listener: whose sessions they are.
        reply: sends a datagram to the client of the one that has begun a session.
        near_socket: makes a socket of its own for a session towards its client, instead.
        source_of: returns where to leave from towards the server, on behalf of a client.
        user: who has logged in.
        max_sessions: how many there may be, besides the limits for all.
        advertises_server: the client knows the proxy by its server's address.
    """

    def __init__(
        self,
        listener: Listener,
        reply: Callable[[bytes | memoryview, Arrived, Ends], object],
        *,
        near_socket: Callable[[Arrived], socket.socket] | None = None,
        source_of: Callable[[Endpoint], Source] = lambda _: ANY_SOURCE,
        user: str | None = None,
        max_sessions: int | None = None,
        advertises_server: bool = True,
    ) -> None:
        self._listener = listener
        self._reply = reply
        self._near_socket = near_socket
        self._source_of = source_of
        self._user = user
        self._max_sessions = max_sessions
        self._advertises_server = advertises_server
        self._open_ones: dict[Hashable, tuple[Connection, DatagramRelay, Ends]] = {}
        self._keys: dict[Session, Hashable] = {}
        self._resolving: dict[Hashable, deque[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open_ones) + len(self._resolving)

    def take(self, arrived: Arrived, data: bytes | memoryview) -> None:
        """Pass a datagram on; the first one of its key begins a session."""
        found = self._open_ones.get(arrived.key)
        if found is not None and not found[0].is_closed:
            _, relay, ends = found
            relay.take(arrived.peer, data, ends)
            return
        waiting = self._resolving.get(arrived.key)
        if waiting is None:
            self._first(arrived, bytes(data))
        elif len(waiting) < self._listener.engine.limits.max_waiting_datagrams:
            waiting.append(bytes(data))

    def _first(self, arrived: Arrived, data: bytes) -> None:
        limits = self._listener.engine.limits
        if self._was_refused(arrived):
            return
        if self._max_sessions is not None and len(self) >= self._max_sessions:
            self._refuse(arrived, f"{self._max_sessions} destinations already")
        elif not isinstance(arrived.destination, HostName):
            self._open(arrived, arrived.destination, [data])
        elif len(self._resolving) >= limits.max_resolutions:
            self._refuse(arrived, f"{limits.max_resolutions} names already (max_resolutions)")
        else:
            self._resolving[arrived.key] = deque([data])
            task = self._listener.engine.loop.create_task(
                self._resolve(arrived, arrived.destination)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _resolve(self, arrived: Arrived, name: HostName) -> None:
        try:
            found = await self._listener.engine.resolver.resolve(name)
        except NoServerReplyError as error:
            self._refuse(arrived, str(error))
            found = []
        finally:
            waiting = self._resolving.pop(arrived.key)
        if found:
            self._open(arrived, found[0], list(waiting))

    def _open(self, arrived: Arrived, server: Endpoint, datagrams: list[bytes]) -> None:
        listener = self._listener
        service = listener.services.find(Transport.UDP, server.port)
        refusal = listener.sessions.refusal(arrived.client.host)
        if service is None:
            refusal = "the listener's protocol is not for datagrams"
        if refusal is not None or service is None:
            self._refuse(arrived, refusal or "")
            return
        session = listener.sessions.open(listener, arrived.client, service)
        session.authenticated_user = self._user
        connection = self._connection(session, service, arrived, server)
        decision = session.decide_primary(service.protocol, server)
        if not decision.allowed:
            self._refuse(arrived, f"{server} is not allowed ({decision.rule})")
            connection.close(f"not allowed ({decision.rule})")
            return
        ends = Ends(arrived.client, server)
        try:
            session.govern_by(decision)
            source = self._source_towards(session, server)
            relay = self._relay(connection, arrived, ends, source)
        except CallError as error:
            self._refuse(arrived, str(error))
            connection.close(str(error), failed=True)
            return
        except OSError as error:
            connection.close(f"{server} cannot be spoken for: {error.strerror}", failed=True)
            return
        self._open_ones[arrived.key] = connection, relay, ends
        self._keys[session] = arrived.key
        session.share(self)
        connection.carry_datagrams(relay, listener.engine.limits.datagram_timeout)
        for data in datagrams:
            relay.take(arrived.peer, data, ends)

    def _connection(
        self, session: Session, service: Service, arrived: Arrived, server: Endpoint
    ) -> Connection:
        is_kept = self._source_of(arrived.client).is_foreign
        flags = ConnectionFlags.INTERNAL_ADDRESS_TRANSLATION
        connection = session.connection_class(
            session,
            service.protocol,
            client_address=arrived.client,
            flags=ConnectionFlags.NONE if is_kept else flags,
        )
        session.primary = connection
        connection.server_address = server
        same = server.version == arrived.client.version
        if self._advertises_server and session.advertised_host is None and same:
            session.advertised_host = server.host
        return connection

    def _source_towards(self, session: Session, server: Endpoint) -> Source:
        """Return where to leave from, as streams do; CallError if nothing fits."""
        usual = self._source_of(session.client_address)
        if usual.is_foreign:
            return usual
        return source_towards_server(session, server, usual.address)

    def _relay(
        self, connection: Connection, arrived: Arrived, ends: Ends, source: Source
    ) -> DatagramRelay:
        engine, reply = self._listener.engine, self._reply

        def open_far(_: Ends) -> socket.socket:
            return connected_udp(
                engine.poller, ends.server, source.address, foreign=source.is_foreign
            )

        return DatagramRelay(
            engine.poller,
            engine.deadlines,
            connection,
            None if self._near_socket is None else self._near_socket(arrived),
            near=arrived.near,
            reply=lambda data, _: reply(data, arrived, ends),
            open_far=open_far,
            ends_of=lambda _: ends,
            allowed=lambda host: host == arrived.client.host,
            admit=Destinations(connection).admit,
            welcome=Welcome(connection),
            replies=True,
            from_client=True,
            limits=datagram_limits(engine.limits, max_peers=1),
            on_done=connection.relay_done,
        )

    def _was_refused(self, arrived: Arrived) -> bool:
        """Tell whether it was a moment ago, so that it is not worth another thought."""
        since = self._refused.get((arrived.client.host, arrived.destination))
        now = self._listener.engine.deadlines.now()
        return since is not None and now - since < REFUSAL_MEMORY

    def _refuse(self, arrived: Arrived, reason: str) -> None:
        key = (arrived.client.host, arrived.destination)
        self._refused[key] = self._listener.engine.deadlines.now()
        self._refused.move_to_end(key)
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)
        self._listener.engine.log.warning(
            "datagram refused",
            listener=self._listener.config.name,
            client=str(arrived.client),
            server=str(arrived.destination),
            reason=reason,
        )

    def left_by(self, session: Session) -> None:
        """Forget a session that has ended."""
        key = self._keys.pop(session, None)
        found = self._open_ones.get(key)
        if found is not None and found[0].session is session:
            del self._open_ones[key]

    def stop(self) -> None:
        """Begin no more sessions."""
        for task in tuple(self._tasks):
            task.cancel()

    def end_all(self, reason: str) -> None:
        """End every session."""
        self.stop()
        for session in tuple(self._keys):
            session.end(reason)
