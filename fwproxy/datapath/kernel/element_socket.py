"""The netlink socket through which elements of the table come and go."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from fwproxy.datapath.kernel.elements import Element
from fwproxy.datapath.kernel.netlink import NETLINK_NETFILTER
from fwproxy.datapath.kernel.transaction import Transaction, answers
from fwproxy.errors import KernelPathError

_SO_SNDBUFFORCE = 32
_BUFFER = 64 * 1024
_REASONS = {errno.ENFILE: "a set is full"}


def netfilter_sockets() -> dict[int, str]:
    """Return the netlink sockets for netfilter that this process has: descriptor and inode."""
    found = {}
    with contextlib.suppress(OSError):  # there may be no /proc
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the one that lists them is closed already
                inode = str(path.readlink())
                if inode.startswith("socket:") and _is_netfilter(int(path.name)):
                    found[int(path.name)] = inode
    return found


def _is_netfilter(fd: int) -> bool:
    sock = socket.socket(fileno=fd)
    try:
        return (sock.family, sock.proto) == (socket.AF_NETLINK, NETLINK_NETFILTER)
    finally:
        sock.detach()


class ElementSocket:
    """Runs transactions on the elements of a table.

    Args:
        table: its name.
        sock: whose table it is, if it is owned; closed with this one.
    """

    def __init__(self, table: str, sock: socket.socket) -> None:
        self._table = table
        self._sock = sock
        self._sock.settimeout(0)
        self._room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
        self._can_destroy = True

    @classmethod
    def open(cls, table: str, candidates: Iterable[socket.socket], trial: Element) -> Self:
        """Return one that may change a table; other candidates are closed.

        Args:
            table: its name.
            candidates: one of them should be the table's owner, if it has one.
            trial: what may be added and taken out.

        Raises:
            KernelPathError: none of them may.
        """
        refusal = KernelPathError("libnftables has no socket that could be found")
        for sock in candidates:
            made = cls(table, sock)
            try:
                made.try_out(trial)
            except KernelPathError as error:
                made.close()
                refusal = error
            else:
                return made
        raise refusal

    def try_out(self, trial: Element) -> None:
        """Find out how the kernel deletes what is perhaps not there.

        Raises:
            KernelPathError: neither way.
        """
        for self._can_destroy in (True, False):
            transaction = self.transaction()
            transaction.destroy([trial])
            try:
                self.commit(transaction)
            except KernelPathError:
                if not self._can_destroy:
                    raise
            else:
                return

    def transaction(self) -> Transaction:
        """Return one in which nothing is to be done yet."""
        return Transaction(self._table, can_destroy=self._can_destroy)

    def commit(self, transaction: Transaction) -> None:
        """Do what it says, all or nothing; it is in force when this returns.

        Raises:
            KernelPathError: the kernel refuses; the message is its first reason.
        """
        if not transaction.last:
            return
        data = transaction.packed()
        try:
            if len(data) > self._room:
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(data))
                self._room = len(data)
            self._sock.send(data)
            error = self._outcome(transaction.last)
        except OSError as failure:
            self._drain()
            raise KernelPathError(f"nftables: {failure.strerror}") from failure
        if error:
            self._drain()
            raise KernelPathError(f"nftables: {_REASONS.get(error) or os.strerror(error)}")

    def _outcome(self, last: int) -> int:
        """Return the first error, 0 if all was done: the kernel has answered within `send`."""
        while True:
            for sequence, error in answers(self._sock.recv(_BUFFER)):
                if error or sequence == last:
                    return error

    def _drain(self) -> None:
        """Take the other answers, which would be mistaken for those to the next transaction."""
        while True:
            try:
                self._sock.recv(_BUFFER)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # which says that there were even more
                    return

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
