"""What this host can do for the proxy, and where it falls short of a configuration."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fwproxy.config.config import Config
from fwproxy.config.listeners import ListenerKind

_DESCRIPTORS_PER_SESSION = 4
"""Two sockets of the primary connection and two of one data connection."""

_DESCRIPTORS_PER_NAME = 2
"""A question for the addresses of each family."""

_SPARE_DESCRIPTORS = 64
_NET_ADMIN, _NET_RAW = 12, 13
"""Capabilities, by the numbers of linux/capability.h."""
_RESOLV_CONF = "/etc/resolv.conf"
_PAGE = resource.getpagesize()


def raise_file_limit() -> int:
    """Raise the soft limit on open files to the hard one; return what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # a hard limit above what the kernel allows a process
            return soft
    return hard


def facts() -> Iterator[tuple[str, str]]:
    """Name what matters to the proxy: label and value."""
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.release()}"
    yield "event loop", _uvloop()
    yield "data paths", "user, splice" if _has_splice() else "user (no splice here)"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield "open files", f"{soft}, raised to {hard} at start" if soft != hard else str(hard)
    largest, pages = _pipe_limit("pipe-max-size"), _pipe_limit("pipe-user-pages-soft")
    if largest is not None and pages is not None:
        total = f"{pages * _PAGE} bytes for all pipes of a user" if pages else "no bound on all"
        yield "pipes", f"{largest} bytes for one, {total}" + (" (root: no bound)" * _is_root())


def open_files_shortage(config: Config) -> Iterator[str]:
    """Say so if the limit on open files is too low for all sessions that *config* admits."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = (
        config.limits.max_sessions * _DESCRIPTORS_PER_SESSION
        + config.datapath.max_pipes * 2
        + _SPARE_DESCRIPTORS
    )
    if config.resolver.kind == "dns":
        wanted += _DESCRIPTORS_PER_NAME * config.limits.max_resolutions
    if 0 <= hard < wanted:
        yield (
            f"max_sessions = {config.limits.max_sessions} with a data connection each needs about "
            f"{wanted} open files, and the limit is {hard}"
        )


def shortcomings(config: Config) -> Iterator[str]:
    """Say what *config* asks for and this host does not grant."""
    yield from open_files_shortage(config)
    largest = _pipe_limit("pipe-max-size")
    if largest is not None and config.datapath.pipe_size > largest and not _is_root():
        yield (
            f"pipe_size = {config.datapath.pipe_size} is more than the {largest} bytes that this "
            "kernel grants; pipes will be smaller"
        )
    if not _has_splice():
        yield "there is no splice here, so that every byte is copied through the process"
    yield from _privileged_ports(config)
    yield from _transparency(config)
    yield from _name_servers(config)


def _name_servers(config: Config) -> Iterator[str]:
    asked = config.resolver
    names_one = re.search(r"^nameserver\s+\S", _read(_RESOLV_CONF), re.MULTILINE)
    if asked.kind == "dns" and not asked.servers and not names_one:
        yield f"[resolver] names no servers, and {_RESOLV_CONF} none either: no name will resolve"


def _transparency(config: Config) -> Iterator[str]:
    for listener in config.listeners:
        if listener.kind is ListenerKind.TPROXY and not _may_be_transparent():
            yield f'listener "{listener.name}" is a tproxy, which needs CAP_NET_ADMIN'


def _may_be_transparent() -> bool:
    """Tell whether the process has one of the two capabilities that IP_TRANSPARENT needs."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", _read("/proc/self/status"), re.MULTILINE)
    return found is None or bool(int(found[1], 16) & (1 << _NET_ADMIN | 1 << _NET_RAW))


def _privileged_ports(config: Config) -> Iterator[str]:
    text = _read("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    first = int(text) if text.isdigit() else 1024
    for listener in config.listeners:
        if 0 < listener.bind.port < first and not _is_root():
            yield (
                f'listener "{listener.name}" binds port {listener.bind.port}; ports below {first} '
                "need root or CAP_NET_BIND_SERVICE"
            )


def _uvloop() -> str:
    try:
        return f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        return "asyncio (uvloop is not installed)"


def _has_splice() -> bool:
    return sys.platform == "linux" and hasattr(os, "splice")


def _is_root() -> bool:
    return os.geteuid() == 0


def _pipe_limit(name: str) -> int | None:
    text = _read(f"/proc/sys/fs/{name}")
    return int(text) if text.isdigit() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
