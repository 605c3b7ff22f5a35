"""What this host does with packets besides, as far as the kernel path depends on it."""

from __future__ import annotations

import socket

from fwproxy.address import Endpoint
from fwproxy.datapath.kernel.netlink import can_administer
from fwproxy.datapath.kernel.pinhole import Pinhole
from fwproxy.datapath.kernel.routing import has_policy_routing
from fwproxy.datapath.kernel.sysctl import FORWARDING, forwards, setting
from fwproxy.errors import KernelPathError

_EVENTS = "netfilter/nf_conntrack_events"
_NEARLY_FULL = 0.95


def is_nearly_full() -> bool:
    """Tell whether conntrack can hardly take new connections, and drops their packets soon."""
    count, largest = setting("netfilter/nf_conntrack_count"), setting("netfilter/nf_conntrack_max")
    return bool(count and largest) and int(count) > _NEARLY_FULL * int(largest)


class Host:
    """Answers that are kept until the next `look`, because each connection needs them."""

    def __init__(self) -> None:
        self._forwards: dict[int, bool] = {}
        self._local: dict[str, bool] = {}
        self._diverts: bool | None = None
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
        self._diverts = None
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
            return f"{FORWARDING[pinhole.version].replace('/', '.')} is off"
        foreign = pinhole.source is None or not self.is_local(pinhole.proxy_address.host)
        if foreign and self._has_diversions():
            return "packets to addresses of other hosts may be diverted (ip rule)"
        return ""

    def _has_diversions(self) -> bool:
        if self._diverts is None:
            self._diverts = has_policy_routing()
        return self._diverts


def _is_local(address: Endpoint) -> bool:
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
            sock.bind((address.host, 0))
    except OSError:
        return False
    return True
