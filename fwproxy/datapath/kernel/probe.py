"""What the kernel path needs, tried out."""

from __future__ import annotations

import structlog

from fwproxy.datapath.kernel.host import Host, dropping_chains, legacy_filters
from fwproxy.datapath.kernel.netlink import ConntrackRequests, open_events
from fwproxy.datapath.kernel.nft import Nftables
from fwproxy.datapath.kernel.table import KernelTable, TableSettings
from fwproxy.errors import KernelPathError


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


def forward_drops() -> list[str]:
    """Return the chains, table first, that may drop what is forwarded."""
    nft = None
    try:
        nft = Nftables()
        return dropping_chains(nft.run("list ruleset")) + legacy_filters()
    except KernelPathError:
        return []
    finally:
        if nft is not None:
            nft.close()
