"""Host names to addresses, without blocking and a bounded number at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, cast

from fwproxy.address import Destination, Endpoint
from fwproxy.errors import NameNotFoundError

_T = TypeVar("_T")


class SystemNames:
    """Asks the system's resolver, each question in a thread of its own.

    A question cannot be taken back. It has its place until it is answered, also if nobody waits
    for that any more; and it keeps neither passwords from being checked, as it would in the loop's
    own threads, nor the process from its end.

    Args:
        most: how many questions there may be at a time.
    """

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)

    async def getaddrinfo(self, host: str, port: int | None, *, type: int = 0) -> list[Any]:  # noqa: A002 - as loops have it
        """Do what `socket.getaddrinfo` does."""
        return await self._ask(functools.partial(socket.getaddrinfo, host, port, type=type))

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Do what `socket.getnameinfo` does."""
        return await self._ask(functools.partial(socket.getnameinfo, sockaddr, flags))

    async def _ask(self, question: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()

        def conclude(result: _T | None, error: Exception | None) -> None:
            self._places.release()
            if answer.done():  # nobody waits for it any more
                return
            if error is None:
                answer.set_result(cast("_T", result))
            else:
                answer.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = question()
            except Exception as failure:  # noqa: BLE001 - it is raised where the answer is awaited
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(conclude, result, error)

        await self._places.acquire()
        try:
            threading.Thread(target=work, name="fwproxy names", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise OSError(errno.EAGAIN, f"no thread to ask in: {error}") from error
        return await answer


class Resolver:
    """Asks the system's resolver, and remembers what it has said for a while.

    Args:
        max_resolutions: how many questions there may be at a time.
        now: the clock.
        memory: seconds that an answer holds; 0 asks every time.
        max_names: how many answers are remembered.
        system: whom to ask; None is the running loop.
    """

    def __init__(
        self,
        max_resolutions: int,
        now: Callable[[], float] = time.monotonic,
        *,
        memory: float = 0.0,
        max_names: int = 1,
        system: SystemNames | None = None,
    ) -> None:
        self._system = system
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
            system = self._system or asyncio.get_running_loop()
            found = await system.getaddrinfo(name, None, type=socket.SOCK_STREAM)
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
                system = self._system or asyncio.get_running_loop()
                name, _ = await system.getnameinfo(address.sockaddr, socket.NI_NAMEREQD)
            except (OSError, UnicodeError) as error:
                raise NameNotFoundError(f"{address.host} has no name: {error}") from error
        return name
