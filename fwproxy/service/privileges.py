"""Becoming an unprivileged user, with no more capabilities than the data paths need."""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
from collections.abc import Iterable

from fwproxy.config.config import Config
from fwproxy.engine.kernel import unwanted
from fwproxy.errors import ConfigError

CAP_NET_ADMIN = 12
_PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 8, 38
_CAPABILITY_VERSION_3 = 0x20080522


def needed(config: Config) -> frozenset[int]:
    """Return the capabilities that are used while the proxy runs; its listeners are open then."""
    unused = bool(unwanted(config)) and config.secondary.source == "proxy"
    return frozenset() if unused else frozenset({CAP_NET_ADMIN})


def account(user: str) -> pwd.struct_passwd:
    """Return a user's entry.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise ConfigError.at(("process", "user"), f"there is no user {user!r}", "user") from None


def become(user: str, capabilities: Iterable[int] = ()) -> None:
    """Become a user for good, and keep only some capabilities of root's.

    Nothing is to be done where the process is that user already.

    Raises:
        ConfigError: there is no such user, or only root could become it.
    """
    entry = account(user)
    if os.geteuid() == entry.pw_uid:
        return
    if os.geteuid() != 0:
        problem = f"only root can become {user!r}"
        raise ConfigError.at(("process", "user"), problem, "user")
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.initgroups(user, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    kept = sum(1 << number for number in capabilities)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    _call(libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)))
    _call(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
