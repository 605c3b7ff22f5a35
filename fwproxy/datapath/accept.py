"""Accepting TCP connections until told to stop, whatever the kernel says meanwhile."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable

from fwproxy.address import Endpoint
from fwproxy.clock import Deadline, Deadlines
from fwproxy.datapath.poll import Poller

MAX_WAITING = 128
"""Clients that are taken from a backlog before it is closed; more of them are too late."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Owns a listening socket and hands over what it accepts.

    Out of descriptors or memory it rests for `accept_retry` seconds instead of spinning; the
    kernel's backlog holds the clients meanwhile.

    Args:
        poller: where the socket is watched.
        deadlines: for the rest after a failure.
        sock: a listening, non-blocking socket; closed by `close`.
        on_accept: gets each non-blocking socket and the address of its peer.
        retry: seconds to rest.
        on_exhausted: told, at each rest, what the kernel said.
    """

    __slots__ = (
        "_deadlines",
        "_on_accept",
        "_on_exhausted",
        "_poller",
        "_rest",
        "_retry",
        "sock",
    )

    def __init__(
        self,
        poller: Poller,
        deadlines: Deadlines,
        sock: socket.socket,
        on_accept: Callable[[socket.socket, Endpoint], None],
        *,
        retry: float,
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        self._poller = poller
        self._deadlines = deadlines
        self.sock: socket.socket | None = sock
        self._on_accept = on_accept
        self._on_exhausted = on_exhausted
        self._retry = retry
        self._rest: Deadline | None = None
        poller.watch(sock.fileno(), self, select.EPOLLIN)

    def on_ready(self, fd: int, events: int) -> None:  # noqa: ARG002 - there is one of each
        """Accept one connection; the set, level-triggered for listeners, reports the next one."""
        self._accept()

    def take_waiting(self) -> None:
        """Accept those who have come and were not noticed yet, because nobody else may come."""
        for _ in range(MAX_WAITING):
            try:
                if not self._accept():
                    return
            except Exception as error:  # noqa: BLE001 - one connection's, and others may wait
                self.on_broken(error)

    def _accept(self) -> bool:
        """Accept one connection; False if there is none."""
        if self.sock is None:
            return False
        try:
            accepted, sockaddr = self.sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                return True  # that client has gone again (ECONNABORTED and the like, accept(2))
            if self._rest is None:
                self._rest_a_while(self.sock, error)
            return False
        accepted.settimeout(0)
        self._on_accept(accepted, Endpoint.from_sockaddr(sockaddr))
        return True

    def on_broken(self, error: Exception) -> None:
        """Report a failure of the one who was handed a connection; go on accepting."""
        self._poller.report(error)

    def _rest_a_while(self, sock: socket.socket, error: OSError) -> None:
        self._poller.unregister(sock.fileno())
        self._rest = self._deadlines.after(self._retry, self._wake)
        self._on_exhausted(error)

    def _wake(self) -> None:
        self._rest = None
        if self.sock is not None:
            self._poller.watch(self.sock.fileno(), self, select.EPOLLIN)

    def close(self) -> None:
        """Stop listening; harmless when repeated."""
        if self._rest is not None:
            self._rest.cancel()
        if self.sock is not None:
            self._poller.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None
