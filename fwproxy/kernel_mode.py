"""Whether the kernel carries connections for a running proxy, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import attrs
import structlog

from fwproxy.clock import Deadlines
from fwproxy.config import Config
from fwproxy.datapath.kernel.host import counts_bytes, forwards
from fwproxy.datapath.kernel.path import KernelPath
from fwproxy.datapath.kernel.probe import forward_drops, try_out
from fwproxy.datapath.kernel.table import TableSettings
from fwproxy.datapath.poll import Poller
from fwproxy.errors import ConfigError, KernelPathError

SWITCHED_OFF = 'kernel = "off"'
ONLY_LOOPBACK = "every listener is on a loopback address"


@attrs.define(slots=True, eq=False)
class KernelMode:
    """What the configuration wants and this host grants.

    Attributes:
        path: the data path, if there is one.
        why_not: why there is none.
    """

    path: KernelPath | None = None
    why_not: str = SWITCHED_OFF

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
        wanted = config.datapath.kernel
        why_not = unwanted(config)
        if why_not:
            return cls(why_not=why_not)
        drops = forward_drops()
        if drops and wanted == "auto":
            reason = _dropped(drops, config)
            log.info("no kernel path, connections are spliced", reason=reason)
            return cls(why_not=reason)
        path = KernelPath(
            table_settings(config), config.datapath.kernel_event_buffer, poller, deadlines, log
        )
        try:
            path.start()
        except KernelPathError as error:
            if wanted == "require":
                raise ConfigError.at(
                    ("datapath", "kernel"), f"the kernel path is required, but: {error}", "kernel"
                ) from error
            log.info("no kernel path, connections are spliced", reason=str(error))
            return cls(why_not=str(error))
        if drops:
            log.warning("connections may be dropped", reason=_dropped(drops, config))
        families = [f"IPv{version}" for version in (4, 6) if forwards(version)]
        log.info(
            "the kernel carries connections without filters", table=path.table_name,
            forwarding=", ".join(families) or "off", counts_bytes=counts_bytes(),
        )  # fmt: skip
        return cls(path, "")

    def close(self) -> None:
        """Remove the table; no pinhole may be left."""
        if self.path is not None:
            self.path.stop()
            self.path, self.why_not = None, "the proxy has stopped"


def unwanted(config: Config) -> str:
    """Say why a configuration has no use for the kernel path, or nothing."""
    wanted = config.datapath.kernel
    if wanted == "off":
        return SWITCHED_OFF
    # Conntrack costs all traffic of a host something, and a trial on loopback is not worth that.
    if wanted == "auto" and all(each.bind.ip.is_loopback for each in config.listeners):
        return ONLY_LOOPBACK
    return ""


def _dropped(chains: list[str], config: Config) -> str:
    return (
        f"the chain {chains[0]} may drop what is forwarded: let it accept ct mark "
        f"{config.datapath.kernel_mark:#x}, and set kernel to require"
    )


def abilities(
    config: Config, log: structlog.typing.FilteringBoundLogger
) -> Iterator[tuple[str, str]]:
    """Name what this host can do for a configuration's kernel path: label and value."""
    why_not = unwanted(config)
    if why_not:
        yield "kernel path", f"not used: {why_not}"
        return
    try:
        owned = try_out(table_settings(config), log)
    except KernelPathError as error:
        yield "kernel path", f"not possible: {error}"
        return
    yield "kernel path", "nftables and conntrack events" + ("; the table is owned" * owned)
    on = [f"IPv{version}" for version in (4, 6) if forwards(version)]
    yield "forwarding", ", ".join(on) or "off: only for connections with this host itself"
    yield "bytes in the kernel", "counted" if counts_bytes() else "not counted (nf_conntrack_acct)"
    for chain in forward_drops():
        yield "dropped", _dropped([chain], config)


def table_settings(config: Config) -> TableSettings:
    """Return what the table is made from."""
    datapath = config.datapath
    return TableSettings(
        prefix=datapath.kernel_table,
        mark=datapath.kernel_mark,
        max_pinholes=datapath.max_pinholes,
        lease=datapath.kernel_lease,
    )
