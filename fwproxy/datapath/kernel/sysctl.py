"""Kernel settings under /proc/sys/net, those of this thread's network namespace."""

from __future__ import annotations

from pathlib import Path

_SYSTEM = Path("/proc/sys/net")
FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_ACCOUNTING = "netfilter/nf_conntrack_acct"
_TIMEOUT = "netfilter/nf_conntrack_tcp_timeout_{}"
_TCP_STATES = {
    "syn_sent": "syn_sent", "syn_recv": "syn_recv", "established": "established",
    "fin_wait": "fin_wait", "close_wait": "close_wait", "last_ack": "last_ack",
    "time_wait": "time_wait", "close": "close", "retrans": "max_retrans",
    "unack": "unacknowledged",
}  # fmt: skip
"""As nftables calls them, and as these settings do."""


def setting(name: str) -> str:
    """Return a kernel setting under /proc/sys/net, empty if there is none."""
    try:
        return (_SYSTEM / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def forwards(version: int) -> bool:
    """Tell whether the host forwards packets of an IP version between its networks."""
    return setting(FORWARDING[version]) not in {"", "0"}


def counts_bytes() -> bool:
    """Tell whether conntrack counts bytes of connections that begin now."""
    return setting(_ACCOUNTING) == "1"


def tcp_timeouts() -> dict[str, int]:
    """Return how many seconds conntrack remembers a TCP connection without packets, by state."""
    found = {state: setting(_TIMEOUT.format(name)) for state, name in _TCP_STATES.items()}
    return {state: int(seconds) for state, seconds in found.items() if seconds.isdigit()}
