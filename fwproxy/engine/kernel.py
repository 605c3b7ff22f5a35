"""Whether the kernel carries connections for a running proxy, and why not.

With `auto` it does as long as no transfer can fail by it that would not fail otherwise, which may
change at any time: what other tables do is looked at again whenever they change, connections are
spliced from then on, and ports that wait in the kernel wait in user space instead. With `require`
the operator vouches for that.
"""

from __future__ import annotations

import math
import time
from typing import Self

import attrs
import structlog

from fwproxy.clock import RESOLUTION, Deadline, Deadlines
from fwproxy.config.config import Config
from fwproxy.datapath.kernel.host import Host
from fwproxy.datapath.kernel.path import CHECK_EVERY, KernelPath
from fwproxy.datapath.kernel.surroundings import Surroundings
from fwproxy.datapath.kernel.sysctl import counts_bytes, forwards
from fwproxy.datapath.kernel.table import TableSettings
from fwproxy.datapath.kernel.watch import Watch
from fwproxy.datapath.poll import Poller
from fwproxy.errors import ConfigError, KernelPathError

SWITCHED_OFF = 'kernel = "off"'
ONLY_LOOPBACK = "every listener is on a loopback address"
JUST_CHANGED = "the rules of other tables have just changed"
SPLICED = "no kernel path, connections are spliced"
_SPARE = 60
"""Seconds that conntrack remembers a connection after the proxy has found it to rest too long."""
_SHARE = 20
"""A look at the rules takes at most one part in so many of the time, however many there are."""
_LONGEST_WAIT = 10.0
"""No change waits longer than so many seconds for one."""


