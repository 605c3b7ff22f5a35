"""Host names to addresses, without blocking and a bounded number at a time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable

from fwproxy.address import Destination, Endpoint
from fwproxy.errors import NameNotFoundError


class Resolver:
    """Asks the system's resolver, and remembers what it has said for a while.

    Args:
        max_resolutions: how many questions there may be at a time.
        now: the clock.
        memory: seconds that an answer holds; 0 asks every time.
        max_names: how many answers are remembered.
    """

    def __init__(
        self,
        max_resolutions: int,
        now: Callable[[], float] = time.monotonic,
        *,
        memory: float = 0.0,
        max_names: int = 1,
    ) -> None:
        self._places = asyncio.Semaphore(max_resolutions)
        self._now = now
        self._memory = memory
        self._max_names = max_names
        self._known: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()

    async def resolve(self, destination: Destination) -> list[Endpoint]:
        """Return the addresses of a destination, in the order to try them.

        Raises:
            NameNotFoundError: the name does not resolve.
        """
        if isinstance(destination, Endpoint):
            return [destination]
        hosts = self._remembered(destination.host)
        if hosts is None:
            async with self._places:
                hosts = await self._ask(destination.host)
            self._remember(destination.host, hosts)
        return [Endpoint(host, destination.port) for host in hosts]

    async def _ask(self, name: str) -> tuple[str, ...]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                name, None, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as error:  # the latter: no name after IDNA
            raise NameNotFoundError(f"{name} does not resolve: {error}") from error
        if not found:
            raise NameNotFoundError(f"{name} has no address")
        return tuple(dict.fromkeys(str(info[4][0]) for info in found))

    def _remembered(self, name: str) -> tuple[str, ...] | None:
        since, hosts = self._known.get(name, (0.0, None))
        if hosts is None or self._now() - since >= self._memory:
            return None
        return hosts

    def _remember(self, name: str, hosts: tuple[str, ...]) -> None:
        if self._memory:
            self._known[name] = self._now(), hosts
            self._known.move_to_end(name)
            if len(self._known) > self._max_names:
                self._known.popitem(last=False)

    async def name_of(self, address: Endpoint) -> str:
        """Return the name of an address.

        Raises:
            NameNotFoundError: it has none.
        """
        async with self._places:
            try:
                name, _ = await asyncio.get_running_loop().getnameinfo(
                    address.sockaddr, socket.NI_NAMEREQD
                )
            except (OSError, UnicodeError) as error:
                raise NameNotFoundError(f"{address.host} has no name: {error}") from error
        return name
