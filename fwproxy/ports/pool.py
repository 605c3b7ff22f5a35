"""The pool of ports for secondary listeners."""

from __future__ import annotations

import random
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator

import attrs

from fwproxy.address import Endpoint, Transport
from fwproxy.bounds import PortRange
from fwproxy.errors import (
    AddressInUseError,
    PortsExhaustedError,
    QuotaError,
)
from fwproxy.ports.reservation import PortReservation
from fwproxy.ports.sockets import OpenSocket, address_error, open_port

ANYWHERE = random.SystemRandom().randrange
"""Chooses one of so many places, unpredictably."""


@attrs.frozen(slots=True)
class _Port:
    """How a port is opened.

    Attributes:
        transport: TCP or UDP.
        backlog: for TCP; None does not listen yet.
        foreign: whether it is on the address of another host.
        is_reserved: whether a reservation holds it already.
    """

    transport: Transport
    backlog: int | None
    foreign: bool = False
    is_reserved: bool = False


class PortPool:
    """Hands out bound sockets on ports of one range, at unpredictable places in it.

    The kernel has the last word on what is free; the pool remembers what it handed out, so that
    a full pool is known without asking 10,000 times.

    Args:
        ports: the range.
        max_reserved: how many of them may be reserved.
        open_socket: makes a socket.
        choose: returns one of so many places in the range, counted from 0, to look at first.
    """

    def __init__(
        self,
        ports: PortRange,
        max_reserved: int = 0,
        *,
        open_socket: OpenSocket = socket.socket,
        choose: Callable[[int], int] = ANYWHERE,
    ) -> None:
        self.ports = ports
        self._open_socket = open_socket
        self._choose = choose
        self._max_reserved = max_reserved
        self._taken: defaultdict[tuple[Transport, str], set[int]] = defaultdict(set)
        self._reservations: dict[tuple[Transport, int], PortReservation] = {}

    @property
    def in_use(self) -> int:
        """Ports handed out and not released yet; reserved ones count only while they are used."""
        return sum(map(len, self._taken.values()))

    @property
    def reserved(self) -> int:
        """Ports that are kept for those who have reserved them."""
        return len(self._reservations)

    def allocate(
        self,
        proxy_address: Endpoint,
        transport: Transport,
        count: int = 1,
        backlog: int | None = 1,
        *,
        foreign: bool = False,
        within: PortRange | None = None,
    ) -> list[socket.socket]:
        """Bind *count* consecutive ports, the lowest a multiple of *count* (S07, S08).

        TCP sockets listen already, unless *backlog* is None: then nobody can come until
        `start_listening`. A port other than 0 in *proxy_address* is taken as it is, in or out of
        the range (S10: only for a count of 1, which the caller checks).

        Args:
            proxy_address: where.
            transport: TCP or UDP.
            count: how many.
            backlog: reaches listen() unchanged.
            foreign: whether it is the address of another host, which this one routes for.
            within: the part of the range to take; None is all of it.

        Raises:
            AddressInUseError: the port asked for is taken.
            PortsExhaustedError: so are all ports of the range.
            AddressNotAvailableError: the address is none of this computer's, or not ours to use.
        """
        how = _Port(transport, backlog, foreign=foreign)
        if proxy_address.port:
            return [self._open(proxy_address, how)]
        taken = self._taken.get((transport, proxy_address.host), set())
        if not self._is_full(taken):
            for wanted in _places(within or self.ports, count, self._choose):
                if taken.isdisjoint(wanted):
                    sockets = self._open_all(proxy_address, wanted, how)
                    if sockets:
                        return sockets
        raise self._exhausted(transport, count, proxy_address.host, within)

    def _exhausted(
        self, transport: Transport, count: int, host: str, within: PortRange | None = None
    ) -> PortsExhaustedError:
        return PortsExhaustedError(
            f"no {count} consecutive {transport.value} port(s) of {within or self.ports} "
            f"are free on {host} (secondary.ports)"
        )

    def _is_full(self, taken: set[int]) -> bool:
        # What was asked for by its number may be outside the range.
        all_ports = range(self.ports.first, self.ports.last + 1)
        return len(taken) >= len(all_ports) and taken.issuperset(all_ports)

    def reserve(self, count: int, transport: Transport, host: str | None = None) -> PortReservation:
        """Keep *count* consecutive ports, the lowest a multiple of *count*, from everybody else.

        Args:
            count: how many.
            transport: TCP or UDP.
            host: the address to keep them on; None is every address.

        Raises:
            PortsExhaustedError: there are not so many free ones side by side.
            AddressNotAvailableError: the address is none of this computer's.
            QuotaError: `limits.max_reserved_ports` would be passed.
        """
        if self.reserved + count > self._max_reserved:
            raise QuotaError(f"more than {self._max_reserved} ports (max_reserved_ports)")
        for wanted in _places(self.ports, count, self._choose):
            if any((transport, port) in self._reservations for port in wanted):
                continue
            reservation = PortReservation(
                wanted, transport, host, self._unreserved, self._open_socket
            )
            try:
                reservation.take()
            except AddressInUseError:
                continue
            for port in wanted:
                self._reservations[transport, port] = reservation
            return reservation
        raise self._exhausted(transport, count, host or "every address")

    def _unreserved(self, reservation: PortReservation) -> None:
        for port in reservation.ports:
            self._reservations.pop((reservation.transport, port), None)

    def open_reserved(
        self,
        reservation: PortReservation,
        proxy_address: Endpoint,
        count: int,
        backlog: int | None,
        *,
        foreign: bool = False,
    ) -> list[socket.socket]:
        """Bind *count* consecutive ports of a reservation, the first ones that are not in use.

        Raises:
            AddressInUseError: all of its ports are in use.
            AddressNotAvailableError: as for `allocate`.
        """
        how = _Port(reservation.transport, backlog, foreign=foreign, is_reserved=True)
        for first in range(reservation.first, reservation.first + reservation.count - count + 1):
            wanted = range(first, first + count)
            if reservation.busy.isdisjoint(wanted):
                with reservation.shared():
                    sockets = self._open_all(proxy_address, wanted, how)
                if sockets:
                    reservation.busy.update(wanted)
                    return sockets
        raise AddressInUseError(f"{reservation} has no {count} consecutive port(s) that are unused")

    def close(self) -> None:
        """Release every reservation."""
        for reservation in set(self._reservations.values()):
            reservation.release()

    def release(self, proxy_address: Endpoint, transport: Transport) -> None:
        """Take a port back whose socket has been closed."""
        reservation = self._reservations.get((transport, proxy_address.port))
        if reservation is not None and reservation.host in {None, proxy_address.host}:
            reservation.busy.discard(proxy_address.port)
        taken = self._taken.get((transport, proxy_address.host))
        if taken is not None:
            taken.discard(proxy_address.port)
            if not taken:
                del self._taken[transport, proxy_address.host]

    def _open_all(self, proxy_address: Endpoint, wanted: range, how: _Port) -> list[socket.socket]:
        """Return the sockets, or none when one of the ports is taken by somebody else (S02)."""
        sockets: list[socket.socket] = []
        try:
            for port in wanted:
                sockets.append(self._open(proxy_address.with_port(port), how))  # noqa: PERF401 - what was opened must be known on failure
        except BaseException as error:
            for sock in sockets:
                address = Endpoint.from_sockaddr(sock.getsockname())
                sock.close()
                self.release(address, how.transport)
            if not isinstance(error, AddressInUseError):
                raise
            return []
        return sockets

    def _open(self, address: Endpoint, how: _Port) -> socket.socket:
        backlog = how.backlog if how.transport is Transport.TCP else None
        shared = backlog is not None or how.is_reserved
        sock = open_port(
            address,
            how.transport,
            shared=shared,
            foreign=how.foreign,
            open_socket=self._open_socket,
        )
        try:
            if backlog is not None:
                sock.listen(backlog)
            elif how.is_reserved:  # nobody is to join it when the reservation has been released
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            sock.close()
            raise address_error(address, error) from error
        self._taken[how.transport, address.host].add(address.port or sock.getsockname()[1])
        return sock


def _places(ports: PortRange, count: int, choose: Callable[[int], int]) -> Iterator[range]:
    """Yield all runs of *count* ports that begin with a multiple of it, from a random one."""
    lowest = -(-ports.first // count) * count
    places = (ports.last + 1 - lowest) // count
    if places > 0:
        start = choose(places)
        for step in range(places):
            first = lowest + (start + step) % places * count
            yield range(first, first + count)
