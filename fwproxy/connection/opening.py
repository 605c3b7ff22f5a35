"""Opening a connection: policy, filters, names and sockets, until both of its ends are there."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fwproxy.address import Destination, Endpoint, HostName
from fwproxy.connection.introduction import introduce
from fwproxy.connection.naming import host_by_name
from fwproxy.connection.sources import Source, source_towards_server
from fwproxy.datapath.dial import FAILED, Dial
from fwproxy.datapath.race import Race, alternating
from fwproxy.dispatch import dispatch
from fwproxy.errors import (
    AddressNotAvailableError,
    CallError,
    DeniedError,
    NatAddressNotAvailableError,
    NetworkUnreachableError,
    NoServerReplyError,
    NotSupportedError,
    PolicyRulesDeniedError,
    ServerRefusedError,
    ServerTimedOutError,
    ServerUnreachableError,
    TerminatingError,
)
from fwproxy.events import AcceptedConnection, ConnectTcp, Event
from fwproxy.flags import Verdict
from fwproxy.policy.policy import Decision

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection

_REASONS: dict[int, type[NoServerReplyError]] = {
    errno.ECONNREFUSED: ServerRefusedError,
    errno.EHOSTUNREACH: ServerUnreachableError,
    errno.ENETUNREACH: NetworkUnreachableError,
    errno.ETIMEDOUT: ServerTimedOutError,
}

_NOT_THERE = Decision(allowed=False, rule="not an address that its name may have")


class Opening:
    """What a TCP connection needs only until it is established.

    Each end is either accepted or dialled. Everything happens at once as long as no handler and
    no name has to be waited for, so that an ordinary connection needs no task.

    Args:
        connection: whose ends are wanted.
        source: where to leave from towards the server (S36).

    Attributes:
        screen: which addresses of the server may be connected to at all; None is every one.
        has_server: whether the server's end is there, as a socket or played by a filter.
        answer: told once what has become of it, before any byte flows; None where nobody waits
            for that.
    """

    __slots__ = (
        "_connection", "_dial", "_source", "_waiter", "_work", "answer", "has_server", "screen",
    )  # fmt: skip

    def __init__(self, connection: Connection, source: Source) -> None:
        self._connection = connection
        self._source = source
        self.has_server = False
        self._dial: Dial | Race | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._work: asyncio.Task[None] | None = None
        self.screen: Callable[[Endpoint], bool] | None = None
        self.answer: Callable[[CallError | None], None] | None = None

    def accept_client(self, sock: socket.socket, client: Endpoint) -> None:
        """Take the socket that the client has opened."""
        self._connection.client_sock = sock
        self._connection.client_address = client
        self._advance()

    def accept_server(self, sock: socket.socket, server: Endpoint) -> None:
        """Take the socket that the server has opened, and turn to the client."""
        connection = self._connection
        connection.server_sock = sock
        connection.server_address = server
        self.has_server = True
        local = Endpoint.from_sockaddr(sock.getsockname())
        self._after(AcceptedConnection(connection, server, local), local, self._advance)

    def accept_played(
        self, remote: Endpoint, local: Endpoint, carry: Callable[[], None] | None = None
    ) -> None:
        """Take a server that a filter plays, and turn to the client.

        Args:
            remote: the server.
            local: the address that it has come to.
            carry: lets datagrams flow, if it is about those.
        """
        self._connection.server_address = remote
        event = AcceptedConnection(self._connection, remote, local)
        self._after(event, local, lambda: self._play(carry or self._advance))

    def accept_without_server(self) -> None:
        """Let a filter talk with a client that has yet to name its server."""
        connection = self._connection
        self._wait_for_name()
        local = connection.internal_socket_name
        assert local is not None  # noqa: S101 - the socket was accepted a moment ago
        event = AcceptedConnection(connection, connection.client_address, local)
        self._after(event, local, connection.open_half)

    def request(self, server: Destination) -> None:
        """Ask the policy and the filters, then connect to the server."""
        connection = self._connection
        limits = connection.session.engine.limits
        connection.is_connecting()
        connection.wait(
            limits.connect_timeout,
            lambda: self.refuse(ServerTimedOutError(f"connecting to {server} took too long")),
        )
        if isinstance(server, HostName):
            self._work = connection.spawn(self._resolve(server))
        else:
            self._request([server])

    async def connect(self, server: Destination) -> None:
        """Do what `Connection.connect` says."""
        self._waiter = self._connection.session.engine.loop.create_future()
        try:
            self.request(server)
            await self._waiter
        except asyncio.CancelledError:
            if self._connection.opening is self:  # neither connected nor closed meanwhile
                self._start_over()
            raise
        finally:
            self._waiter = None

    @property
    def is_waited_for(self) -> bool:
        """Whether a filter's `connect` is under way."""
        return self._waiter is not None

    async def _resolve(self, server: HostName) -> None:
        try:
            found = await host_by_name(self._connection, server)
        except CallError as error:
            self.refuse(error)
        else:
            self._request(found)

    def _request(self, servers: list[Endpoint]) -> None:
        """Ask about the addresses, not the name: a name may point anywhere."""
        connection = self._connection
        try:
            allowed = self._allowed(servers)
        except CallError as error:
            self.refuse(error)
            return
        if connection.session.bound_filters or connection.session.factories:
            secondary = connection.is_secondary
            event = ConnectTcp(connection, allowed[0], connection.protocol, secondary)
            self._after(event, allowed[0], lambda: self._reach(allowed))
        else:
            self._dial_server(allowed)

    def _allowed(self, servers: list[Endpoint]) -> list[Endpoint]:
        """Return the addresses that one rule allows, and let the session live by it."""
        connection, rule = self._connection, _NOT_THERE
        allowed: list[Endpoint] = []
        for server in servers:
            if self.screen is not None and not self.screen(server):
                continue
            decision = connection.session.decide_primary(connection.protocol, server)
            if not allowed:
                rule = decision
            if decision.allowed and decision is rule:
                allowed.append(server)
        if not allowed:
            raise rule.denial(servers[0])
        if not connection.is_secondary:
            connection.session.govern_by(rule)
        return allowed

    def _after(self, event: Event, address: Endpoint, proceed: Callable[[], None]) -> None:
        """Tell the filters, and go on unless one says no.

        Args:
            event: what they hear.
            address: what the factories of data filters go by.
            proceed: goes on.
        """
        connection = self._connection
        connection.handling(event)
        answer = dispatch(connection.session, event)
        if isinstance(answer, Verdict):
            self._conclude(event, address, answer, proceed)
        else:
            later = self._conclude_later(event, address, answer, proceed)
            self._work = connection.spawn(later, answer)

    async def _conclude_later(
        self,
        event: Event,
        address: Endpoint,
        answer: Awaitable[Verdict],
        proceed: Callable[[], None],
    ) -> None:
        self._conclude(event, address, await answer, proceed)

    def _conclude(
        self, event: Event, address: Endpoint, verdict: Verdict, proceed: Callable[[], None]
    ) -> None:
        connection = self._connection
        connection.handling(None)
        if connection.is_closed:
            return
        if verdict is Verdict.DENY or connection.is_denied:
            self.refuse(PolicyRulesDeniedError("denied by a filter"))
        elif verdict is Verdict.EMULATE and not connection.is_emulated:
            self.refuse(NotSupportedError("a filter says EMULATE, and none plays the server"))
        elif connection.session.factories is None:
            proceed()
        else:
            try:
                connection.session.factories.attach(connection, type(event), address)
            except DeniedError as error:
                self.refuse(error)
            else:
                proceed()

    def _reach(self, servers: list[Endpoint]) -> None:
        """Connect to one of the servers, unless a filter plays it."""
        if self._connection.is_emulated:
            self._connection.server_address = servers[0]
            self._play(self._advance)
        else:
            self._dial_server(servers)

    def _play(self, carry: Callable[[], None]) -> None:
        """Go on with a filter in the server's place."""
        if self._connection.data_filters:
            self.has_server = True
            carry()
        else:
            self.refuse(NotSupportedError("no data filter plays the other side"))

    def _dial_server(self, servers: list[Endpoint]) -> None:
        """Connect to the first of the servers that answers."""
        connection = self._connection
        ways, refusal = self._ways(servers)
        if not ways:
            self.refuse(refusal or NoServerReplyError("the server has no address"))
            return
        server, source = ways[0]
        connection.server_address = server
        if len(ways) > 1:
            self._race(dict(ways))
            return

        def dialled(sock: socket.socket | None, error: OSError | None) -> None:
            self._reached(server, sock, error, source)

        self._dial_now(server, source.address, dialled, foreign=source.is_foreign)

    def _ways(
        self, servers: list[Endpoint]
    ) -> tuple[list[tuple[Endpoint, Source]], CallError | None]:
        """Return where to leave from for each server, and why one of them cannot be reached."""
        if self._source.is_foreign:
            return [(server, self._source) for server in servers], None
        ways, refusal = [], None
        session, asked = self._connection.session, self._source.address
        for server in servers:
            try:
                ways.append((server, source_towards_server(session, server, asked)))
            except CallError as error:
                refusal = error
        return ways, refusal

    def _race(self, ways: dict[Endpoint, Source]) -> None:
        """Let no address that is silent keep the client from those that answer."""
        engine = self._connection.session.engine

        def reached(server: Endpoint, sock: socket.socket | None, error: OSError | None) -> None:
            self._reached(server, sock, error, ways[server])

        race = Race(
            engine.poller,
            engine.deadlines,
            alternating(list(ways)),
            lambda server: ways[server].address,
            reached,
            delay=engine.limits.connect_attempt_delay,
            foreign=next(iter(ways.values())).is_foreign,
        )
        if not race.is_done:
            self._dial = race

    def _reached(
        self,
        server: Endpoint,
        sock: socket.socket | None,
        error: OSError | None,
        source: Source,
    ) -> None:
        """Go on with the server that has answered, or say that none has."""
        self._dial = None
        if sock is None:
            self.refuse(_unreachable(server, error, source))
            return
        connection = self._connection
        connection.server_address = server
        connection.server_sock = sock
        self.has_server = True
        if connection.session.listener.config.send_proxy:
            introduce(connection, sock)
        self._advance()

    def _turn_to_client(self) -> None:
        """Connect to the client, or wait until it comes or its address is known.

        Only that wait may be long, and only in it a server is watched that breaks off: a dial ends
        soon, and whoever carries the bytes sees then what has become of the server.
        """
        connection = self._connection
        if not connection.client_address.is_unspecified:
            self.dial_client()
        elif connection.server_sock is not None:
            poller = connection.session.engine.poller
            poller.watch(connection.server_sock.fileno(), self)

    def on_ready(self, fd: int, events: int) -> None:  # noqa: ARG002 - only one is watched
        """Notice that the server has broken the connection; its end alone may follow a file."""
        if events & FAILED and self._connection.opening is self:
            self.refuse(NoServerReplyError("the server has left before the client was there"))

    def on_broken(self, error: Exception) -> None:
        """End after a fault of our own."""
        self._connection.close(f"internal error: {error!r}", failed=True, error=error)

    def dial_client(self) -> None:
        """Connect to the client, from the address that it knows the proxy by."""
        connection = self._connection
        limits = connection.session.engine.limits
        client, source = connection.client_address, connection.client_source
        connection.is_connecting()
        connection.wait(
            limits.connect_timeout,
            lambda: self.refuse(ServerTimedOutError(f"connecting to {client} took too long")),
        )

        def dialled(sock: socket.socket | None, error: OSError | None) -> None:
            self._dial = None
            if sock is not None:
                connection.client_sock = sock
                self._advance()
            else:
                self.refuse(_unreachable(client, error, source))

        self._dial_now(client, source.address, dialled, foreign=source.is_foreign)

    def _dial_now(
        self,
        target: Endpoint,
        source: Endpoint | None,
        dialled: Callable[[socket.socket | None, OSError | None], None],
        *,
        foreign: bool = False,
    ) -> None:
        poller = self._connection.session.engine.poller
        dial = Dial(poller, target, source, dialled, foreign=foreign)
        if not dial.is_done:
            self._dial = dial

    def _advance(self) -> None:
        """Turn to the client when the server is there; let bytes flow when both are."""
        connection = self._connection
        if not self.has_server or connection.is_closed:
            return
        if connection.client_sock is None:
            if self._dial is None:
                self._turn_to_client()
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)  # wakes the filter before the server is heard
        self._tell(None)
        if not connection.is_closed:  # the one who was told may have ended it
            connection.establish()

    def _tell(self, error: CallError | None) -> None:
        """Give the answer, unless it has been given."""
        answer, self.answer = self.answer, None
        if answer is not None:
            answer(error)

    def refuse(self, error: CallError) -> None:
        """Say no to the filter that waits for a server; without one, end the connection."""
        if self._waiter is None:
            self._tell(error)
            self._connection.close(str(error), failed=True)
            return
        self._start_over()
        if not self._waiter.done():
            self._waiter.set_exception(error)

    def _start_over(self) -> None:
        """Be as before the server was named."""
        self._stop()
        self._connection.server_address = None
        self._connection.not_emulated()
        self._wait_for_name()

    def _wait_for_name(self) -> None:
        self._connection.wait(
            self._connection.session.engine.limits.handshake_timeout,
            lambda: self._connection.close("no server was named in time", failed=True),
        )

    def cancel(self) -> None:
        """Give up whatever is under way: the connection has ended."""
        self._stop()
        self._tell(TerminatingError("the connection has ended"))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TerminatingError("the connection has ended"))

    def _stop(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        work, self._work = self._work, None
        if work is not None and work is not asyncio.current_task():
            work.cancel()


def _unreachable(target: Endpoint, error: OSError | None, source: Source) -> CallError:
    if error is not None and source.address is not None:
        if error.errno == errno.EADDRNOTAVAIL:
            own = f"{source.address.host} is none of this computer's addresses"
            return NatAddressNotAvailableError(f"{target} cannot be reached: {own}")
        if error.errno == errno.EPERM and source.is_foreign:
            needs = f"to speak for {source.address.host} the process needs CAP_NET_ADMIN"
            return AddressNotAvailableError(f"{target} cannot be reached: {needs}")
    reason = "no answer" if error is None else error.strerror or str(error)
    kind = _REASONS.get(0 if error is None else error.errno or 0, NoServerReplyError)
    return kind(f"{target} cannot be reached: {reason}")
