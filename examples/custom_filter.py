"""A filter for a protocol of your own, to copy, and a server and a client to see it work.

In the parcel protocol, invented here, a client sends `FETCH name`, the server answers
`REDIRECT host:port`, and the client collects the parcel there. The host is one that only the
server's own network knows. Run `python examples/custom_filter.py`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from fwproxy import Config, Endpoint, Firewall, ListenerConfig, ProtocolDefinition, SecondaryFlags
from fwproxy.config import LogConfig
from fwproxy.kit.line_filter import LineFilter
from fwproxy.kit.primary_filter import PrimaryFilter
from fwproxy.log import configure

PARCEL_DATA = ProtocolDefinition("parcel-data")
PARCEL = ProtocolDefinition("parcel", secondary=("parcel-data",), filters=("parcel",))


class ParcelLines(LineFilter):
    """Reads the lines of one connection: every REDIRECT is made to lead through the proxy."""

    async def line_from_server(self, line: bytes) -> bytes:
        """Open a port for the client, and name it in the place of the server's."""
        verb, _, address = line.partition(b" ")
        server = self.connection.server_address
        if verb != b"REDIRECT" or server is None:
            return line
        # Only the port counts: a server must not send its clients to the hosts of others. What is
        # no number raises, and that ends the connection.
        port = int(address.rpartition(b":")[2])
        redirection = await self.connection.session.redirect_connections(
            [server.with_port(port)], flags=SecondaryFlags.TIMEOUT, protocol=PARCEL_DATA
        )
        return f"REDIRECT {redirection.internal_address}".encode()


class ParcelFilter(PrimaryFilter):
    """What the proxy loads: its name, and what reads the connections."""

    name = "parcel"
    data_filter = ParcelLines


# The filter ends here. What follows is a server and a client, to see it work.

HOST = "127.0.0.1"


async def hand_over(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give the parcel to whoever comes to collect it."""
    writer.write(b"a parcel from the depot")
    writer.close()


def clerk(counter: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Make the server that sends everybody to the port *counter* of a host without an address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(b"REDIRECT depot.invalid:%d\r\n" % counter)
        writer.close()

    return serve


async def fetch(port: int) -> str:
    """Ask for a parcel and collect it; tell how that went."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(b"FETCH parcel\r\n")
        answer = (await reader.readline()).decode().strip()
        host, _, counter = answer.removeprefix("REDIRECT ").rpartition(":")
        try:
            collected, other = await asyncio.open_connection(host, int(counter))
        except OSError as error:
            return f"{answer!r} leads nowhere: {error.strerror}"
        parcel = await collected.read()
        other.close()
        return f"{answer!r} leads to {parcel.decode()!r}"
    finally:
        writer.close()


async def main() -> None:
    """Fetch a parcel directly and through the proxy."""
    configure(LogConfig(level="warning"), sys.stderr)
    async with await asyncio.start_server(hand_over, HOST, 0) as counter:
        server = clerk(counter.sockets[0].getsockname()[1])
        async with await asyncio.start_server(server, HOST, 0) as depot:
            address = Endpoint(HOST, depot.sockets[0].getsockname()[1])
            listener = ListenerConfig("parcels", Endpoint(HOST), "parcel", upstream=address)
            config = Config([listener], protocols=[PARCEL, PARCEL_DATA])
            async with Firewall(config, [ParcelFilter]) as firewall:
                print("directly:", await fetch(address.port))
                print("by proxy:", await fetch(firewall.listeners["parcels"].address.port))


if __name__ == "__main__":
    asyncio.run(main())
