"""Which target of a shared redirection had which port, kept in a file over restarts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fwproxy.log import get_logger


class PortMemory:
    """A bounded table from targets to ports; without a file it lasts as long as the process.

    A file that cannot be read or written is said in the log, and nothing else: ports are then
    found by their rule. A port is remembered for one target only.

    Args:
        path: the file, or None.
        most: how many are remembered; the oldest are forgotten first.
    """

    def __init__(self, path: str | None, most: int) -> None:
        self._path = None if path is None else Path(path)
        self._most = most
        self._table: dict[str, int] = {}
        self._log = get_logger().bind()
        if self._path is not None and self._path.exists():
            self._read(self._path)

    @property
    def ports(self) -> set[int]:
        """The ports that somebody has."""
        return set(self._table.values())

    def port_of(self, target: str) -> int | None:
        """Return the port that a target had."""
        return self._table.get(target)

    def remember(self, target: str, port: int) -> None:
        """Note the port of a target."""
        if self._table.get(target) == port:
            return
        self._table = {name: p for name, p in self._table.items() if p != port and name != target}
        self._table[target] = port
        while len(self._table) > self._most:
            del self._table[next(iter(self._table))]
        if self._path is not None:
            self._write(self._path)

    def _read(self, path: Path) -> None:
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self._log.warning("memory of shared ports not read", path=str(path), error=str(error))
            return
        if isinstance(read, dict) and all(type(port) is int for port in read.values()):
            self._table = dict(list(read.items())[-self._most :])
        else:
            self._log.warning("memory of shared ports not read", path=str(path), error="no table")

    def _write(self, path: Path) -> None:
        """Write a new file in the place of the old one, so that there is a whole one always."""
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(self._table, indent=1), encoding="utf-8")
            fresh.replace(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            self._log.warning(
                "memory of shared ports not written", path=str(path), error=str(error)
            )
