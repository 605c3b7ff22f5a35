"""Names as the system's resolver knows them, which does not tell how long they hold."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from fwproxy.errors import NameNotFoundError
from fwproxy.names.resolver import Answer

_T = TypeVar("_T")


class Threads:
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


class SystemNames:
    """Asks the system's resolver.

    Args:
        now: the clock.
        memory: seconds that an answer holds; 0 asks every time.
        threads: where to ask; None is the running loop.
    """

    def __init__(
        self, now: Callable[[], float], memory: float, threads: Threads | None = None
    ) -> None:
        self._now = now
        self._memory = memory
        self._threads = threads

    async def find(self, name: str) -> Answer:
        """Return the addresses of a name, in the order that the system gives them.

        Raises:
            NameNotFoundError: it does not resolve.
        """
        try:
            system = self._threads or asyncio.get_running_loop()
            found = await system.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # the latter: no name after IDNA
            raise NameNotFoundError(f"{name} does not resolve: {error}") from error
        if not found:
            raise NameNotFoundError(f"{name} has no address")
        hosts = tuple(dict.fromkeys(str(info[4][0]) for info in found))
        return Answer(hosts, self._now() + self._memory)

    async def name_of(self, host: str) -> str:
        """Return the name of an address.

        Raises:
            NameNotFoundError: it has none.
        """
        try:
            system = self._threads or asyncio.get_running_loop()
            name, _ = await system.getnameinfo((host, 0), socket.NI_NAMEREQD)
        except (OSError, UnicodeError) as error:
            raise NameNotFoundError(f"{host} has no name: {error}") from error
        return name

    def close(self) -> None:
        """Do nothing: a question cannot be taken back."""
