"""The netlink sockets of conntrack: one hears events, the other asks and is answered at once."""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
from collections.abc import Callable

from fwproxy.address import Transport
from fwproxy.datapath.kernel import conntrack, event_filter
from fwproxy.datapath.kernel.conntrack import FlowReport, Refusal, Tuple
from fwproxy.datapath.poll import Poller
from fwproxy.errors import KernelPathError

NETLINK_NETFILTER = 12
_SO_RCVBUFFORCE = 33
_GROUPS = 0b111
"""NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY as bits."""
_BUFFER = 64 * 1024
_PATIENCE = 1.0
"""Seconds for an answer that the kernel gives before `send` returns."""
MAX_DATAGRAMS = 128
"""Datagrams taken before everybody else has a turn."""


def open_netlink(groups: int, protocol: int) -> socket.socket:
    """Return a netlink socket that hears of the groups whose bits are set.

    Raises:
        KernelPathError: there is none here, or not for this process.
    """
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise KernelPathError(f"no netlink socket: {error.strerror}") from error
    try:
        sock.bind((0, groups))
    except OSError as error:
        sock.close()
        raise KernelPathError(f"netlink events: {error.strerror}") from error
    return sock


def open_netfilter(groups: int = 0) -> socket.socket:
    """Return a netlink socket that hears of some groups of netfilter's events.

    Raises:
        KernelPathError: there is none here.
    """
    return open_netlink(groups, NETLINK_NETFILTER)


def open_events(mark: int, buffer: int = 1 << 16) -> socket.socket:
    """Return a socket that hears of flows with a mark.

    Raises:
        KernelPathError: there are no such events here.
    """
    sock = open_netfilter(_GROUPS)
    try:
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        event_filter.attach(sock, mark)
    except OSError as error:
        sock.close()
        raise KernelPathError(f"conntrack events: {error.strerror}") from error
    return sock


class ConntrackEvents:
    """Reports what happens to flows that bear a mark; the kernel leaves out all others.

    Args:
        poller: where the socket is watched.
        mark: that of our flows.
        buffer: bytes that may wait; more is reported as an overflow.
        hear: hears each report.
        overflowed: hears that reports were lost.

    Raises:
        KernelPathError: there are no such events here.
    """

    def __init__(
        self,
        poller: Poller,
        mark: int,
        buffer: int,
        hear: Callable[[FlowReport], None],
        overflowed: Callable[[], None],
    ) -> None:
        self._poller = poller
        self._hear = hear
        self._overflowed = overflowed
        self._has_lost = False
        self._sock = open_events(mark, buffer)
        poller.watch(self._sock.fileno(), self)

    def on_ready(self, fd: int, events: int) -> None:
        """Take what there is."""
        if not events & (select.EPOLLIN | select.EPOLLERR):
            return
        if self._take(MAX_DATAGRAMS):
            self._poller.defer(lambda: self.on_ready(fd, select.EPOLLIN))

    def take_all(self) -> None:
        """Take whatever has been said until now."""
        while self._take(MAX_DATAGRAMS):
            pass

    def _take(self, count: int) -> bool:
        """Take so many datagrams; tell whether there may be more."""
        for _ in range(count):
            if self._sock.fileno() < 0:
                return False
            try:
                data = self._sock.recv(_BUFFER)
            except BlockingIOError:
                if self._has_lost:
                    self._has_lost = False
                    self._overflowed()
                return False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Until the queue is empty, the kernel does not say that even more is lost: so
                # only what is asked from then on is the whole truth.
                self._has_lost = True
                continue
            for message in conntrack.messages(data):
                if isinstance(message, FlowReport):
                    self._hear(message)
        return True

    def on_broken(self, error: Exception) -> None:
        """Say what went wrong with one report, and go on with the others."""
        self._poller.report(error)
        if self._sock.fileno() >= 0:
            self._poller.defer(lambda: self.on_ready(-1, select.EPOLLIN))

    def close(self) -> None:
        """Hear no more."""
        if self._sock.fileno() >= 0:
            self._poller.forget(self._sock.fileno())
            self._sock.close()


class ConntrackRequests:
    """Asks of single flows, and makes conntrack forget them.

    Raises:
        KernelPathError: there is no conntrack here.
    """

    def __init__(self) -> None:
        self._sock = open_netfilter(0)
        self._sock.settimeout(_PATIENCE)
        self._sequence = itertools.count(1)

    def find(self, transport: Transport, original: Tuple) -> FlowReport | None:
        """Return what conntrack knows of a flow, None if nothing."""
        sequence = next(self._sequence)
        found, _ = self._ask(conntrack.get(sequence, transport, original), sequence)
        return found[0] if found else None

    def forget(self, transport: Transport, original: Tuple, number: int) -> bool:
        """End a flow; False if it is not there any more."""
        sequence = next(self._sequence)
        _, code = self._ask(conntrack.delete(sequence, transport, original, number), sequence)
        return code == 0

    def all(self, mark: int) -> list[FlowReport]:
        """Return all flows with a mark."""
        sequence = next(self._sequence)
        return self._ask(conntrack.dump(sequence, mark), sequence, is_dump=True)[0]

    def _ask(
        self, request: bytes, sequence: int, *, is_dump: bool = False
    ) -> tuple[list[FlowReport], int]:
        found: list[FlowReport] = []
        try:
            self._sock.send(request)
            while True:
                for message in conntrack.messages(self._sock.recv(_BUFFER)):
                    if isinstance(message, Refusal):
                        if message.sequence == sequence:
                            return found, message.error
                    else:
                        found.append(message)
                if found and not is_dump:
                    return found, 0
        except OSError as error:
            return found, error.errno or errno.EIO

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def can_administer() -> bool:
    """Tell whether this thread has CAP_NET_ADMIN in its user namespace."""
    try:
        with open("/proc/thread-self/status", encoding="ascii") as status:  # noqa: PTH123 - read once
            line = next(line for line in status if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(int(line.split()[1], 16) >> 12 & 1)
