"""What this host can do for the kernel data path of a configuration, for `fwproxy check`."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from fwproxy.config.config import Config
from fwproxy.datapath.kernel.host import Host
from fwproxy.datapath.kernel.probe import try_out
from fwproxy.datapath.kernel.sysctl import counts_bytes, forwards
from fwproxy.engine.kernel import surroundings, table_settings, unwanted
from fwproxy.errors import KernelPathError


def abilities(
    config: Config, log: structlog.typing.FilteringBoundLogger
) -> Iterator[tuple[str, str]]:
    """Name what this host can do for a configuration's kernel path: label and value."""
    why_not = unwanted(config)
    if why_not:
        yield "kernel path", f"not used: {why_not}"
        return
    try:
        Host.check()
        around = surroundings(config)
        try:
            hindrance, rules = around.hindrance(), around.rules()
        finally:
            around.close()
        if hindrance and config.datapath.kernel == "auto":
            # A trial would make conntrack begin, where nothing of it is wanted.
            yield "kernel path", f"not used now: {hindrance}"
        else:
            owned = try_out(table_settings(config), log)
            yield "kernel path", "nftables and conntrack events" + ("; the table is owned" * owned)
    except KernelPathError as error:
        yield "kernel path", f"not possible: {error}"
        return
    on = [f"IPv{version}" for version in (4, 6) if forwards(version)]
    yield "forwarding", ", ".join(on) or "off: only for connections with this host itself"
    yield "bytes in the kernel", "counted" if counts_bytes() else "not counted (nf_conntrack_acct)"
    for rule in rules:
        yield "in the way", rule
