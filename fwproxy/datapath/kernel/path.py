"""The kernel data path of one running proxy: its table, its events, its pinholes and flows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import attrs
import structlog

from fwproxy.address import Transport
from fwproxy.clock import Deadline, Deadlines
from fwproxy.datapath.kernel.conntrack import FlowReport, Stage, Tuple
from fwproxy.datapath.kernel.flow import KernelFlow
from fwproxy.datapath.kernel.host import Host
from fwproxy.datapath.kernel.netlink import ConntrackEvents, ConntrackRequests, can_administer
from fwproxy.datapath.kernel.passage import Passage
from fwproxy.datapath.kernel.pinhole import Pinhole, PinholeKey
from fwproxy.datapath.kernel.table import KernelTable, TableSettings
from fwproxy.datapath.poll import Poller
from fwproxy.errors import KernelPathError

CHECK_EVERY = 2.0
"""Seconds between two looks at what others may have changed."""
_MAX_RECENT = 4096
_RECENT = 5.0
"""Seconds for which a packet may have been on its way through a pinhole that is closed now."""

_LIVING = frozenset({Stage.NEW, Stage.ESTABLISHED})
_FlowKey = tuple[Transport, Tuple]


@attrs.define(slots=True, eq=False)
class OpenPinhole:
    """A pinhole that is open in the kernel.

    Attributes:
        pinhole: which.
        on_flow: hears of each connection that comes through.
        flows: how many have come.
        giving_back: called before the pinhole is closed because the kernel is to carry nothing
            more, so that there is no moment in which nobody waits.
        given_back: called afterwards, unless somebody has come through and used it up.
    """

    pinhole: Pinhole
    on_flow: Callable[[KernelFlow], None]
    flows: int = 0
    giving_back: Callable[[], None] | None = None
    given_back: Callable[[], None] | None = None

    @property
    def is_used_up(self) -> bool:
        """Whether nobody more can come through."""
        return self.pinhole.is_single and self.flows > 0


class KernelPath:
    """Opens pinholes and reports the connections that come through them.

    Attributes:
        host: what it knows of this host.
        broken: why it cannot open pinholes now; empty while it can.
        is_lost: whether it never will again, and has let go of its table.

    Args:
        settings: for the table.
        event_buffer: bytes of events that may wait to be heard.
        poller: where events are watched.
        deadlines: for renewals and looks.
        log: where what others change is reported.
    """

    def __init__(
        self,
        settings: TableSettings,
        event_buffer: int,
        poller: Poller,
        deadlines: Deadlines,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._event_buffer = event_buffer
        self._poller = poller
        self._deadlines = deadlines
        self._log = log
        self.host = Host()
        self.broken = ""
        self.is_lost = False
        self._table: KernelTable | None = None
        self._events: ConntrackEvents | None = None
        self._requests: ConntrackRequests | None = None
        self._open: dict[PinholeKey, OpenPinhole] = {}
        self._flows: dict[_FlowKey, KernelFlow] = {}
        self._recent: OrderedDict[PinholeKey, float] = OrderedDict()
        self._killed: OrderedDict[int, None] = OrderedDict()
        self._check: Deadline | None = None
        self._renewed = 0.0

    def __len__(self) -> int:
        """How many pinholes are open."""
        return len(self._open)

    @property
    def flows(self) -> int:
        """How many connections the kernel carries."""
        return len(self._flows)

    @property
    def table_name(self) -> str:
        """The name of the nftables table."""
        return "" if self._table is None else self._table.name

    def now(self) -> float:
        """Return the loop's time."""
        return self._deadlines.now()

    def start(self) -> None:
        """Make the table and hear events.

        Raises:
            KernelPathError: this host cannot, or not for this process; nothing is left behind.
        """
        self.host.check()
        try:
            self._events = ConntrackEvents(
                self._poller, self._settings.mark, self._event_buffer, self._hear, self._resync
            )
            self._requests = ConntrackRequests()
            table = KernelTable(self._settings, self._log)
            table.create()
            self._table = table
            if table.is_alone:
                self._end_orphans(self._requests)
        except BaseException:
            self.stop()
            raise
        self._renewed = self.now()
        self._check = self._deadlines.after(CHECK_EVERY, self._look)

    def _end_orphans(self, requests: ConntrackRequests) -> None:
        """Make conntrack forget what a proxy that was killed has left behind.

        Later packets are not translated any more, and this host resets the connection.
        """
        orphans = [each for each in requests.all(self._settings.mark) if each.stage in _LIVING]
        for each in orphans:
            requests.forget(each.transport, each.original, each.id)
        if orphans:
            self._log.warning("ended connections of a proxy that was killed", count=len(orphans))

    def stop(self) -> None:
        """Close every pinhole and remove the table; connections that are left are nobody's."""
        if self._check is not None:
            self._check.cancel()
        if self._table is not None:
            self._table.remove()
            self._table = None
        if self._events is not None:
            self._events.close()
        if self._requests is not None:
            self._requests.close()
        self._open.clear()
        self._flows.clear()

    def obstacle(self, pinhole: Pinhole) -> str:
        """Say why the kernel cannot carry what comes through a pinhole, or nothing."""
        return self.broken or self.host.obstacle(pinhole)

    def open(
        self, wanted: Sequence[tuple[Pinhole, Callable[[KernelFlow], None]]]
    ) -> list[OpenPinhole]:
        """Open pinholes, all or none, in one transaction.

        Args:
            wanted: each with who hears of its connections.

        Raises:
            KernelPathError: they cannot be opened.
        """
        if self._table is None or self.broken:
            raise KernelPathError(self.broken or "the kernel path is not running")
        self._table.open([pinhole for pinhole, _ in wanted])
        opened = [OpenPinhole(pinhole, on_flow) for pinhole, on_flow in wanted]
        for each in opened:
            self._open[each.pinhole.key] = each
            self._recent.pop(each.pinhole.key, None)
        return opened

    def close(self, opened: Sequence[OpenPinhole]) -> None:
        """Close pinholes; harmless when repeated. What has come through them goes on."""
        there = [each for each in opened if self._open.get(each.pinhole.key) is each]
        for each in there:
            del self._open[each.pinhole.key]
            if not each.is_used_up:
                self._recent[each.pinhole.key] = self.now()
        while len(self._recent) > _MAX_RECENT:
            self._recent.popitem(last=False)
        self._close(there)

    def _close(self, opened: Sequence[OpenPinhole]) -> None:
        if self._table is None:
            return
        try:
            self._table.close([each.pinhole for each in opened])
        except KernelPathError as error:
            if self._table.is_owned or not can_administer():
                self._abandon(f"a pinhole cannot be closed: {error}")
            else:  # somebody has changed the table, which is restored as soon as that is noticed
                self._log.debug("kernel elements were gone", reason=str(error))

    def _abandon(self, reason: str) -> None:
        """Let go of everything, rather than have open what cannot be closed."""
        if self._table is None:
            return
        self.is_lost = True
        self._announce([each for each in self._open.values() if not each.is_used_up])
        table, self._table = self._table, None
        table.abandon()
        for flow in tuple(self._flows.values()):
            flow.hear(attrs.evolve(flow.report, stage=Stage.FORGOTTEN))
        self._fail(reason)

    def give_back(self) -> None:
        """Close every pinhole that somebody might still come through; user space waits instead.

        Whoever comes in this moment is either heard of before user space takes over, or his first
        packet is refused and sent again.
        """
        waiting = [each for each in self._open.values() if not each.is_used_up]
        if not waiting:
            return
        self._announce(waiting)
        self._close(waiting)
        if self._events is not None:
            self._events.take_all()
        for each in waiting:
            if self._open.get(each.pinhole.key) is not each:
                continue  # used up just now
            del self._open[each.pinhole.key]
            if each.given_back is not None:
                each.given_back()

    @staticmethod
    def _announce(waiting: Sequence[OpenPinhole]) -> None:
        for each in waiting:
            if each.giving_back is not None:
                each.giving_back()

    def catch_up(self) -> None:
        """Hear of whoever has come until now."""
        if self._events is not None:
            self._events.take_all()

    def let_through(self, passages: Sequence[Passage]) -> None:
        """Let whole protocols through.

        Raises:
            KernelPathError: the kernel refuses.
        """
        if self._table is not None:
            self._table.let_through(passages)

    def find(self, report: FlowReport) -> FlowReport | None:
        """Return what conntrack says of a flow now."""
        if self._requests is None:
            return None
        return self._requests.find(report.transport, report.original)

    def forget(self, flow: KernelFlow) -> None:
        """Hear no more of a flow."""
        self._flows.pop((flow.report.transport, flow.report.original), None)

    def kill(self, report: FlowReport) -> None:
        """Stop a flow at once: refuse its packets, and make conntrack forget it.

        Raises:
            KernelPathError: the kernel refuses.
        """
        if self._table is None or self._requests is None:
            return
        transport = report.transport
        ways = (report.original, report.reply)
        self._table.kill([(transport, way.source, way.target) for way in ways])
        self._requests.forget(transport, report.original, report.id)
        self._killed[report.id] = None  # what was said of it before may still be unheard
        while len(self._killed) > _MAX_RECENT:
            self._killed.popitem(last=False)

    def _hear(self, report: FlowReport) -> None:
        if report.id in self._killed:
            if report.stage is Stage.FORGOTTEN:
                del self._killed[report.id]
            return
        flow = self._flows.get((report.transport, report.original))
        if flow is not None and flow.report.id != report.id:
            if report.stage is Stage.FORGOTTEN:
                return  # a predecessor between the same ports
            flow.hear(attrs.evolve(flow.report, stage=Stage.FORGOTTEN))
            flow = None
        if flow is None:
            flow = self._began(report)
        if flow is not None:
            flow.hear(report)

    def _began(self, report: FlowReport) -> KernelFlow | None:
        """Take note of a flow that is not known yet, if a pinhole has let it in."""
        if report.stage not in _LIVING:
            return None
        target = report.original.target
        key = (report.transport, target.host, target.port)
        opened = self._open.get(key)
        if opened is not None and not _fits(report, opened.pinhole):
            self._log.debug("killed what came through the port's last pinhole", peer=str(target))
            self.kill(report)
            return None
        if opened is None:
            closed = self._recent.get(key)
            if closed is not None and self.now() - closed < _RECENT:
                self._log.debug("killed what came as its pinhole closed", peer=str(target))
                self.kill(report)
            return None
        flow = KernelFlow(self, report, self.now())
        self._flows[report.transport, report.original] = flow
        opened.flows += 1
        opened.on_flow(flow)
        return None if flow.is_closed else flow

    def _resync(self) -> None:
        """Ask what there is, because events were lost."""
        if self._requests is None:
            return
        self._log.warning("conntrack events were lost, asking for all flows")
        found = {
            (each.transport, each.original): each
            for each in self._requests.all(self._settings.mark)
        }
        for key, flow in tuple(self._flows.items()):
            if key not in found:
                flow.hear(attrs.evolve(flow.report, stage=Stage.FORGOTTEN))
        for report in found.values():
            self._hear(report)

    def _look(self) -> None:
        self.look()
        if self._check is not None:
            self._check.reset(self.now() + CHECK_EVERY)

    def look(self) -> None:
        """Renew what has no time-out of its own, and see what others have changed."""
        if self._table is None:
            return
        if not can_administer():
            self._abandon("CAP_NET_ADMIN has been taken away")
            return
        self.host.look()
        try:
            if not self._table.is_intact():
                self._log.warning("somebody has changed the kernel table, restoring it")
                self._table.restore()
            if self.now() - self._renewed >= self._settings.lease / 3:
                self._renewed = self.now()
                self._table.renew()
            if self.broken:
                self._log.info("the kernel path works again")
            self.broken = ""
        except KernelPathError as error:
            self._fail(f"the kernel table was lost: {error}")

    def _fail(self, reason: str) -> None:
        if not self.broken:
            self._log.error("the kernel path has failed", reason=reason)
        self.broken = reason
        self.give_back()


def _fits(report: FlowReport, pinhole: Pinhole) -> bool:
    """Tell whether a flow has come through this pinhole, and not an earlier one of its port."""
    peer, peers = report.original.source.host, pinhole.peers
    return report.reply.source == pinhole.target and (peers is None or peers.is_included(peer))
