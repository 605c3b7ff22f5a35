"""The files of the host that say something about names: /etc/hosts, and whether one has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from fwproxy.address import Endpoint
from fwproxy.errors import InvalidArgumentError

HOSTS = Path("/etc/hosts")
MAX_SIZE = 4 * 1024 * 1024
"""Bytes of /etc/hosts that are read; lines behind them are as if they were not there."""


class Watched:
    """A file that may be changed, or come and go, at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = (-1, -1, -1)  # that of no file

    def has_changed(self) -> bool:
        """Tell whether it is another one than at the last call; true at the first."""
        try:
            stat = self.path.stat()
        except OSError:
            stamp = None
        else:
            stamp = stat.st_mtime_ns, stat.st_size, stat.st_ino
        changed = stamp != self._stamp
        self._stamp = stamp
        return changed


class HostsFile:
    """What /etc/hosts says, read again when it has changed (hosts(5))."""

    def __init__(self, path: Path = HOSTS) -> None:
        self._file = Watched(path)
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._names: dict[str, str] = {}

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a name, in the order of the file."""
        self._refresh()
        return self._addresses.get(name.rstrip(".").lower(), ())

    def name_of(self, host: str) -> str | None:
        """Return the first name of an address."""
        self._refresh()
        return self._names.get(host)

    def _refresh(self) -> None:
        if not self._file.has_changed():
            return
        addresses: dict[str, dict[str, None]] = {}
        self._names = {}
        for host, names in _entries(self._read().splitlines()):
            self._names.setdefault(host, names[0])
            for name in names:
                addresses.setdefault(name.rstrip(".").lower(), {})[host] = None
        self._addresses = {name: tuple(hosts) for name, hosts in addresses.items()}

    def _read(self) -> str:
        try:
            with self._file.path.open("rb") as file:
                data = file.read(MAX_SIZE + 1)
        except OSError:  # there is none
            return ""
        if len(data) > MAX_SIZE:
            data = data[: data.rfind(b"\n", 0, MAX_SIZE) + 1]
        return data.decode("utf-8", "replace")


def _entries(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each address with its names; lines that are none do not count."""
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if names:
            try:
                yield Endpoint(address).host, names
            except InvalidArgumentError:  # it begins with something else
                continue
