"""Host names to addresses, without blocking and a bounded number at a time."""

from __future__ import annotations

import asyncio
import socket

from fwproxy.address import Destination, Endpoint
from fwproxy.errors import NameNotFoundError


class Resolver:
    """Asks the system's resolver."""

    def __init__(self, max_resolutions: int) -> None:
        self._places = asyncio.Semaphore(max_resolutions)

    async def resolve(self, destination: Destination) -> list[Endpoint]:
        """Return the addresses of a destination, in the order to try them.

        Raises:
            NameNotFoundError: the name does not resolve.
        """
        if isinstance(destination, Endpoint):
            return [destination]
        async with self._places:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(
                    destination.host, destination.port, type=socket.SOCK_STREAM
                )
            except (OSError, UnicodeError) as error:  # the latter: no name after IDNA
                raise NameNotFoundError(f"{destination.host} does not resolve: {error}") from error
        endpoints = [Endpoint(str(info[4][0]), destination.port) for info in found]
        if not endpoints:
            raise NameNotFoundError(f"{destination.host} has no address")
        return list(dict.fromkeys(endpoints))

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
