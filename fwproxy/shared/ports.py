"""Shared redirections: which targets may have one, which port, and those that there are.

Clients of cluster protocols remember the addresses of its servers, and share them. What they are
told must so be the same for every client, for as long as anybody uses it, and after a restart.
`fwproxy.session.sharing` opens the ports.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Destination, Endpoint, HostName, IpFilter, Reach, is_ip, reach_of
from fwproxy.config.shared import SharedAllow, SharedConfig, SharedTarget
from fwproxy.errors import QuotaError
from fwproxy.shared.memory import PortMemory

if TYPE_CHECKING:
    from fwproxy.session.sharing import SharedPort


@attrs.frozen(slots=True)
class SharedKey:
    """What makes two shared redirections the same one.

    Attributes:
        listener: the name of the listener that the clients came in by.
        protocol: the name of the protocol.
        target: the server, as `canonical` spells it.
    """

    listener: str
    protocol: str
    target: Destination

    def __str__(self) -> str:
        return f"{self.listener} {self.protocol} {self.target}"


def canonical(target: Destination) -> Destination:
    """Return the one spelling of a target: names in small letters, without a dot at the end."""
    host = target.host.rstrip(".").lower()
    if isinstance(target, Endpoint) or is_ip(host):
        return Endpoint(host, target.port)
    return HostName(host, target.port)


class AllowList:
    """What may be shared; a server's word alone is not enough, or the proxy is an open relay."""

    def __init__(self, config: SharedConfig) -> None:
        self._entries = [(entry, IpFilter().include(*entry.prefixes)) for entry in config.allow]
        self._targets = {canonical(each.target) for each in config.targets}

    def is_allowed(self, target: Destination) -> bool:
        """Tell whether a canonical target may be shared."""
        return target in self._targets or any(True for _ in self._matching(target))

    def admits(self, target: Destination, address: Endpoint) -> bool:
        """Tell whether an allowed target may be reached at *address*, now that it is resolved.

        A name may point anywhere: it has to stay within the prefixes that stand beside it, and
        without any it must not lead to the proxy's own host or link.
        """
        if target in self._targets:
            return True
        for entry, hosts in self._matching(target):
            if entry.prefixes and hosts.is_included(address.host):
                return True
            if not entry.prefixes and reach_of(address.host) is Reach.NETWORK:
                return True
        return False

    def _matching(self, target: Destination) -> Iterator[tuple[SharedAllow, IpFilter]]:
        for entry, hosts in self._entries:
            if entry.ports and not any(r.first <= target.port <= r.last for r in entry.ports):
                continue
            if isinstance(target, Endpoint):
                fits = hosts.is_included(target.host)
            else:
                fits = any(fnmatch.fnmatchcase(target.host, n.lower()) for n in entry.names)
            if fits:
                yield entry, hosts


class PortRule:
    """Which port a target gets, whatever has come before: the same after a restart.

    A configured one has its own. Every other has the port that it had before, as far as there is
    a memory of it; otherwise the one that its name hashes to, and if that is another's, the next.
    Only in that case, and without a memory, does the order matter in which targets became known.
    """

    def __init__(self, config: SharedConfig, memory: PortMemory) -> None:
        self._config = config
        self._memory = memory
        self._fixed = {each.port for each in config.targets}

    def configured(self, key: SharedKey) -> SharedTarget | None:
        """Return the target's own entry in the configuration, that of its listener first."""
        found = [each for each in self._config.targets if canonical(each.target) == key.target]
        fitting = [each for each in found if each.listener in {key.listener, None}]
        return min(fitting, key=lambda each: each.listener is None, default=None)

    def candidates(self, key: SharedKey, taken: Iterable[int]) -> Iterator[int]:
        """Yield the ports to try, in this order, without those that others have."""
        first = self.usual(key)
        if self.configured(key) is not None:
            yield first
            return
        ports = self._config.ports
        others = self._fixed | set(taken)
        remembered = self._memory.ports - {first}
        places = [ports.first + (first - ports.first + n) % len(ports) for n in range(len(ports))]
        free = [port for port in places if port not in others]
        yield from sorted(free, key=remembered.__contains__)  # stable: those of others come last

    def usual(self, key: SharedKey) -> int:
        """Return the port that a target has if nothing is in its way."""
        own, ports = self.configured(key), self._config.ports
        if own is not None:
            return own.port
        remembered = self._memory.port_of(str(key))
        if remembered is not None and ports.first <= remembered <= ports.last:
            return remembered
        digest = hashlib.sha256(str(key).encode()).digest()
        return ports.first + int.from_bytes(digest[:8], "big") % len(ports)

    def remember(self, key: SharedKey, port: int) -> None:
        """Note which port a target has got."""
        if self.configured(key) is None:
            self._memory.remember(str(key), port)


class SharedPorts:
    """The shared redirections that there are."""

    def __init__(self, config: SharedConfig, most: int) -> None:
        self.allowed = AllowList(config)
        self.rule = PortRule(config, PortMemory(config.memory, 4 * most))
        self.linger = config.linger
        self._most = most
        self._ports: dict[SharedKey, SharedPort] = {}

    def __len__(self) -> int:
        return len(self._ports)

    def __iter__(self) -> Iterator[SharedPort]:
        return iter(tuple(self._ports.values()))

    def get(self, key: SharedKey) -> SharedPort | None:
        """Return the one that there is."""
        return self._ports.get(key)

    def make_room(self) -> None:
        """Close one that nobody uses if there are as many as there may be.

        Raises:
            QuotaError: all of them are in use.
        """
        if len(self._ports) < self._most:
            return
        idle = [port for port in self._ports.values() if not port.users]
        if not idle:
            raise QuotaError(f"{self._most} shared redirections already (max_shared_redirections)")
        min(idle, key=lambda port: port.last_used).close("another one needs its place")

    def enter(self, port: SharedPort) -> None:
        """Add one."""
        self._ports[port.key] = port

    def strike(self, port: SharedPort) -> None:
        """Forget one that has been closed."""
        if self._ports.get(port.key) is port:
            del self._ports[port.key]

    def close(self) -> None:
        """Close them all."""
        for port in self:
            port.close("the proxy is stopped")
