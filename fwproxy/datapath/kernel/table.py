"""The one nftables table of a running proxy: made at start, removed at stop, no other touched.

Where the kernel knows table owners (Linux 5.12), the table is owned: nobody else can change or
flush it, and it goes with the process, however that ends. Elsewhere its elements expire, and the
next start removes the tables of dead processes, which it knows by their names.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import structlog

from fwproxy.address import Endpoint, Transport
from fwproxy.datapath.kernel import elements, rules
from fwproxy.datapath.kernel.element_socket import ElementSocket
from fwproxy.datapath.kernel.elements import Five, PackedPinhole
from fwproxy.datapath.kernel.netlink import open_netfilter
from fwproxy.datapath.kernel.nft import Nftables
from fwproxy.datapath.kernel.passage import Passage
from fwproxy.datapath.kernel.pinhole import Pinhole, PinholeKey
from fwproxy.datapath.kernel.shared_elements import SharedElements
from fwproxy.datapath.kernel.sysctl import tcp_timeouts
from fwproxy.datapath.kernel.transaction import Transaction
from fwproxy.errors import KernelPathError

_TABLE_NAME = re.compile(r"table inet (\S+_\d+_\d+_\d+_\d+)\b")
"""Also with another prefix."""
_OPEN_STATES = ("established", "fin_wait", "close_wait", "last_ack", "retrans", "unack")
"""Of TCP, as conntrack has them: one end at least may still send."""
KILLED_SECONDS = 60.0
"""How long packets of a killed connection are refused."""

_NOWHERE = Endpoint("0.0.0.0", 1)
_TRIAL = elements.kill((Transport.TCP, _NOWHERE, _NOWHERE), KILLED_SECONDS)
"""Packets that there are none of."""


@attrs.frozen(slots=True)
class TableSettings:
    """What the table is made from.

    Attributes:
        prefix: how its name begins.
        mark: the conntrack mark of our flows.
        max_pinholes: how many elements a set may have.
        lease: seconds that an element without a time-out stays if it is not renewed.
        can_own: whether to ask for an owned table.
        patience: seconds that conntrack remembers a TCP connection that rests; None is as long
            as it remembers those of others.
    """

    prefix: str
    mark: int
    max_pinholes: int
    lease: float
    can_own: bool = True
    patience: int | None = None


class KernelTable:
    """Adds and removes pinholes, each call one transaction.

    Attributes:
        name: the table's.
        is_owned: whether nobody else can change it.
        is_alone: whether there was no table of another living proxy when it was made.
    """

    def __init__(self, settings: TableSettings, log: structlog.typing.FilteringBoundLogger) -> None:
        self._settings = settings
        self._log = log
        self._nft = Nftables()
        self._socket: ElementSocket | None = None
        self._pinholes: dict[PinholeKey, PackedPinhole] = {}
        self._shared = SharedElements()
        self._passages: list[Passage] = []
        self._made = ""
        self._patience: int | None = None
        self.name = f"{settings.prefix}_{_mark_of(os.getpid())}_{next(_numbers)}"
        self.is_owned = False
        self.is_alone = True

    def __len__(self) -> int:
        return len(self._pinholes)

    def create(self) -> None:
        """Make the table, after removing those of dead processes.

        Raises:
            KernelPathError: the kernel cannot do what the table needs, or not for us.
        """
        try:
            self._remove_stale()
            self._make()
        except BaseException:
            self._close()
            raise

    def _make(self) -> None:
        refusal: KernelPathError | None = None
        owners = (True, False) if self._settings.can_own else (False,)
        patience = dict.fromkeys((self._settings.patience, None))
        for owner, self._patience in itertools.product(owners, patience):
            try:
                self._nft.run(self._commands(owner=owner))
                self._socket = self._opened(owner=owner)
            except KernelPathError as error:
                refusal = refusal or error
                with contextlib.suppress(KernelPathError):  # it is not there
                    self._nft.run(rules.remove(self.name))
                continue
            self.is_owned = owner
            self._made = self._listed()
            return
        raise refusal or KernelPathError("no table")

    def _opened(self, *, owner: bool) -> ElementSocket:
        # No other socket may change an owned table than the one that has made it.
        candidates = self._nft.sockets() if owner else (open_netfilter() for _ in range(1))
        return ElementSocket.open(self.name, candidates, _TRIAL)

    def _commands(self, *, owner: bool) -> str:
        settings = self._settings
        return rules.table(
            self.name,
            settings.mark,
            max_pinholes=settings.max_pinholes,
            owner=owner,
            timeouts=_timeouts(self._patience),
        )

    def _listed(self) -> str:
        return self._nft.run(f"list table inet {self.name}")

    def _remove_stale(self) -> None:
        own = f"{self._settings.prefix}_"
        for name in _TABLE_NAME.findall(self._nft.run("list tables inet")):
            if _is_alive(name):
                self.is_alone = False
                continue
            if not name.startswith(own):
                continue
            try:
                self._nft.run(rules.remove(name))
            except KernelPathError:  # somebody owns it after all, or has just removed it
                continue
            self._log.warning("removed the kernel table of a process that has died", table=name)

    def remove(self) -> None:
        """Remove the table; translated connections go on, as conntrack knows how."""
        try:
            self._nft.run(rules.remove(self.name))
        except KernelPathError as error:
            self._log.warning("the kernel table is gone already", reason=str(error))
        finally:
            self._close()
            self._pinholes.clear()

    def abandon(self) -> None:
        """Let go of a table that cannot be changed; an owned one goes with its socket."""
        self._close()
        self._pinholes.clear()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._nft.close()

    def open(self, pinholes: Sequence[Pinhole]) -> None:
        """Open pinholes, all or none.

        Raises:
            KernelPathError: the kernel refuses, or one is in the way of another.
        """
        if len(self._pinholes) + len(pinholes) > self._settings.max_pinholes:
            raise KernelPathError(f"{self._settings.max_pinholes} pinholes already (max_pinholes)")
        keys = [pinhole.key for pinhole in pinholes]
        if len(set(keys)) < len(keys) or not self._pinholes.keys().isdisjoint(keys):
            raise KernelPathError("there is such a pinhole already")
        packed = [elements.packed(pinhole, self._settings.lease) for pinhole in pinholes]
        shared = [element for each in packed for element in each.shared]
        with self._transaction() as transaction:
            for each in packed:
                transaction.add(each.own)
            transaction.add(self._shared.missing(shared))
        self._pinholes.update(zip(keys, packed, strict=True))
        self._shared.take(shared)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        """Do what is asked for in the block, all or nothing, at its end.

        Raises:
            KernelPathError: the kernel refuses.
        """
        if self._socket is None:
            raise KernelPathError("there is no kernel table")
        transaction = self._socket.transaction()
        yield transaction
        self._socket.commit(transaction)

    def close(self, pinholes: Sequence[Pinhole]) -> None:
        """Close pinholes; what the kernel has of them is gone when this returns.

        Raises:
            KernelPathError: the kernel refuses: they are open still, unless the table is gone.
        """
        packed = [self._pinholes.pop(each.key) for each in pinholes if each.key in self._pinholes]
        if not packed:
            return
        with self._transaction() as transaction:
            for each in packed:  # what has expired is not there any more
                transaction.destroy([*each.all, *self._shared.give_back(each.shared)])

    def renew(self) -> None:
        """Keep what has no time-out of its own for another lease."""
        lasting = [each for each in self._pinholes.values() if each.is_lasting]
        if not lasting:
            return
        found = [element for each in lasting for element in each.own]
        try:
            with self._transaction() as transaction:
                transaction.delete(found)
                transaction.add(found)
        except KernelPathError as error:
            self._log.warning("kernel elements are gone", table=self.name, reason=str(error))
            self.restore()

    def is_intact(self) -> bool:
        """Tell whether the table is as it was made, its elements aside."""
        if self.is_owned:
            return True
        try:
            return self._listed() == self._made
        except KernelPathError:
            return False

    def restore(self) -> None:
        """Make the table anew, and open in it again all pinholes that are open.

        Raises:
            KernelPathError: the kernel refuses.
        """
        found = [element for each in self._pinholes.values() for element in each.own]
        try:
            self._nft.run(rules.remove(self.name))
        except KernelPathError:  # it is not there: somebody has flushed the ruleset
            self._log.debug("the kernel table was gone", table=self.name)
        self._nft.run(
            "\n".join(
                [
                    self._commands(owner=self.is_owned),
                    rules.passages(self.name, self._passages, self._settings.mark + 1),
                ]
            )
        )
        with self._transaction() as transaction:
            transaction.add([*found, *self._shared])
        self._made = self._listed()

    def let_through(self, passages: Sequence[Passage]) -> None:
        """Let whole protocols through, besides those that are let through already.

        Raises:
            KernelPathError: the kernel refuses; nothing has changed.
        """
        self._nft.run(rules.passages(self.name, passages, self._settings.mark + 1))
        self._passages += passages
        self._made = self._listed()

    def kill(self, directions: Sequence[Five]) -> None:
        """Refuse the packets of a connection that conntrack is about to forget.

        Raises:
            KernelPathError: the kernel refuses.
        """
        with self._transaction() as transaction:
            transaction.add(elements.kill(each, KILLED_SECONDS) for each in directions)


_numbers = itertools.count(1)
"""Several proxies may run in one process."""


def _timeouts(patience: int | None) -> dict[str, int] | None:
    """Return how long to remember a TCP connection: as the host says, where both have closed it.

    One end may close long before the other: conntrack's minute for that is not user space's.
    """
    if patience is None:
        return None
    timeouts = tcp_timeouts()
    timeouts |= {state: max(timeouts.get(state, 0), patience) for state in _OPEN_STATES}
    return timeouts


def _mark_of(pid: int) -> str | None:
    """Return what tells a process from all others that there are or were since the boot."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace")
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None
    started = stat.rpartition(")")[2].split()[19]
    return f"{namespace}_{pid}_{started}"


def _is_alive(name: str) -> bool:
    """Tell whether a table's process lives, or is none that can be seen from here."""
    namespace, pid, started = name.rsplit("_", 4)[1:4]
    if int(namespace) != Path("/proc/self/ns/pid").stat().st_ino:
        return True
    return _mark_of(int(pid)) == f"{namespace}_{pid}_{started}"
