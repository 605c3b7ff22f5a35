"""A connection: one flow through the proxy, which exists before its sockets do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fwproxy.address import Endpoint, IpFilter, Transport
from fwproxy.clock import Deadline
from fwproxy.connection.calls import ConnectionCalls
from fwproxy.connection.carrying import put_filters, stream_relay
from fwproxy.connection.facts import Attached, ConnectionState, EmulatedBind
from fwproxy.connection.opening import Opening
from fwproxy.connection.sources import ANY_SOURCE, Source, source_towards_client
from fwproxy.datapath.base import Relay, close_socket
from fwproxy.datapath.choice import UNDECIDED
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.datapath.flow import MAX_DATAGRAM
from fwproxy.datapath.kernel.flow import KernelFlow
from fwproxy.datapath.user import FilterRelay
from fwproxy.dispatch import begin, dispatch, in_time
from fwproxy.events import ConnectionTerminating, EstablishedConnection, Event
from fwproxy.filter import FAULTS, Ends, SessionFilter
from fwproxy.flags import ConnectionFlags, SecondaryFlags, Verdict
from fwproxy.ledger.ledger import FirewallAction
from fwproxy.protocol import ProtocolDefinition

if TYPE_CHECKING:
    from fwproxy.session.session import Session

__all__ = ["Connection", "ConnectionState"]

_SECONDARY = ConnectionFlags.SECONDARY.value


class Connection(ConnectionCalls):
    """One flow between a client and a server.

    What a filter may know and call is in `ConnectionFacts` and `ConnectionCalls`; the life cycle
    here is for the engine only.
    """

    __slots__ = (
        "__weakref__", "_deadline", "_session_filter", "_tasks",
    )  # fmt: skip

    def __init__(
        self,
        session: Session,
        protocol: ProtocolDefinition,
        *,
        client_address: Endpoint,
        flags: ConnectionFlags = ConnectionFlags.NONE,
        source: Source = ANY_SOURCE,
        ip_filter: IpFilter | None = None,
        secondary_flags: SecondaryFlags = SecondaryFlags.NONE,
        session_filter: SessionFilter | None = None,
        context: object = None,
    ) -> None:
        engine = session.engine
        self.id = next(engine.connection_numbers)
        self.session = session
        self.protocol = protocol
        self.transport: Transport = protocol.transport
        self.client_address = client_address
        self.server_address: Endpoint | None = None
        self.proxy_address: Endpoint | None = None
        self.permission: FirewallAction | None = None
        self.context = context
        self.state = ConnectionState.NEW
        self.close_reason: str | None = None
        self.started = engine.poller.now
        self.client_sock: socket.socket | None = None
        self.server_sock: socket.socket | None = None
        self.opening: Opening | None = Opening(self, source)
        self._flags = flags
        self._is_secondary = bool(flags.value & _SECONDARY)
        self._ip_filter = ip_filter
        self._secondary_flags = secondary_flags
        self._session_filter = session_filter
        self._relay: Relay | None = None
        self.choice = UNDECIDED
        self.data_filters: list[Attached] | None = None
        self.emulated_bind: EmulatedBind | None = None
        self.heard_by = ""
        self.max_datagram = MAX_DATAGRAM
        self._is_emulated = False
        self._handling: type[Event] | None = None
        self._denied = False
        self._tasks: set[asyncio.Task[None]] | None = None
        self._deadline: Deadline | None = None
        session.connections.add(self)
        if session.usages:
            session.count_connection(1)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.protocol.name} {self.state.value}>"

    @property
    def client_source(self) -> Source:
        """What the client sees as the source, now that it is known who has connected."""
        return source_towards_client(
            self.session, self.client_address, self.server_address, self._secondary_flags
        )

    def handling(self, event: Event | None) -> None:
        """Note which event the filters are hearing of, for the calls that depend on it."""
        self._handling = None if event is None else type(event)

    def not_emulated(self) -> None:
        """Forget the filter that was to play a server which was denied."""
        if self._is_emulated and self.emulated_bind is None and self.data_filters:
            self._is_emulated = False
            self.data_filters.pop()

    def shows_client(self, shown: bool) -> None:  # noqa: FBT001 - what the name asks
        """Note whether its server sees the client's address instead of the proxy's (S26)."""
        full = ConnectionFlags.INTERNAL_ADDRESS_TRANSLATION
        self._flags = self._flags & ~full if shown else self._flags | full

    def is_connecting(self) -> None:
        """Note that an end is being dialled, unless bytes flow on the other one already."""
        if self.state is not ConnectionState.CLOSED:
            self.state = ConnectionState.CONNECTING

    def bind(self, proxy_address: Endpoint, action: FirewallAction) -> None:
        """Note the port that waits for the peer and the permission that stands for it."""
        self.proxy_address = proxy_address
        self.permission = action
        self.state = ConnectionState.BOUND

    def open_half(self) -> None:
        """Let the filters talk with the client while there is no server yet."""
        if self.data_filters:
            self._carry()
        else:
            self.close("no filter asks the client for a server", failed=True)

    def establish(self) -> None:
        """Let bytes flow: both sockets are there."""
        self.state = ConnectionState.ESTABLISHED
        self.opening = None
        self.wait(self.session.engine.limits.idle_timeout, self._idle)
        if self._session_filter is None:
            self._carry()
        else:
            self._notify_established(self._carry)

    def _carry(self) -> None:
        if self._relay is None:
            self._relay = stream_relay(self)
            self._relay.start()
        else:
            self.session.engine.loop.call_soon(self._attach_server)

    def _attach_server(self) -> None:
        """Let the server be heard, now that the filter which waited for it knows."""
        if not isinstance(self._relay, FilterRelay) or self.is_closed:
            return
        if self.server_sock is not None:
            self._relay.attach_server(self.server_sock)
        elif self.data_filters:
            player = self.data_filters[-1]
            self._relay.attach_player(player.data_filter, player.context)

    def _notify_established(self, proceed: Callable[[], None]) -> None:
        """Tell the filter that asked for the connection; no byte passes before it has heard."""
        assert self._session_filter is not None  # noqa: S101 - looked at by the caller
        assert self.server_address is not None  # noqa: S101 - established
        event = EstablishedConnection(self, self.client_address, self.server_address, self.context)
        try:
            answer = self._session_filter.firewall_event_handler(event)
            if answer is not None and not isinstance(answer, Verdict):
                handler = begin(answer)
                self.spawn(self._established_later(handler, proceed), handler)
                return
        except FAULTS as error:  # a filter that raises ends its connection
            self._filter_failed(error)
            return
        self._heard_established(answer, proceed)

    async def _established_later(
        self, handler: asyncio.Future[Verdict | None], proceed: Callable[[], None]
    ) -> None:
        try:
            verdict = await in_time(handler, self.session.engine.limits.filter_timeout)
        except FAULTS as error:  # as above
            self._filter_failed(error)
        else:
            self._heard_established(verdict, proceed)

    def _heard_established(self, verdict: Verdict | None, proceed: Callable[[], None]) -> None:
        if verdict is Verdict.DENY:
            self.close("denied by a filter", failed=True)
        elif not self.is_closed:
            proceed()

    def _filter_failed(self, error: BaseException) -> None:
        self.close(f"filter failed: {type(error).__name__}: {error}", failed=True, error=error)

    def carry_in_kernel(self, flow: KernelFlow, ends: Ends) -> None:
        """Let the kernel carry the bytes; it is established when both ends have spoken."""
        flow.from_client = flow.peer == ends.client
        flow.on_done = self.relay_done
        if self.opening is not None:
            self.opening.cancel()
            self.opening = None
        if self.transport is Transport.UDP:
            self._carry_datagrams_in_kernel(flow, ends)
            return
        self._relay = flow
        self.client_address, self.server_address = ends.client, ends.server
        self.is_connecting()
        flow.established = self.establish
        self.wait(
            self.session.engine.limits.connect_timeout,
            lambda: self.close("no answer", failed=True),
        )

    def _carry_datagrams_in_kernel(self, flow: KernelFlow, ends: Ends) -> None:
        if self.kernel_flow is None:
            flow.established = lambda: self.first_datagram(ends, flow.start)
        else:
            flow.follows(self.kernel_flow)
        self._relay = flow

    def expect_datagrams(self, idle_timeout: float | None) -> None:
        """Wait for datagrams that the kernel carries; without a time-out until killed."""
        self.opening = None
        if idle_timeout is not None:
            self.wait(idle_timeout, lambda: self._datagrams_idle(idle_timeout))

    def carry_datagrams(self, relay: DatagramRelay, idle_timeout: float | None) -> None:
        """Let datagrams flow; without a time-out until killed (S19, S20)."""
        self._relay = relay
        self.opening = None
        relay.max_datagram = self.max_datagram
        if idle_timeout is not None:
            self.wait(idle_timeout, lambda: self._datagrams_idle(idle_timeout))
        self.filters_changed()
        if not self.is_closed:
            relay.start()

    def carry_by(self, relay: Relay, idle_timeout: float) -> None:
        """Leave the work to a relay that is none between two ends; it owns no socket of these."""
        self._relay = relay
        self.opening = None
        self.state = ConnectionState.ESTABLISHED
        self.wait(idle_timeout, lambda: self._datagrams_idle(idle_timeout))
        relay.start()

    def _datagrams_idle(self, idle_timeout: float) -> None:
        is_primary = self is self.session.primary  # its secondaries may do all the work
        due = (self.session.last_active if is_primary else self.last_active) + idle_timeout
        if self._deadline is not None and due > self.session.engine.deadlines.now():
            self._deadline.reset(due)
        else:
            self.close("idle")

    def first_datagram(self, ends: Ends, proceed: Callable[[], None]) -> None:
        """Note the two ends of the first flow, and go on when that has been heard of."""
        self.client_address, self.server_address = ends.client, ends.server
        self.state = ConnectionState.ESTABLISHED
        if self._session_filter is None:
            proceed()
        else:
            self._notify_established(proceed)

    def filters_changed(self) -> None:
        """Send the datagrams through the data filters that have been attached meanwhile."""
        if isinstance(self._relay, DatagramRelay) and self.data_filters:
            put_filters(self, self._relay)

    def relay_done(self, reason: str, broken: bool, error: BaseException | None) -> None:  # noqa: FBT001 - Done
        """Hear that the relay has ended by itself."""
        self.close(reason, failed=broken, error=error)

    def spawn(
        self, work: Coroutine[Any, Any, None], awaited: asyncio.Future[Any] | None = None
    ) -> asyncio.Task[None]:
        """Run something that ends with the connection.

        Args:
            work: a coroutine.
            awaited: what it waits for, which ends with it also when it has not even begun.
        """
        task = self.session.engine.loop.create_task(work)
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        if awaited is not None:
            task.add_done_callback(lambda _: awaited.cancel())
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if self._tasks is not None:
            self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.close(f"internal error: {error!r}", failed=True, error=error)

    def wait(self, seconds: float, callback: Callable[[], None]) -> None:
        """Set the time-out for the present state, instead of the one before."""
        deadlines = self.session.engine.deadlines
        if self._deadline is None:
            self._deadline = deadlines.after(seconds, callback)
        else:
            self._deadline.callback = callback
            self._deadline.reset(deadlines.now() + seconds)

    def _idle(self) -> None:
        engine = self.session.engine
        due = self.session.last_active + engine.limits.idle_timeout
        if due <= engine.deadlines.now():
            reason = "idle for too long (idle_timeout)"
            if self is self.session.primary:  # the others are as idle: nobody would finish
                for other in self.session.connections - {self}:
                    other.close(reason, failed=True)
            self.close(reason, failed=True)
        elif self._deadline is not None:
            self._deadline.reset(due)

    def drain(self, seconds: float) -> None:
        """Give an established secondary some time to finish; end it otherwise."""
        reason = "its session has ended"
        established = self.state is ConnectionState.ESTABLISHED
        if established and seconds > 0 and self.transport is Transport.TCP:
            self.wait(seconds, lambda: self.close(reason, failed=True))
        else:
            self.close(reason, failed=established)

    def close(
        self, reason: str, *, failed: bool = False, error: BaseException | None = None
    ) -> None:
        """End the connection and everything that belongs to it; harmless when repeated.

        Args:
            reason: why, for log, ledger and filters.
            failed: it could not be made or it broke; the peers see a reset.
            error: an error of our own or of a filter, logged with its traceback.
        """
        if self.is_closed:
            return
        self.state = ConnectionState.CLOSED
        self.close_reason = reason
        # One end alone must not hear an end: it would be that of an empty stream.
        self._release(abort=failed or self.opening is not None)
        if self.permission is not None:
            self.permission.carried(self)
            if self.proxy_address is not None:
                self.permission.cancel(reason)  # the bound one goes; others may share theirs
        if self.session.session_filters:
            heard = dispatch(self.session, ConnectionTerminating(self, reason, failed))
            if not isinstance(heard, Verdict):
                self.session.hear_out(heard)
        self._log_end(error)
        self.data_filters = None
        self._session_filter = None
        self.session.remove_connection(self, reason)

    def _release(self, *, abort: bool) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self.opening is not None:
            self.opening.cancel()
            self.opening = None
        if self._tasks is not None:
            for task in tuple(self._tasks):
                task.cancel()
        if self._relay is not None:
            self._relay.close(abort=abort)
        for sock in (self.client_sock, self.server_sock):
            if sock is not None and sock.fileno() >= 0:
                self.session.engine.poller.forget(sock.fileno())
                close_socket(sock, abort=abort)

    def _log_end(self, error: BaseException | None) -> None:
        session, relay = self.session, self._relay
        log = session.engine.log
        used = relay is not None or self is session.primary
        say = log.error if error is not None else (log.info if used else log.debug)
        say(
            "connection closed",
            session=session.id,
            connection=self.id,
            permission=None if self.permission is None else self.permission.id,
            listener=session.listener_name,
            protocol=self.protocol.name,
            client=str(self.client_address),
            server=None if self.server_address is None else str(self.server_address),
            path=None if relay is None else relay.kind,
            why=None if relay is None else self.choice.reason,
            client_bytes=0 if relay is None else relay.client_bytes,
            server_bytes=0 if relay is None else relay.server_bytes,
            seconds=round(session.engine.poller.now - self.started, 3),
            reason=self.close_reason,
            **({"exc_info": error} if error is not None else {}),
        )
