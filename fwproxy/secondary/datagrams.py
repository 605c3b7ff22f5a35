"""Which datagrams of a connection may pass: its filters are asked before any does."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint
from fwproxy.config.config import Limits
from fwproxy.datapath.flow import Answer, DatagramLimits
from fwproxy.dispatch import dispatch
from fwproxy.errors import DeniedError
from fwproxy.events import UdpDestination
from fwproxy.filter import Ends
from fwproxy.flags import Verdict

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection


def datagram_limits(
    limits: Limits, *, max_peers: int, reply_timeout: float | None = None
) -> DatagramLimits:
    """Return what bounds the relay of one connection."""
    return DatagramLimits(
        max_peers=max_peers,
        peer_timeout=limits.peer_timeout,
        reply_timeout=reply_timeout,
        max_waiting=limits.max_waiting_datagrams,
        max_buffer=limits.max_buffer,
        filter_timeout=limits.filter_timeout,
    )


class Destinations:
    """The destinations that the filters of one connection have been asked about (UdpDestination).

    They are asked about one at a time, once for each as long as it is remembered.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[Endpoint, Verdict] = {}
        self._asked: dict[Endpoint, list[Answer]] = {}
        self._queue: deque[Endpoint] = deque()
        self._is_busy = False
        self._was_emulated = False

    def admit(self, ends: Ends, answer: Answer) -> None:
        """Ask whether the client's datagrams may go to the server's end."""
        session = self._connection.session
        if not session.bound_filters and session.factories is None:
            answer(Verdict.PASS)  # nobody has a say
            return
        known = self._known.get(ends.server)
        if known is not None:
            answer(known)
        elif ends.server in self._asked:
            self._asked[ends.server].append(answer)
        else:
            self._asked[ends.server] = [answer]
            self._queue.append(ends.server)
            self._ask_next()

    def _ask_next(self) -> None:
        while self._queue and not self._is_busy and not self._connection.is_closed:
            self._ask(self._queue.popleft())

    def _ask(self, destination: Endpoint) -> None:
        connection = self._connection
        event = UdpDestination(
            connection, destination, connection.protocol, connection.is_secondary
        )
        self._is_busy = True
        self._was_emulated = connection.is_emulated
        connection.handling(event)
        verdict = dispatch(connection.session, event)
        if isinstance(verdict, Verdict):
            self._conclude(destination, verdict)
        else:
            connection.spawn(self._conclude_later(destination, verdict), verdict)

    async def _conclude_later(self, destination: Endpoint, answer: Awaitable[Verdict]) -> None:
        self._conclude(destination, await answer)
        self._ask_next()

    def _conclude(self, destination: Endpoint, verdict: Verdict) -> None:
        connection = self._connection
        connection.handling(None)
        self._is_busy = False
        if connection.is_closed:
            return
        verdict = self._decide(destination, verdict)
        connection.filters_changed()
        if len(self._known) >= connection.session.engine.limits.max_destinations_per_connection:
            del self._known[next(iter(self._known))]
        self._known[destination] = verdict
        for answer in self._asked.pop(destination):
            answer(verdict)

    def _decide(self, destination: Endpoint, verdict: Verdict) -> Verdict:
        connection = self._connection
        if verdict is Verdict.DENY or (verdict is Verdict.EMULATE and not connection.is_emulated):
            if not self._was_emulated:
                connection.not_emulated()
            return Verdict.DENY
        factories = connection.session.factories
        if factories is not None:
            try:
                factories.attach(connection, UdpDestination, destination)
            except DeniedError:
                return Verdict.DENY
        return Verdict.ALLOW


class Welcome:
    """Tells the one who waits for a connection of its first flow, before anything passes (S29).

    Args:
        connection: whose datagrams they are.
        is_established: whether it has been told already.
    """

    def __init__(self, connection: Connection, *, is_established: bool = False) -> None:
        self._connection = connection
        self._waiting: list[Answer] | None = None
        self._is_established = is_established

    def __call__(self, ends: Ends, answer: Answer) -> None:
        """Answer when it has been told; those who come meanwhile wait for the same."""
        connection = self._connection
        if connection.permission is not None and connection.proxy_address is not None:
            connection.permission.uses += 1
        if self._is_established:
            answer(Verdict.ALLOW)
        elif self._waiting is not None:
            self._waiting.append(answer)
        else:
            self._waiting = [answer]
            connection.first_datagram(ends, self._established)

    def _established(self) -> None:
        self._is_established = True
        waiting, self._waiting = self._waiting or [], None
        for answer in waiting:
            answer(Verdict.ALLOW)
