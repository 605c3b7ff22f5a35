"""UDP: datagrams from peers at one bound socket to a target, and replies where permitted.

Each peer has a *flow* of its own: the two ends that its datagrams travel between, and a socket
towards the target, so that a reply finds its way back and nobody else's is heard there. Where
the peers have no bound socket of their own, as at a listener that serves many clients, `take` is
given their datagrams; with several targets for one client, each of those is a peer's flow.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint
from fwproxy.clock import Deadline, Deadlines
from fwproxy.datapath.base import Done, Relay
from fwproxy.datapath.datagram_chain import DatagramChain
from fwproxy.datapath.flow import MAX_DATAGRAM, Admit, DatagramLimits, Flow, Peer, Reply
from fwproxy.datapath.poll import EVERYTHING, Poller
from fwproxy.datapath.way import Way
from fwproxy.errors import AddressNotAllowedError
from fwproxy.filter import DataFilter, Ends
from fwproxy.flags import Verdict

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection

DATAGRAMS_PER_TURN = 64
"""Datagrams read from one socket before others have their turn."""


class DatagramRelay:
    """Carries datagrams between the peers of a bound socket and one target.

    Args:
        poller: where the sockets are watched.
        deadlines: for the time-outs.
        connection: the connection, for the filters.
        sock: the bound, non-blocking socket, closed by `close`; None where there is none.
        near: the address that the peers send to, where there is no bound socket.
        reply: sends a datagram to a peer, where there is no bound socket.
        open_far: makes a socket that is connected to the target of a new flow, or raises OSError.
        ends_of: tells the two ends of a peer's datagrams, given the peer's address.
        allowed: whether a host may send; asked for every new peer at the bound socket.
        admit: asked about every new peer that is allowed; None is yes.
        welcome: asked then, with a socket towards the target, before anything is passed on.
        admit_reply: asked before the first reply to a peer; None is yes.
        replies: whether datagrams of the target go back to the peers.
        from_client: whether the peers are clients.
        limits: the bounds.
        on_done: told when the relay ends by itself.

    Attributes:
        max_datagram: larger datagrams are dropped.
    """

    def __init__(
        self,
        poller: Poller,
        deadlines: Deadlines,
        connection: Connection,
        sock: socket.socket | None,
        *,
        near: Endpoint | None = None,
        reply: Reply | None = None,
        open_far: Callable[[Ends], socket.socket],
        ends_of: Callable[[Endpoint], Ends],
        allowed: Callable[[str], bool],
        welcome: Admit,
        admit: Admit | None = None,
        admit_reply: Admit | None = None,
        replies: bool,
        from_client: bool,
        limits: DatagramLimits,
        on_done: Done,
    ) -> None:
        self.sock = sock
        self.max_datagram = MAX_DATAGRAM
        self.last_active = poller.now
        self._poller = poller
        self._deadlines = deadlines
        self._connection = connection
        self._near = near
        self._reply_to = reply if sock is None else sock.sendto
        self._open_far = open_far
        self._ends_of = ends_of
        self._allowed = allowed
        self._admit = admit
        self._welcome = welcome
        self._admit_reply = admit_reply
        self._replies = replies
        self._forward_way = Way.UP if from_client else Way.DOWN
        self._reply_way = Way.DOWN if from_client else Way.UP
        self._limits = limits
        self._on_done = on_done
        self._near_fd = -1 if sock is None else sock.fileno()
        self._flows: dict[Peer, Flow] = {}
        self._by_fd: dict[int, Flow] = {}
        self._by_ends: dict[Ends, Flow] = {}
        self._counts = [0, 0]
        self._dropped = 0
        self._ended = False
        self._is_emulated = False
        self._chain: DatagramChain | None = None
        self._sweep: Deadline | None = None

    @property
    def kind(self) -> str:
        """What log and ledger call the data path."""
        return "datagram" if self._chain is None else "user"

    @property
    def client_bytes(self) -> int:
        """Bytes received from the client's side."""
        return self._counts[Way.UP]

    @property
    def server_bytes(self) -> int:
        """Bytes received from the server's side."""
        return self._counts[Way.DOWN]

    @property
    def dropped(self) -> int:
        """Datagrams that were not passed on."""
        return self._dropped + (0 if self._chain is None else self._chain.dropped)

    @property
    def peers(self) -> int:
        """Peers that have a place now."""
        return len(self._flows)

    @property
    def is_committed(self) -> bool:
        """Whether there is a socket towards the target."""
        return bool(self._by_fd)

    @property
    def internal_name(self) -> Endpoint | None:
        """The proxy's address towards the client; of the first one's if there are several."""
        return self._near_name if self._forward_way is Way.UP else self._far_name

    @property
    def external_name(self) -> Endpoint | None:
        """The proxy's address towards the server; of the first one's if there are several."""
        return self._far_name if self._forward_way is Way.UP else self._near_name

    @property
    def _near_name(self) -> Endpoint | None:
        if self._ended or self.sock is None:
            return None if self._ended else self._near
        return Endpoint.from_sockaddr(self.sock.getsockname())

    @property
    def _far_name(self) -> Endpoint | None:
        for flow in self._flows.values():
            if flow.far is not None:
                return Endpoint.from_sockaddr(flow.far.getsockname())
        return None

    def follows(self, earlier: Relay) -> None:
        """Count on where another relay of the same connection has ended."""
        self._counts = [earlier.client_bytes, earlier.server_bytes]

    def start(self) -> None:
        """Watch the bound socket."""
        if self.sock is not None:
            self._poller.watch(self._near_fd, self, EVERYTHING)
        if self._limits.max_peers > 1:
            self._sweep = self._deadlines.after(self._limits.peer_timeout, self._sweep_peers)

    def set_filters(
        self, filters: Sequence[tuple[DataFilter, object]], *, emulated: bool = False
    ) -> None:
        """Send everything through these from now on; those that were there already stay.

        Args:
            filters: each with its context, from the client to the server.
            emulated: the last one plays the server, and nothing is sent to a real one.
        """
        self._is_emulated = emulated
        if self._chain is None:
            self._chain = DatagramChain(
                self._deadlines,
                self._connection,
                leave=self._leave,
                only_way=self._only_way,
                on_failed=self._fail,
                report=self._poller.report,
                max_waiting=self._limits.max_waiting,
                max_buffer=self._limits.max_buffer,
                filter_timeout=self._limits.filter_timeout,
            )
        self._chain.set_filters(filters, emulated=emulated)

    def add_played(self, ends: Ends) -> bool:
        """Make the flow of a peer that a filter plays; False where the target cannot be had."""
        flow = self._make_flow(ends, ends)
        self._admitted(flow, Verdict.ALLOW)
        return bool(self._flows)

    def take(self, peer: Peer, data: bytes | memoryview, ends: Ends) -> None:
        """Take a datagram that has come from a peer by other means than the bound socket.

        Args:
            peer: whatever tells the flows apart, and `reply` whom to send to.
            data: the datagram; a view of a shared buffer is copied where it has to be.
            ends: the ends that it travels between.
        """
        flow = self._flows.get(peer)
        if flow is None:
            data = bytes(data)
            flow = self._new_flow(peer, ends)
        self._take(flow, data)

    def on_ready(self, fd: int, events: int) -> None:  # noqa: ARG002 - reading tells
        """Pass on what waits."""
        if fd == self._near_fd:
            self._forward()
        elif fd in self._by_fd:
            self._reply(fd)

    def on_broken(self, error: Exception) -> None:
        """End after a fault of our own."""
        self._poller.report(error)
        self._fail("internal error", None)

    # From the peers to the target.

    def _forward(self) -> None:
        scratch, sock = self._poller.scratch, self.sock
        for _ in range(DATAGRAMS_PER_TURN):
            if self._ended or sock is None:
                return
            try:
                size, peer = sock.recvfrom_into(scratch)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier reply (udp(7)): says nothing of this one
            data: bytes | memoryview = scratch[:size]
            flow = self._flows.get(peer)
            if flow is None and self._allowed(peer[0]):
                data = bytes(data)  # who is asked may have others read into the scratch buffer
                flow = self._new_flow(peer, self._ends_of(Endpoint.from_sockaddr(peer)))
            self._take(flow, data)
        self._poller.defer(self._forward)

    def _take(self, flow: Flow | None, data: bytes | memoryview) -> None:
        if flow is None or len(data) > self.max_datagram:
            self._dropped += 1
        else:
            self._note_heard(flow)
            self._enter(flow, self._forward_way, data)

    def _note_heard(self, flow: Flow) -> None:
        if self._limits.reply_timeout is not None:
            flow.heard = self._deadlines.now()

    def _new_flow(self, peer: Peer, ends: Ends) -> Flow | None:
        if len(self._flows) >= self._limits.max_peers or ends in self._by_ends:
            return None
        flow = self._make_flow(peer, ends)
        if self._admit is None:
            self._admitted(flow, Verdict.ALLOW)
        else:
            self._admit(ends, lambda verdict: self._admitted(flow, verdict))
        return self._flows.get(peer)

    def _make_flow(self, peer: Peer, ends: Ends) -> Flow:
        flow = Flow(ends, peer, self._forward_way, replies_admitted=self._admit_reply is None)
        self._flows[peer] = self._by_ends[ends] = flow
        return flow

    def _admitted(self, flow: Flow, verdict: Verdict) -> None:
        if self._flows.get(flow.peer) is not flow:
            return  # it, or everything, has ended meanwhile
        if verdict is not Verdict.DENY and self._open(flow):
            self._welcome(flow.ends, lambda verdict: self._welcomed(flow, verdict))
        else:
            self._drop_flow(flow)

    def _welcomed(self, flow: Flow, verdict: Verdict) -> None:
        if self._flows.get(flow.peer) is not flow:
            return
        if verdict is Verdict.DENY:
            self._drop_flow(flow)
        else:
            self._release(flow, self._forward_way)

    def _release(self, flow: Flow, way: Way) -> None:
        """Let the datagrams of one direction go."""
        waiting, flow.waiting[way] = flow.waiting[way], None
        for data in waiting or ():
            if self._chain is None:
                self._send(flow, way, data)
            else:
                self._chain.deliver(way, data, flow.ends)

    def _open(self, flow: Flow) -> bool:
        """Open the socket towards the target, unless a filter plays it."""
        if self._is_emulated and self._forward_way is Way.UP:
            return True
        try:
            far = self._open_far(flow.ends)
        except OSError:
            return False
        flow.far = far
        self._by_fd[far.fileno()] = flow
        self._poller.watch(far.fileno(), self, EVERYTHING)
        return True

    # From the target to the peers.

    def _reply(self, fd: int) -> None:
        flow, scratch = self._by_fd[fd], self._poller.scratch
        for _ in range(DATAGRAMS_PER_TURN):
            if flow.far is None:
                return
            try:
                size = flow.far.recv_into(scratch)
            except BlockingIOError:
                return
            except OSError:
                continue  # ICMP: the target was not there for an earlier datagram
            if size > self.max_datagram or not self._may_reply(flow):
                self._dropped += 1
                continue
            data: bytes | memoryview = scratch[:size]
            if not flow.is_asked and self._admit_reply is not None:
                flow.is_asked = True
                data = bytes(data)  # as above
                self._admit_reply(flow.ends, lambda verdict: self._reply_admitted(flow, verdict))
            self._enter(flow, self._reply_way, data)
        self._poller.defer(lambda: self._reply(fd) if self._by_fd.get(fd) is flow else None)

    def _reply_admitted(self, flow: Flow, verdict: Verdict) -> None:
        if verdict is not Verdict.DENY:
            self._release(flow, self._reply_way)
            return
        flow.is_denied = True
        self._dropped += len(flow.waiting[self._reply_way] or ())
        flow.waiting[self._reply_way] = deque()

    def _may_reply(self, flow: Flow) -> bool:
        limit = self._limits.reply_timeout
        if not self._replies or flow.is_denied:
            return False
        return limit is None or self._deadlines.now() - flow.heard <= limit

    # Both ways.

    def _enter(self, flow: Flow, way: Way, data: bytes | memoryview) -> None:
        flow.seen = True
        self.last_active = self._poller.now
        self._counts[way] += len(data)
        waiting = flow.waiting[way]
        if waiting is None:
            if self._chain is None:
                self._send(flow, way, data)
            else:
                self._chain.deliver(way, bytes(data), flow.ends)
        elif flow.is_denied or len(waiting) >= self._limits.max_waiting:
            self._dropped += 1
        else:
            waiting.append(bytes(data))

    def _send(self, flow: Flow, way: Way, data: bytes | memoryview) -> None:
        try:
            if way is self._forward_way:
                if flow.far is not None:
                    flow.far.send(data)
            elif self._reply_to is not None:
                self._reply_to(data, flow.peer)
        except OSError:  # lost, as datagrams may be
            self._dropped += 1

    def _leave(self, way: Way, data: bytes, ends: Ends) -> None:
        """Take a datagram from the chain."""
        flow = self._by_ends.get(ends)
        if flow is None or flow.waiting[way] is not None:
            raise AddressNotAllowedError(f"no datagrams travel between {ends} in this connection")
        if way is self._reply_way and not self._may_reply(flow):
            self._dropped += 1
            return
        if self.sock is None and way is self._forward_way:
            self._note_heard(flow)  # from a peer that a filter plays
        flow.seen = True
        self.last_active = self._poller.now
        self._send(flow, way, data)

    def _only_way(self) -> Ends | None:
        if len(self._flows) != 1:
            return None
        (flow,) = self._flows.values()
        return flow.ends

    def _sweep_peers(self) -> None:
        """Give the places of silent peers to others."""
        for flow in tuple(self._flows.values()):
            if not flow.seen:
                self._drop_flow(flow)
            flow.seen = False
        if self._sweep is not None:
            self._sweep.reset(self._deadlines.now() + self._limits.peer_timeout)

    def _drop_flow(self, flow: Flow) -> None:
        del self._flows[flow.peer], self._by_ends[flow.ends]
        self._dropped += sum(len(waiting) for waiting in flow.waiting if waiting)
        if flow.far is not None:
            fd = flow.far.fileno()
            del self._by_fd[fd]
            self._poller.forget(fd)
            flow.far.close()
            flow.far = None

    def _fail(self, reason: str, error: BaseException | None) -> None:
        if not self._ended:
            self.close()
            self._on_done(reason, True, error)  # noqa: FBT003 - Done

    def close(self, *, abort: bool = False) -> None:  # noqa: ARG002 - datagrams know no reset
        """Close every socket, and let the filters go; harmless when repeated."""
        if self._ended:
            return
        self._ended = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for flow in tuple(self._flows.values()):
            self._drop_flow(flow)
        if self.sock is not None:
            self._poller.forget(self._near_fd)
            self.sock.close()
        if self._chain is not None:
            self._chain.close()
