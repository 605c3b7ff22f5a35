"""One connection that the kernel carries, as the relay of a `Connection`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint, Transport
from fwproxy.datapath.base import Done
from fwproxy.datapath.kernel.conntrack import FlowReport, Stage
from fwproxy.errors import KernelPathError

if TYPE_CHECKING:
    from fwproxy.datapath.kernel.path import KernelPath

_FRESH = 1.0
"""Seconds for which an answer of conntrack about traffic is good enough."""

_SPOKEN = frozenset({Stage.ESTABLISHED, Stage.CLOSED})
_ENDS = {
    Stage.CLOSED: ("both ends have closed", False),
    Stage.RESET: ("an end has reset the connection", True),
}


def _nothing() -> None:
    return


class KernelFlow:
    """What conntrack knows of one translated connection; its bytes are nowhere near.

    Byte counts are those of packets, headers included, and 0 unless `nf_conntrack_acct` is on.

    Attributes:
        report: the last thing heard of it.
        from_client: whether the client has sent the first packet.
        established: called once, when both ends have spoken (UDP: the first datagram has come).
        on_done: called once, when it has ended by itself.
    """

    kind = "kernel"

    def __init__(self, path: KernelPath, report: FlowReport, now: float) -> None:
        self.report = report
        self.from_client = False
        self.established: Callable[[], None] = _nothing
        self.on_done: Done | None = None
        self.is_closed = False
        self._last_active = now
        self._path = path
        self._was_established = False
        self._earlier = (0, 0)
        self._asked = now

    @property
    def peer(self) -> Endpoint:
        """The end that has sent the first packet."""
        return self.report.original.source

    @property
    def external_name(self) -> Endpoint:
        """The proxy's address as the server sees it."""
        return self.report.reply.target if self.from_client else self.report.original.target

    @property
    def internal_name(self) -> Endpoint:
        """What the client sees at the other end: an address of the proxy, or the server's."""
        return self.report.original.target if self.from_client else self.report.reply.target

    @property
    def client_bytes(self) -> int:
        """Bytes of packets from the client."""
        return self._bytes(original=self.from_client)

    @property
    def server_bytes(self) -> int:
        """Bytes of packets from the server."""
        return self._bytes(original=not self.from_client)

    def _bytes(self, *, original: bool) -> int:
        now = (self.report.original_bytes if original else self.report.reply_bytes) or 0
        return now + self._earlier[not original]

    def follows(self, earlier: KernelFlow) -> None:
        """Count on where the same two ends have rested."""
        sums = earlier._bytes(original=True), earlier._bytes(original=False)
        self._earlier = sums

    def start(self) -> None:
        """Nothing is left to do: the packets flow."""

    def hear(self, report: FlowReport) -> None:
        """Take note of what conntrack says."""
        if self.is_closed:
            return
        self._take(report)
        stage = report.stage
        # Datagrams need not be answered; TCP without an answer is no connection yet. What both
        # ends have closed was one, also if nobody has said so: events may be lost.
        spoken = stage in _SPOKEN or report.transport is Transport.UDP
        if spoken and stage is not Stage.FORGOTTEN and not self._was_established:
            self._was_established = True
            self.established()
        if (stage in _ENDS or stage is Stage.FORGOTTEN) and not self.is_closed:
            self._end(stage)

    def _take(self, report: FlowReport) -> None:
        before, now = self.report, self._path.now()
        if report.original_bytes is None and before.original_bytes is not None:
            # Events of flows that live bear no counts.
            report = attrs.evolve(
                report, original_bytes=before.original_bytes, reply_bytes=before.reply_bytes
            )
        if _has_moved(before, report, now - self._asked):
            self._last_active = now
        self._asked, self.report = now, report

    def _end(self, stage: Stage) -> None:
        if stage is not Stage.FORGOTTEN:
            self._look()
        self.is_closed = True
        self._path.forget(self)
        if stage in _ENDS:
            reason, broken = _ENDS[stage]
        elif self.report.transport is Transport.UDP:
            reason, broken = "idle", False
        elif not self._was_established:
            reason, broken = "nobody has answered, or refused", True
        else:
            reason, broken = "conntrack has forgotten the connection", True
        if self.on_done is not None:
            self.on_done(reason, broken, None)

    @property
    def last_active(self) -> float:
        """The loop's time of the last traffic; asks conntrack unless it was asked just now."""
        if not self.is_closed and self._path.now() - self._asked >= _FRESH:
            self._look()
        return self._last_active

    def _look(self) -> None:
        found = self._path.find(self.report)
        if found is not None and found.id == self.report.id:
            self._take(found)

    def close(self, *, abort: bool = False) -> None:  # noqa: ARG002 - the kernel knows one way
        """Stop the flow at once, without calling `on_done`."""
        if not self.is_closed:
            self.is_closed = True
            self._look()
            self._path.forget(self)
            with contextlib.suppress(KernelPathError):  # the path is ending itself
                self._path.kill(self.report)


def _has_moved(before: FlowReport, now: FlowReport, seconds: float) -> bool:
    """Tell whether packets have passed between two reports."""
    if now.original_bytes is not None:
        return (now.original_bytes, now.reply_bytes) != (before.original_bytes, before.reply_bytes)
    if now.timeout is None or before.timeout is None:
        return False
    return now.timeout > before.timeout - seconds + 1  # a packet winds it up again
