"""What the kernel path needs, tried out."""

from __future__ import annotations

import structlog

from fwproxy.datapath.kernel.host import Host
from fwproxy.datapath.kernel.netlink import ConntrackRequests, open_events
from fwproxy.datapath.kernel.table import KernelTable, TableSettings


def try_out(settings: TableSettings, log: structlog.typing.FilteringBoundLogger) -> bool:
    """Make and remove all that the kernel path needs; return whether its table would be owned.

    Raises:
        KernelPathError: something does not work here; the message says what.
    """
    Host.check()
    ConntrackRequests().close()
    open_events(settings.mark).close()
    table = KernelTable(settings, log)
    table.create()
    table.remove()
    return table.is_owned
