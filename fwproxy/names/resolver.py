"""Host names to addresses, without blocking and a bounded number at a time."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import attrs

from fwproxy.address import Destination, Endpoint


@attrs.frozen(slots=True)
class Answer:
    """The addresses of a name.

    Attributes:
        hosts: IP addresses, in the order to try them.
        until: when they have to be asked for again, by the clock of whom was asked.
    """

    hosts: tuple[str, ...]
    until: float


class Names(Protocol):
    """Somebody who knows names."""

    async def find(self, name: str) -> Answer:
        """Return the addresses of a name, one at least.

        Raises:
            NameNotFoundError: it has none, or nobody has said so in time.
        """

    async def name_of(self, host: str) -> str:
        """Return the name of an address.

        Raises:
            NameNotFoundError: it has none, or nobody has said so in time.
        """

    def close(self) -> None:
        """Give up what is being asked, and ask no more."""


class Resolver:
    """Asks for names, and remembers what was said for as long as it holds.

    Only addresses are remembered: a name that does not resolve is asked for again each time.

    Args:
        names: whom to ask.
        max_resolutions: how many names may be asked for at a time.
        now: the clock, that of *names*.
        max_names: how many answers are remembered.
    """

    def __init__(
        self,
        names: Names,
        max_resolutions: int,
        now: Callable[[], float] = time.monotonic,
        *,
        max_names: int = 1,
    ) -> None:
        self._names = names
        self._places = asyncio.Semaphore(max_resolutions)
        self._now = now
        self._max_names = max_names
        self._known: OrderedDict[str, Answer] = OrderedDict()

    async def resolve(self, destination: Destination) -> list[Endpoint]:
        """Return the addresses of a destination, in the order to try them.

        Raises:
            NameNotFoundError: the name does not resolve.
        """
        if isinstance(destination, Endpoint):
            return [destination]
        name = destination.host
        answer = self._known.get(name)
        if answer is None or self._now() >= answer.until:
            async with self._places:
                answer = await self._names.find(name)
            self._remember(name, answer)
        return [Endpoint(host, destination.port) for host in answer.hosts]

    def _remember(self, name: str, answer: Answer) -> None:
        if answer.until > self._now():
            self._known[name] = answer
            self._known.move_to_end(name)
            if len(self._known) > self._max_names:
                self._known.popitem(last=False)

    async def name_of(self, address: Endpoint) -> str:
        """Return the name of an address.

        Raises:
            NameNotFoundError: it has none.
        """
        async with self._places:
            return await self._names.name_of(address.host)

    def close(self) -> None:
        """Give up what is being asked."""
        self._names.close()
