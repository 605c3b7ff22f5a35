"""Hears when somebody else changes the rules of nftables, or how packets are routed.

The kernel tells every listener of every transaction, those of the proxy itself included; a socket
filter leaves the latter out, by the netlink port that they come from. What others put into sets
does not matter, as it adds no rule.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable, Iterator

from fwproxy.datapath.kernel.event_filter import attach_program
from fwproxy.datapath.kernel.messages import GENERIC, HEADER, attributes
from fwproxy.datapath.kernel.netlink import open_netfilter, open_netlink
from fwproxy.datapath.poll import Poller

_NETLINK_ROUTE = 0
_RULES_4, _RULES_6, _SETTINGS_4, _SETTINGS_6 = 8, 19, 24, 25
"""RTNLGRP_IPV4_RULE, _IPV6_RULE, _IPV4_NETCONF and _IPV6_NETCONF: the last two tell of
forwarding."""
_ROUTING = sum(1 << each - 1 for each in (_RULES_4, _RULES_6, _SETTINGS_4, _SETTINGS_6))
_NFTABLES = 1 << 7 - 1
"""NFNLGRP_NFTABLES."""
_SUBSYSTEM = 10
_NEW_TABLE, _TABLE_NAME = 0, 1
_NO_RULES = {12, 14, 15, 17, 30}
"""Elements added, deleted and destroyed; the generation; what is traced."""
_BUFFER = 64 * 1024
MAX_DATAGRAMS = 64
"""Datagrams taken before everybody else has a turn."""


class Watch:
    """Two netlink sockets that hear of changes.

    Args:
        poller: where they are watched.
        rules_changed: called when chains or rules may have changed.
        routes_changed: called when policy routing or forwarding may have.

    Raises:
        KernelPathError: nothing is told here, or not to this process.
    """

    def __init__(
        self,
        poller: Poller,
        rules_changed: Callable[[], None],
        routes_changed: Callable[[], None],
    ) -> None:
        self._poller = poller
        self._rules_changed, self._routes_changed = rules_changed, routes_changed
        self._changed: set[socket.socket] = set()
        self._rules = open_netfilter(_NFTABLES)
        try:
            self._routes = open_netlink(_ROUTING, _NETLINK_ROUTE)
        except BaseException:
            self._rules.close()
            raise
        for sock in (self._rules, self._routes):
            sock.settimeout(0)
            poller.watch(sock.fileno(), self)

    def leave_out(self, table: str) -> None:
        """Hear no more of whoever has just made a table: that is this process itself."""
        for _ in range(MAX_DATAGRAMS):
            data = _received(self._rules)
            if not data:
                return
            for kind, port, body in _messages(data):
                if kind == _NEW_TABLE and _name(body) == table:
                    _leave_out(self._rules, port)

    def on_ready(self, fd: int, events: int) -> None:
        """Take what there is."""
        if events & (select.EPOLLIN | select.EPOLLERR):
            if fd == self._rules.fileno():
                self._read(self._rules, _has_rules, self._rules_changed)
            elif fd == self._routes.fileno():
                self._read(self._routes, bool, self._routes_changed)

    def _read(
        self,
        sock: socket.socket,
        matters: Callable[[bytes], bool],
        changed: Callable[[], None],
    ) -> None:
        for _ in range(MAX_DATAGRAMS):
            data = _received(sock)
            if data == b"":
                break
            # Where messages were lost, whatever they said may be so. That more of them are lost
            # the kernel does not say until there are none left.
            if data is None or matters(data):
                self._changed.add(sock)
        else:
            self._poller.defer(lambda: self.on_ready(sock.fileno(), select.EPOLLIN))
            return
        if sock in self._changed:
            self._changed.remove(sock)
            changed()

    def on_broken(self, error: Exception) -> None:
        """Say what went wrong, and go on."""
        self._poller.report(error)

    def close(self) -> None:
        """Hear no more."""
        for sock in (self._rules, self._routes):
            if sock.fileno() >= 0:
                self._poller.forget(sock.fileno())
                sock.close()


def _received(sock: socket.socket) -> bytes | None:
    """Return the next datagram, nothing when there is none, None where some were lost."""
    try:
        return sock.recv(_BUFFER)
    except BlockingIOError:
        return b""
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return None


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield what nftables says: the kind, whose doing it is, and the rest."""
    position = 0
    while position + HEADER.size + GENERIC.size <= len(data):
        length, kind, _, _, port = HEADER.unpack_from(data, position)
        if length < HEADER.size + GENERIC.size:
            return
        if kind >> 8 == _SUBSYSTEM:
            yield kind & 0xFF, port, data[position + HEADER.size + GENERIC.size : position + length]
        position += (length + 3) & ~3


def _has_rules(data: bytes) -> bool:
    return any(kind not in _NO_RULES for kind, _, _ in _messages(data))


def _name(body: bytes) -> str:
    return attributes(body).get(_TABLE_NAME, b"").rstrip(b"\0").decode()


def _leave_out(sock: socket.socket, port: int) -> None:
    """Let the kernel pass on nothing that comes from a port (classic BPF, see linux/filter.h)."""
    sender = 12  # in struct nlmsghdr; the filter reads it as if it were in network byte order
    swapped = int.from_bytes(struct.pack("=I", port), "big")
    code = [
        (0x20, 0, 0, sender),  # A = who has changed something
        (0x15, 0, 1, swapped),  # not us: take it
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFFFFFF),
    ]
    attach_program(sock, b"".join(struct.pack("=HBBI", *each) for each in code))
