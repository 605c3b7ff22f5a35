"""Sockets that lead to a test instead of the system: what the engine calls, with its errors."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, Self

from fwproxy.address import Endpoint

if TYPE_CHECKING:
    from fwproxy.testing.network import Network

_RESET = struct.pack("ii", 1, 0)
_ENDED = select.EPOLLIN | select.EPOLLRDHUP
_BROKEN = _ENDED | select.EPOLLERR | select.EPOLLHUP
_NO_BYTES = b""


def refusal(code: int) -> OSError:
    """Return the error that the system raises for an error number."""
    return OSError(code, os.strerror(code))


class FarEnd(Protocol):
    """Who is at the other end of a stream socket."""

    def takes(self, data: bytes, *, urgent: bool) -> int:
        """Take bytes; return how many."""

    def is_told_the_end(self) -> None:
        """Hear that no more bytes come."""

    def is_cut_off(self) -> None:
        """Hear a reset."""


class ScriptedSocket:
    """One socket of the proxy.

    Attributes:
        backlog: what `listen` was called with, or None.
        options: what `setsockopt` was called with.
    """

    def __init__(self, network: Network, family: int, kind: int) -> None:
        self.family = socket.AddressFamily(family)
        self.type = socket.SocketKind(kind & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC))
        self.backlog: int | None = None
        self.options: dict[tuple[int, int], Any] = {}
        self.name: Endpoint | None = None
        self.peer: Endpoint | None = None
        self.far: FarEnd | None = None
        self._network = network
        self._fd = network.add(self)
        self._arrivals: deque[tuple[ScriptedSocket, Endpoint]] = deque()
        self._bytes = bytearray()
        self._datagrams: deque[tuple[bytes, Endpoint]] = deque()
        self._has_ended = False
        self._is_shut = False
        self._error = 0
        self._is_writable = False

    # What the test's side does to it.

    def arrive(self, sock: ScriptedSocket, peer: Endpoint) -> None:
        """Let an accepted connection wait here."""
        self._arrivals.append((sock, peer))
        self._network.note(self._fd, select.EPOLLIN)

    def connected(self, far: FarEnd, peer: Endpoint) -> None:
        """Say that the connection stands."""
        self.far, self.peer, self._is_writable = far, peer, True
        self._network.note(self._fd, select.EPOLLOUT)

    def receive(self, data: bytes) -> bool:
        """Take bytes from the far end; False when nobody wants them any more."""
        if self._fd < 0:
            return False
        self._bytes += data
        self._network.note(self._fd, select.EPOLLIN)
        return True

    def receive_datagram(self, data: bytes, sender: Endpoint) -> None:
        """Take a datagram."""
        self._datagrams.append((data, sender))
        self._network.note(self._fd, select.EPOLLIN)

    def receive_end(self) -> None:
        """Take the end of the far end's stream."""
        self._has_ended = True
        self._network.note(self._fd, _ENDED)

    def fail(self, code: int) -> None:
        """Break: a reset, or a connection that cannot be made."""
        self._error = code
        self.far = None
        self._network.note(self._fd, _BROKEN)

    def writable(self) -> None:
        """Say that there is room again."""
        self._network.note(self._fd, select.EPOLLOUT)

    @property
    def ready(self) -> int:
        """The events that hold now."""
        if self._error:
            return _BROKEN
        waiting = self._arrivals or self._bytes or self._datagrams
        events = select.EPOLLIN if waiting else 0
        if self._has_ended:
            events |= _ENDED
        if self._is_writable or self.type is socket.SOCK_DGRAM:
            events |= select.EPOLLOUT
        return events

    # What the proxy calls.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._fd

    def settimeout(self, value: float | None) -> None:
        """Every one is non-blocking."""

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self.options[level, option] = value

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR):
            return self._take_error()
        if size:
            raise refusal(errno.ENOPROTOOPT)
        return self.options.get((level, option), 0)

    def bind(self, sockaddr: tuple[Any, ...]) -> None:
        self._network.bind(self, Endpoint(sockaddr[0], sockaddr[1]))

    def listen(self, backlog: int) -> None:
        self._network.check_listen(self)
        self.backlog = backlog

    def accept(self) -> tuple[ScriptedSocket, tuple[Any, ...]]:
        if not self._arrivals:
            raise BlockingIOError
        sock, peer = self._arrivals.popleft()
        return sock, peer.sockaddr

    def connect(self, sockaddr: tuple[Any, ...]) -> None:
        target = Endpoint(sockaddr[0], sockaddr[1])
        if self.type is socket.SOCK_DGRAM:
            self._network.find_source(self, target)
            self.peer = target
        else:
            self._network.dial(self, target)
            raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))

    def getsockname(self) -> tuple[Any, ...]:
        self._check_open()
        if self.name is None:
            return ("::" if self.family is socket.AF_INET6 else "0.0.0.0"), 0
        return self.name.sockaddr

    def getpeername(self) -> tuple[Any, ...]:
        self._check_open()
        if self.peer is None:
            raise refusal(errno.ENOTCONN)
        return self.peer.sockaddr

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        self._check_open()
        if self.type is socket.SOCK_DGRAM:
            return self._send_datagram(data, self.peer)
        if self.far is None or self._is_shut:
            raise refusal(self._take_error() or errno.EPIPE)
        sent = self.far.takes(bytes(data), urgent=bool(flags & socket.MSG_OOB))
        if not sent:
            raise BlockingIOError
        return sent

    def sendto(self, data: bytes | memoryview, sockaddr: tuple[Any, ...]) -> int:
        return self._send_datagram(data, Endpoint(sockaddr[0], sockaddr[1]))

    def _send_datagram(self, data: bytes | memoryview, target: Endpoint | None) -> int:
        if target is None or self.name is None:
            raise refusal(errno.EDESTADDRREQ)
        self._network.carry(bytes(data), self.name, target)
        return len(data)

    def recv_into(self, buffer: memoryview, size: int = 0) -> int:
        data = self.recv(size or len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def recv(self, size: int) -> bytes:
        self._check_open()
        if self.type is socket.SOCK_DGRAM:
            return self._next_datagram()[0][:size]
        if self._error and not self._bytes:  # what came before a reset can still be read
            raise refusal(self._take_error())
        data = bytes(self._bytes[:size])
        del self._bytes[:size]
        if not data and not self._has_ended:
            raise BlockingIOError
        return data

    def _take_error(self) -> int:
        """Return what is told once, by whichever call is the first: afterwards there is an end."""
        code, self._error = self._error, 0
        self._has_ended = self._has_ended or bool(code)
        return code

    def recvfrom_into(self, buffer: memoryview) -> tuple[int, tuple[Any, ...]]:
        data, sender = self._next_datagram()
        buffer[: len(data)] = data
        return len(data), sender.sockaddr

    def _next_datagram(self) -> tuple[bytes, Endpoint]:
        self._check_open()
        if not self._datagrams:
            raise BlockingIOError
        return self._datagrams.popleft()

    def shutdown(self, how: int) -> None:  # noqa: ARG002 - the engine ends what it sends
        self._check_open()
        if self.far is None:
            raise refusal(errno.ENOTCONN)
        self._is_shut = True
        self.far.is_told_the_end()

    def close(self) -> None:
        """Close; unread bytes make it a reset, as they do in a real one."""
        if self._fd < 0:
            return
        self._network.remove(self)
        self._fd = -1
        far, self.far = self.far, None
        if far is not None:
            abort = self.options.get((socket.SOL_SOCKET, socket.SO_LINGER)) == _RESET
            if abort or self._bytes:
                far.is_cut_off()
            else:
                far.is_told_the_end()
        for sock, _ in self._arrivals:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()

    def _check_open(self) -> None:
        if self._fd < 0:
            raise refusal(errno.EBADF)