class KernelMode:
    """What the configuration wants and this host grants.

    Attributes:
        path: the data path, if there is one.
    """

    def __init__(self) -> None:
        self.path: KernelPath | None = None
        self._reason = SWITCHED_OFF
        self._start: _Start | None = None
        self._surroundings: Surroundings | None = None
        self._watch: Watch | None = None
        self._timer: Deadline | None = None
        self._postponed: Deadline | None = None
        self._not_before = 0.0

    @property
    def why_not(self) -> str:
        """Why no connection is given to the kernel now; empty where some may be."""
        if self._reason or self._postponed is None:
            return self._reason or ("" if self.path is None else self.path.broken)
        return JUST_CHANGED

    @property
    def is_open(self) -> bool:
        """Whether connections may be given to the kernel now."""
        return self.path is not None and not self.why_not

    @classmethod
    def start(
        cls,
        config: Config,
        poller: Poller,
        deadlines: Deadlines,
        log: structlog.typing.FilteringBoundLogger,
    ) -> Self:
        """Prepare the kernel path as `[datapath] kernel` says.

        Raises:
            ConfigError: it is required, and this host cannot.
        """
        mode = cls()
        mode._reason = unwanted(config)
        if mode._reason:
            return mode
        mode._start = _Start(config, poller, deadlines, log)
        try:
            mode._begin(mode._start)
        except KernelPathError as error:
            mode.close(str(error))
            if config.datapath.kernel == "require":
                raise ConfigError.at(
                    ("datapath", "kernel"), f"the kernel path is required, but: {error}", "kernel"
                ) from error
            log.info(SPLICED, reason=str(error))
        except BaseException:
            mode.close()
            raise
        return mode

    def _begin(self, start: _Start) -> None:
        Host.check()
        self._surroundings = surroundings(start.config)
        self._watch = Watch(start.poller, self._rules_changed, self._routes_changed)
        self._judge()
        if self.path is None and self._reason:
            start.log.info(SPLICED, reason=self._reason)
        self._timer = start.deadlines.after(CHECK_EVERY, self._look)

    def _make_path(self, start: _Start) -> None:
        """Make the path and its table.

        Raises:
            KernelPathError: this host cannot.
        """
        assert self._watch is not None  # noqa: S101 - opened before
        assert self._surroundings is not None  # noqa: S101 - the same
        config, log = start.config, start.log
        path = KernelPath(
            table_settings(config), config.datapath.kernel_event_buffer, start.poller,
            start.deadlines, log,
        )  # fmt: skip
        path.start()
        self.path = path
        self._watch.leave_out(path.table_name)
        self._surroundings.rules_changed()  # what else it would have said has been skipped
        families = [f"IPv{version}" for version in (4, 6) if forwards(version)]
        log.info(
            "the kernel carries connections without filters", table=path.table_name,
            forwarding=", ".join(families) or "off", counts_bytes=counts_bytes(),
        )  # fmt: skip

    def _judge(self) -> None:
        """See whether the kernel may carry connections now.

        Raises:
            KernelPathError: it could, and then could not.
        """
        start, around = self._start, self._surroundings
        if start is None or around is None:
            return
        if self.path is not None and self.path.is_lost:
            self.path.stop()
            self.path = None
        if start.is_required:
            if self.path is None:
                self._make_path(start)
            reason = next(iter(around.rules()), "")
            if reason and reason != start.warned:
                start.log.warning("connections may be dropped", reason=reason)
            start.warned = reason
            self._reason = ""
            return
        reason = around.hindrance()
        if not reason and self.path is None:
            self._make_path(start)
            reason = around.hindrance()
        before, self._reason = self._reason, reason
        if self.path is None:
            return
        if reason and not before:
            start.log.warning("the kernel path rests, connections are spliced", reason=reason)
            self.path.give_back()
        elif before and not reason and start.was_made:
            start.log.info("the kernel carries connections again")
        start.was_made = True

    def _look(self) -> None:
        """See what nobody tells of when it changes."""
        self._try_to_judge()
        if self._timer is not None and self._start is not None:
            self._timer.reset(self._start.deadlines.now() + CHECK_EVERY)

    def _try_to_judge(self) -> None:
        try:
            self._judge()
        except KernelPathError as error:  # so it is tried no more
            if self._start is not None:
                self._start.log.info(SPLICED, reason=str(error))
            self.close(str(error))

    def _routes_changed(self) -> None:
        if self._surroundings is not None:
            self._surroundings.routes_changed()
            self._try_to_judge()

    def _rules_changed(self) -> None:
        """Look at the rules again: at once, or as soon as that does not take too much time."""
        if self._start is None or self._postponed is not None:
            return
        deadlines = self._start.deadlines
        wait = self._not_before - deadlines.now()
        if wait > 0:
            self._postponed = deadlines.after(wait, self._look_at_rules)
            if self.path is not None and not self._start.is_required:
                self.path.give_back()  # whatever has changed, user space may wait
        else:
            self._look_at_rules()

    def _look_at_rules(self) -> None:
        if self._start is None or self._surroundings is None:
            return
        if self._postponed is not None:
            self._postponed.cancel()
            self._postponed = None
        began = time.thread_time()
        self._surroundings.rules_changed()
        if self.path is not None:
            self.path.look()  # it may have been our table
        self._try_to_judge()
        wait = max(RESOLUTION, _SHARE * (time.thread_time() - began))
        self._not_before = self._start.deadlines.now() + min(wait, _LONGEST_WAIT)

    def close(self, reason: str = "the proxy has stopped") -> None:
        """Remove the table; no pinhole may be left."""
        self._reason = reason
        for deadline in (self._timer, self._postponed):
            if deadline is not None:
                deadline.cancel()
        self._timer = self._postponed = None
        if self._watch is not None:
            self._watch.close()
        if self._surroundings is not None:
            self._surroundings.close()
        if self.path is not None:
            self.path.stop()
        self._watch = self._surroundings = self.path = None


@attrs.define(slots=True)
class _Start:
    """What the path is made from, as soon as it can be.

    Attributes:
        config: the configuration.
        poller: where events are watched.
        deadlines: for looks and renewals.
        log: where changes are reported.
        warned: what has been said already.
        was_made: whether the path has been there before.
    """

    config: Config
    poller: Poller
    deadlines: Deadlines
    log: structlog.typing.FilteringBoundLogger
    warned: str = ""
    was_made: bool = False

    @property
    def is_required(self) -> bool:
        """Whether the operator vouches for the host."""
        return self.config.datapath.kernel == "require"


def unwanted(config: Config) -> str:
    """Say why a configuration has no use for the kernel path, or nothing."""
    wanted = config.datapath.kernel
    if wanted == "off":
        return SWITCHED_OFF
    # Conntrack costs all traffic of a host something, and a trial on loopback is not worth that.
    if wanted == "auto" and all(each.bind.ip.is_loopback for each in config.listeners):
        return ONLY_LOOPBACK
    return ""


def surroundings(config: Config) -> Surroundings:
    """Return what is looked at besides the proxy's own table."""
    return Surroundings(config.datapath.kernel_mark, config.limits.idle_timeout)


def table_settings(config: Config) -> TableSettings:
    """Return what the table is made from."""
    datapath = config.datapath
    return TableSettings(
        prefix=datapath.kernel_table,
        mark=datapath.kernel_mark,
        max_pinholes=datapath.max_pinholes,
        lease=datapath.kernel_lease,
        patience=math.ceil(config.limits.idle_timeout) + _SPARE,
    )
