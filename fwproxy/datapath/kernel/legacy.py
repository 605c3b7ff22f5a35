"""iptables' old kind, which goes its own way beside nftables."""

from __future__ import annotations

import os

_MAY_DROP = {"filter", "mangle", "raw", "security"}
"""Its tables that may drop, or change marks. `nat` does neither."""
_MAX_NAMES = 4096


class LegacyTables:
    """The tables of iptables' old kind, which nftables does not show.

    The files stay open: only root may open them, and this process may be somebody else later.

    Args:
        directory: where the kernel says which ones there are.
    """

    def __init__(self, directory: str = "/proc/thread-self/net") -> None:
        self._files: dict[str, int | None] = {}
        for name, kind in (("ip_tables_names", "iptables"), ("ip6_tables_names", "ip6tables")):
            try:
                self._files[kind] = os.open(f"{directory}/{name}", os.O_RDONLY)
            except PermissionError:
                self._files[kind] = None
            except OSError:  # there are no such tables
                continue

    def hindrance(self) -> str:
        """Say which of them may drop what is forwarded, or change marks; or nothing."""
        for kind, file in self._files.items():
            if file is None:
                return f"only root can see the tables of {kind}, of its old kind"
            found = _MAY_DROP.intersection(os.pread(file, _MAX_NAMES, 0).decode().split())
            if found:
                return f"the table {min(found)} of {kind} may drop what is forwarded"
        return ""

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            if file is not None:
                os.close(file)
        self._files.clear()
