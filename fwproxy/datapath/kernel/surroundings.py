"""Whether this host lets the kernel carry connections no worse than user space would.

That is more than whether it can: no transfer may fail that splicing would have done, nobody may
get in whom the host's own rules keep from the proxy, and nothing that the log says may be lost.
"""

from __future__ import annotations

import itertools

from fwproxy.datapath.kernel.legacy import LegacyTables
from fwproxy.datapath.kernel.nft import Nftables
from fwproxy.datapath.kernel.routing import has_policy_routing, not_forwarding
from fwproxy.datapath.kernel.ruleset import obstacles
from fwproxy.datapath.kernel.sysctl import counts_bytes, setting
from fwproxy.errors import KernelPathError

_ESTABLISHED = "netfilter/nf_conntrack_tcp_timeout_established"
MAX_OBSTACLES = 8
"""How many are named."""


class Surroundings:
    """What is found is kept until somebody says that it may have changed.

    Args:
        mark: the conntrack mark of connections that the kernel carries.
        idle_timeout: seconds that a connection may rest before the proxy ends it.
    """

    def __init__(self, mark: int, idle_timeout: float) -> None:
        self._mark = mark
        self._idle_timeout = idle_timeout
        self._routing: str | None = None
        self._rules: list[str] | None = None
        self._legacy = LegacyTables()

    def close(self) -> None:
        """Look no more."""
        self._legacy.close()

    def routes_changed(self) -> None:
        """Forget how packets are routed."""
        self._routing = None

    def rules_changed(self) -> None:
        """Forget what other tables do."""
        self._rules = None

    def hindrance(self) -> str:
        """Say why connections had better be spliced, or nothing."""
        reason = self._routes() or self._settings()
        return reason or next(iter(self.rules()), "")

    def _settings(self) -> str:
        if not setting("netfilter/nf_conntrack_acct"):
            return "conntrack is not in use (nf_conntrack)"
        if not counts_bytes():
            return "net.netfilter.nf_conntrack_acct is 0, so that bytes would not be counted"
        seconds = setting(_ESTABLISHED)
        if seconds.isdigit() and int(seconds) < self._idle_timeout:
            return f"conntrack forgets connections after {seconds} s, before they are idle"
        return ""

    def _routes(self) -> str:
        if self._routing is None:
            self._routing = not_forwarding()
            if not self._routing and has_policy_routing():
                self._routing = "there is policy routing (ip rule)"
        return self._routing

    def rules(self) -> list[str]:
        """Return what other tables may do to connections that the kernel carries."""
        if self._rules is None:
            self._rules = _rules(self._mark)
        legacy = self._legacy.hindrance()  # of which nobody says when it changes
        return [legacy, *self._rules] if legacy else self._rules


def _rules(mark: int) -> list[str]:
    nft = None
    try:
        nft = Nftables()
        return list(itertools.islice(obstacles(nft.run("list ruleset"), mark), MAX_OBSTACLES))
    except KernelPathError as error:
        return [f"the rules of other tables cannot be seen: {error}"]
    finally:
        if nft is not None:
            nft.close()
