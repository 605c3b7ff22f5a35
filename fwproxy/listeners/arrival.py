"""Clients at the door: they have come, and have no session yet, or none any more."""

from __future__ import annotations

import select
import socket
from collections import Counter
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint
from fwproxy.datapath.base import close_socket

if TYPE_CHECKING:
    from fwproxy.listeners.base import Listener

NO_MORE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Arrivals:
    """All clients at the door, counted by address."""

    def __init__(self) -> None:
        self._all: set[Arrival] = set()
        self._by_host: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._all)

    def of(self, host: str) -> int:
        """Return how many of an address there are."""
        return self._by_host[host]

    def enter(self, arrival: Arrival) -> None:
        """Count a client."""
        self._all.add(arrival)
        self._by_host[arrival.client.host] += 1

    def leave(self, arrival: Arrival) -> None:
        """Count it no longer."""
        self._all.discard(arrival)
        host = arrival.client.host
        self._by_host[host] -= 1
        if not self._by_host[host]:
            del self._by_host[host]

    def end_all(self) -> None:
        """Turn all of them away."""
        for arrival in tuple(self._all):
            arrival.end()


class Arrival:
    """One client whose socket is watched until enough has come.

    It looks at the bytes without taking them (MSG_PEEK), so that what follows a handshake is
    still in the socket for its next owner.

    Args:
        listener: the listener that the client has come to.
        sock: the client's socket.
        client: its address.
        patience: seconds until it is turned away.

    Attributes:
        is_all: whether the client has said that no more will come.
        is_over: whether the socket has another owner, or is closed.
    """

    __slots__ = ("_deadline", "client", "is_all", "is_over", "listener", "sock")

    def __init__(
        self, listener: Listener, sock: socket.socket, client: Endpoint, patience: float
    ) -> None:
        self.listener = listener
        self.sock = sock
        self.client = client
        self.is_all = False
        self.is_over = False
        engine = listener.engine
        listener.sessions.arrivals.enter(self)
        self._deadline = engine.deadlines.after(patience, self.too_late)
        engine.poller.watch(sock.fileno(), self)

    def on_ready(self, fd: int, events: int) -> None:  # noqa: ARG002 - there is one
        """Look at what has come."""
        if events & NO_MORE:
            self.is_all = True
        if not self.is_over:
            self.look()

    def on_broken(self, error: Exception) -> None:
        """Turn the client away after a fault of our own."""
        self.listener.engine.poller.report(error)
        self.end()

    def look(self) -> None:
        """Do with the bytes what is to be done."""
        raise NotImplementedError

    def too_late(self) -> None:
        """Turn away a client that has taken too long."""
        self.refused("no complete handshake in time (handshake_timeout)")

    def refused(self, reason: str) -> None:
        """Say in the log why the client is turned away, and do it."""
        self.listener.engine.log.info(
            "client turned away",
            listener=self.listener.config.name,
            client=str(self.client),
            reason=reason,
        )
        self.end()

    def peek(self, size: int) -> bytes | None:
        """Return the bytes that have come, at most *size*; None if there are none, b"" at the end.

        Raises:
            OSError: the connection is broken.
        """
        try:
            return self.sock.recv(size, socket.MSG_PEEK)
        except BlockingIOError:
            return None

    def take(self, size: int) -> None:
        """Take bytes away that were looked at."""
        if size:
            self.sock.recv(size)

    def release(self) -> socket.socket:
        """Let go of the socket: it has another owner from now on."""
        self._leave()
        self.listener.engine.poller.unregister(self.sock.fileno())
        return self.sock

    def end(self) -> None:
        """Close the socket; harmless when repeated, or when it was let go of."""
        if not self.is_over:
            self._leave()
            self.listener.engine.poller.forget(self.sock.fileno())
            close_socket(self.sock)

    def _leave(self) -> None:
        self.is_over = True
        self._deadline.cancel()
        self.listener.sessions.arrivals.leave(self)
