"""Ports that are kept for later: bound, not listening, and nobody else's meanwhile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

from fwproxy.address import Endpoint, Transport
from fwproxy.errors import AddressNotAvailableError, InvalidArgumentError
from fwproxy.ports.sockets import OpenSocket, open_port

_EVERYWHERE = ("0.0.0.0", "::")


class PortReservation:
    """Consecutive ports that only the calls which are given the reservation can use.

    Each port is held by a socket that is bound and does nothing else. While a call uses the port,
    a second socket is bound beside the first, so that the port stays reserved when that call's
    connections have ended, until `release`.

    Attributes:
        ports: the numbers.
        transport: TCP or UDP.
        host: the address that they are reserved on; None is every address.
        busy: those that a call uses at the moment; for the pool's own use.
    """

    def __init__(
        self,
        ports: range,
        transport: Transport,
        host: str | None,
        on_release: Callable[[PortReservation], None],
        open_socket: OpenSocket = socket.socket,
    ) -> None:
        self.ports = ports
        self.transport = transport
        self.host = host
        self.busy: set[int] = set()
        self._on_release = on_release
        self._open_socket = open_socket
        self._sockets: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<PortReservation {self}>"

    def __str__(self) -> str:
        where = f" on {self.host}" if self.host else ""
        last = self.first + self.count - 1
        return f"the reservation of {self.transport.value} ports {self.first}-{last}{where}"

    @property
    def first(self) -> int:
        """The lowest port."""
        return self.ports[0]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ports)

    @property
    def is_released(self) -> bool:
        """Whether others may have the ports again."""
        return not self._sockets

    def take(self) -> None:
        """Bind the ports, all or none.

        Raises:
            AddressInUseError: one of them is taken.
            AddressNotAvailableError: the address is none of this computer's.
        """
        hosts = _EVERYWHERE if self.host is None else (self.host,)
        try:
            for host in hosts:
                for port in self.ports:
                    self._hold(Endpoint(host, port))
        except BaseException:
            self._close()
            raise

    def _hold(self, address: Endpoint) -> None:
        try:
            sock = open_port(address, self.transport, shared=False, open_socket=self._open_socket)
        except AddressNotAvailableError:
            if self.host is None and address.version == 6:  # no IPv6 here
                return
            raise
        self._sockets.append(sock)

    def check(self, transport: Transport, count: int, host: str) -> None:
        """Make sure that the reservation serves a call.

        Raises:
            InvalidArgumentError: it does not; the message says why.
        """
        if self.is_released:
            raise InvalidArgumentError(f"{self} has been released")
        if transport is not self.transport:
            raise InvalidArgumentError(f"{self} is not for {transport.value}")
        if count > self.count:
            raise InvalidArgumentError(f"{self} is too small: {count} ports are needed")
        if self.host is not None and host != self.host:
            raise InvalidArgumentError(f"{self} is not for {host}")

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Let sockets of our own be bound, and listen, beside those that hold the ports.

        It is over before anybody else has a turn in this process; in another one he would have
        to hit the microseconds between two system calls, with SO_REUSEADDR.
        """
        self._share(1)
        try:
            yield
        finally:
            self._share(0)

    def _share(self, value: int) -> None:
        for sock in self._sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, value)

    def release(self) -> None:
        """Give the ports up; harmless when repeated. Connections that use them go on."""
        if not self.is_released:
            self._close()
            self._on_release(self)

    def _close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
