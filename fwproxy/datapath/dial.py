"""Connecting a TCP socket without waiting."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable

from fwproxy.address import Endpoint
from fwproxy.datapath.base import close_socket
from fwproxy.datapath.poll import READABLE, Poller
from fwproxy.ports.sockets import make_transparent, set_up_stream

IP_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)

FAILED = select.EPOLLERR | select.EPOLLHUP

Dialled = Callable[[socket.socket | None, OSError | None], None]
"""Gets the connected socket, still watched by the poller, or the reason why there is none."""


class Dial:
    """One attempt to connect, from now until `on_done` is called or `cancel`.

    Args:
        poller: where the socket is watched; it stays watched for its next owner.
        target: where to.
        source: the local address to leave from; port 0 means any.
        foreign: whether the source is the address of another host.
        on_done: called exactly once, perhaps before the constructor returns, never after
            `cancel`.
    """

    __slots__ = ("_on_done", "_poller", "_sock")

    def __init__(
        self,
        poller: Poller,
        target: Endpoint,
        source: Endpoint | None,
        on_done: Dialled,
        *,
        foreign: bool = False,
    ) -> None:
        self._poller = poller
        self._on_done = on_done
        self._sock: socket.socket | None = None
        try:
            sock = poller.open_socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._sock = _connecting(sock, target, source, foreign=foreign)
            poller.watch(self._sock.fileno(), self)
        except OSError as error:
            self._fail(error)

    @property
    def is_done(self) -> bool:
        """Whether it has succeeded, failed or been cancelled."""
        return self._sock is None

    def on_ready(self, fd: int, events: int) -> None:
        """Look whether the connection stands."""
        sock = self._sock
        if sock is None:
            return
        if events & FAILED:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._fail(OSError(code, os.strerror(code)))
                return
        elif not events & select.EPOLLOUT:
            return
        self._sock = None
        if not events & READABLE:
            self._poller.quiet_fd = fd
        try:
            self._on_done(sock, None)
        finally:
            self._poller.quiet_fd = -1

    def on_broken(self, error: Exception) -> None:
        """The one who got the socket failed: nothing is left here."""
        self.cancel()
        self._poller.report(error)

    def cancel(self, *, abort: bool = True) -> None:
        """Give up; harmless when it is done.

        The peer may have answered already, and nobody have noticed. For it an end would be the
        end of all that there was to send, unless *abort* makes it a reset.
        """
        sock, self._sock = self._sock, None
        if sock is not None:
            self._poller.forget(sock.fileno())
            close_socket(sock, abort=abort)

    def _fail(self, error: OSError) -> None:
        self.cancel()
        self._on_done(None, error)


def _connecting(
    sock: socket.socket, target: Endpoint, source: Endpoint | None, *, foreign: bool
) -> socket.socket:
    try:
        set_up_stream(sock, target)
        if foreign:
            make_transparent(sock)
        if source is not None:
            if source.port == 0:  # let connect choose the port: one per destination, not per host
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(source.sockaddr)
        try:  # noqa: SIM105 - every connection passes here, and a context manager costs more
            sock.connect(target.sockaddr)
        except BlockingIOError:  # EINPROGRESS
            pass
    except BaseException:
        sock.close()
        raise
    return sock
