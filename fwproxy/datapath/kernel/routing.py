"""How this host forwards packets: between which of its networks, and by which routing tables."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from fwproxy.datapath.kernel.messages import DONE, DUMP, ERROR, attributes, message, split
from fwproxy.datapath.kernel.sysctl import FORWARDING, forwards

_GET_RULE, _NEW_RULE = 34, 32
_RULE = struct.Struct("=BBBBBBBBI")
"""struct fib_rule_hdr: family, lengths of destination and source, TOS, table, two reserved,
action, flags."""
_TO_TABLE = 1
_LOCAL, _MAIN, _DEFAULT = 255, 254, 253
_PRIORITY, _SUPPRESS, _TABLE, _PROTOCOL = 6, 14, 15, 21
_ORDINARY = {_PRIORITY, _SUPPRESS, _TABLE, _PROTOCOL}
"""Attributes of the rules that every host has: they ask for nothing."""
_BUFFER = 64 * 1024
_PATIENCE = 1.0
"""Seconds for an answer that the kernel gives before `send` returns."""


def has_policy_routing() -> bool:
    """Tell whether `ip rule` says more than which tables every packet is looked up in.

    Such a rule may ask for a source address or a mark, which packets that are translated have
    not got when they are routed.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            sock.settimeout(_PATIENCE)
            sock.send(message(_GET_RULE, DUMP, 1, bytes(_RULE.size), generic=b""))
            while True:
                kinds = []
                for kind, _, _, body in split(sock.recv(_BUFFER)):
                    kinds.append(kind)
                    if kind == _NEW_RULE and not _is_ordinary(body):
                        return True
                if not kinds or kinds[-1] in {DONE, ERROR}:
                    return False
    except OSError:  # a kernel without such rules
        return False


def _is_ordinary(rule: bytes) -> bool:
    family, to_length, from_length, tos, table, _, _, action, _ = _RULE.unpack_from(rule)
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return True  # of multicast
    asked = attributes(rule[_RULE.size :]).keys() - _ORDINARY
    plain = not (to_length or from_length or tos or asked) and action == _TO_TABLE
    return plain and table in {_LOCAL, _MAIN, _DEFAULT}


def not_forwarding() -> str:
    """Name the setting that keeps packets of some network from being forwarded, if any does."""
    on = [version for version in (4, 6) if forwards(version)]
    if not on:
        return f"{FORWARDING[4].replace('/', '.')} is off"
    for version in on:
        for path in sorted(Path(f"/proc/sys/net/ipv{version}/conf").iterdir()):
            if path.name in {"all", "default", "lo"}:
                continue
            try:
                if (path / "forwarding").read_text(encoding="ascii").strip() == "0":
                    return f"ipv{version}.conf.{path.name}.forwarding is off"
            except OSError:  # a device that is gone
                continue
    return ""
