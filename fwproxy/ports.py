"""The pool of ports for secondary listeners."""

from __future__ import annotations

import errno
import random
import socket
from collections import defaultdict

from fwproxy.address import Endpoint, Transport
from fwproxy.config import PortRange
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAvailableError,
    PortsExhaustedError,
)

_IN_USE = {errno.EADDRINUSE}


class PortPool:
    """Hands out bound sockets on ports of one range, at unpredictable places in it.

    The kernel has the last word on what is free; the pool remembers what it handed out, so that
    a full pool is known without asking 10,000 times.
    """

    def __init__(self, ports: PortRange) -> None:
        self.ports = ports
        self._taken: defaultdict[tuple[Transport, str], set[int]] = defaultdict(set)
        self._random = random.SystemRandom()

    @property
    def in_use(self) -> int:
        """Ports handed out and not released yet."""
        return sum(map(len, self._taken.values()))

    def allocate(
        self, proxy_address: Endpoint, transport: Transport, count: int = 1, backlog: int = 1
    ) -> list[socket.socket]:
        """Bind *count* consecutive ports, the lowest a multiple of *count* (S07, S08).

        TCP sockets listen already. A port other than 0 in *proxy_address* is taken as it is, in
        or out of the range (S10: only for a count of 1, which the caller checks).

        Raises:
            AddressInUseError: the port asked for is taken.
            PortsExhaustedError: so are all ports of the range.
            AddressNotAvailableError: the address is none of this computer's, or not ours to use.
        """
        if proxy_address.port:
            return [self._open(proxy_address, transport, backlog)]
        taken = self._taken.get((transport, proxy_address.host), set())
        lowest = -(-self.ports.first // count) * count
        places = (self.ports.last + 1 - lowest) // count
        if places > 0 and not self._is_full(taken):
            start = self._random.randrange(places)
            for step in range(places):
                first = lowest + (start + step) % places * count
                wanted = range(first, first + count)
                if taken.isdisjoint(wanted):
                    sockets = self._open_all(proxy_address, transport, wanted, backlog)
                    if sockets:
                        return sockets
        raise PortsExhaustedError(
            f"no {count} consecutive {transport.value} port(s) of {self.ports} are free on "
            f"{proxy_address.host} (secondary.ports)"
        )

    def _is_full(self, taken: set[int]) -> bool:
        # What was asked for by its number may be outside the range.
        all_ports = range(self.ports.first, self.ports.last + 1)
        return len(taken) >= len(all_ports) and taken.issuperset(all_ports)

    def release(self, proxy_address: Endpoint, transport: Transport) -> None:
        """Take a port back whose socket has been closed."""
        taken = self._taken.get((transport, proxy_address.host))
        if taken is not None:
            taken.discard(proxy_address.port)
            if not taken:
                del self._taken[transport, proxy_address.host]

    def _open_all(
        self, proxy_address: Endpoint, transport: Transport, wanted: range, backlog: int
    ) -> list[socket.socket]:
        """Return the sockets, or none when one of the ports is taken by somebody else (S02)."""
        sockets: list[socket.socket] = []
        try:
            for port in wanted:
                sockets.append(self._open(proxy_address.with_port(port), transport, backlog))  # noqa: PERF401 - what was opened must be known on failure
        except BaseException as error:
            for sock in sockets:
                address = Endpoint.from_sockaddr(sock.getsockname())
                sock.close()
                self.release(address, transport)
            if not isinstance(error, AddressInUseError):
                raise
            return []
        return sockets

    def _open(self, address: Endpoint, transport: Transport, backlog: int) -> socket.socket:
        try:
            sock = socket.socket(address.family, transport.socket_type | socket.SOCK_NONBLOCK)
        except OSError as error:  # no descriptor, or no IPv6
            raise AddressNotAvailableError(f"{address}: {error.strerror}") from error
        try:
            if transport is Transport.TCP:
                # Earlier connections of this port may still be in TIME_WAIT. Two listeners
                # exclude each other all the same, at listen().
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # urgent bytes stay in
            sock.bind(address.sockaddr)
            if transport is Transport.TCP:
                sock.listen(backlog)
        except OSError as error:
            sock.close()
            if error.errno in _IN_USE:
                raise AddressInUseError(f"{address} is already in use") from error
            raise AddressNotAvailableError(f"{address}: {error.strerror}") from error
        self._taken[transport, address.host].add(address.port or sock.getsockname()[1])
        return sock
