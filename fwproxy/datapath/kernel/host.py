"""What this host does with packets besides, as far as the kernel path depends on it."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

from fwproxy.address import Endpoint
from fwproxy.datapath.kernel.netlink import can_administer
from fwproxy.datapath.kernel.pinhole import Pinhole
from fwproxy.errors import KernelPathError

_SYSTEM = Path("/proc/sys/net")
_FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_EVENTS = "netfilter/nf_conntrack_events"
_ACCOUNTING = "netfilter/nf_conntrack_acct"
_NEARLY_FULL = 0.95
_MAY_DROP = re.compile(r"\b(drop|reject|jump|goto|queue|vmap)\b")


def setting(name: str) -> str:
    """Return a kernel setting under /proc/sys/net, empty if there is none."""
    try:
        return (_SYSTEM / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def forwards(version: int) -> bool:
    """Tell whether the host forwards packets of an IP version between its networks."""
    return setting(_FORWARDING[version]) not in {"", "0"}


def counts_bytes() -> bool:
    """Tell whether conntrack counts bytes of connections that begin now."""
    return setting(_ACCOUNTING) == "1"


def is_nearly_full() -> bool:
    """Tell whether conntrack can hardly take new connections, and drops their packets soon."""
    count, largest = setting("netfilter/nf_conntrack_count"), setting("netfilter/nf_conntrack_max")
    return bool(count and largest) and int(count) > _NEARLY_FULL * int(largest)


def dropping_chains(ruleset: str) -> list[str]:
    """Return the chains of a printed ruleset that may drop what is forwarded.

    A chain that asks another one may; what that one does depends on more than a look can tell.
    """
    found: list[str] = []
    where, chain, forwarding = "", "", False
    for line in ruleset.splitlines():
        named = re.match(r"\s*(table|chain) (.+?) \{", line)
        if named:
            where, chain = (named[2], "") if named[1] == "table" else (where, named[2])
            forwarding = False
        elif "hook forward" in line:
            forwarding = True
            if "policy drop" in line:
                found.append(f"{where} {chain}")
        elif forwarding and _MAY_DROP.search(line) and f"{where} {chain}" not in found:
            found.append(f"{where} {chain}")
    return found


def legacy_filters() -> list[str]:
    """Return the filter tables of iptables' old kind, which nftables does not show."""
    found = []
    for name, kind in (("ip_tables_names", "iptables"), ("ip6_tables_names", "ip6tables")):
        with contextlib.suppress(OSError):
            if "filter" in Path("/proc/thread-self/net", name).read_text(encoding="ascii").split():
                found.append(f"filter FORWARD ({kind})")
    return found


class Host:
    """Answers that are kept until the next `look`, because each connection needs them."""

    def __init__(self) -> None:
        self._forwards: dict[int, bool] = {}
        self._local: dict[str, bool] = {}
        self._is_full = False

    @staticmethod
    def check() -> None:
        """Make sure of what the kernel path cannot do without.

        Raises:
            KernelPathError: it is missing; the message says what.
        """
        if not can_administer():
            raise KernelPathError("no CAP_NET_ADMIN")
        if setting(_EVENTS) == "0":
            raise KernelPathError("net.netfilter.nf_conntrack_events is 0")

    def look(self) -> None:
        """Forget what may have changed."""
        self._forwards.clear()
        self._local.clear()
        self._is_full = is_nearly_full()

    def is_local(self, host: str) -> bool:
        """Tell whether an address is one of this host's."""
        known = self._local.get(host)
        if known is None:
            known = self._local[host] = _is_local(Endpoint(host))
        return known

    def forwards(self, version: int) -> bool:
        """Tell whether packets are forwarded, as far as was known at the last look."""
        known = self._forwards.get(version)
        if known is None:
            known = self._forwards[version] = forwards(version)
        return known

    def obstacle(self, pinhole: Pinhole) -> str:
        """Say why packets would not get through a pinhole, or nothing."""
        if self._is_full:
            return "conntrack is nearly full (net.netfilter.nf_conntrack_max)"
        target = pinhole.target.host
        loopback = {pinhole.proxy_address.ip.is_loopback, pinhole.target.ip.is_loopback}
        if len(loopback) > 1:
            return "a loopback address is only for this host"
        peer = pinhole.only_peer
        here = self.is_local(target) or (peer is not None and self.is_local(peer))
        if not here and not self.forwards(pinhole.version):
            return f"{_FORWARDING[pinhole.version].replace('/', '.')} is off"
        return ""


def _is_local(address: Endpoint) -> bool:
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
            sock.bind((address.host, 0))
    except OSError:
        return False
    return True
