"""A relay through data filters with a scripted client and server, and filters to put into it."""

import asyncio
import contextlib

import attrs
from rig import Peer, advance, eventually, turns
from wires import running_deadlines, running_poller, tcp_pair

from fwproxy import DataFilter
from fwproxy.datapath.user import FilterRelay

KIB, MIB = 1 << 10, 1 << 20
BUFFER = 64 * KIB


@attrs.define
class Chain:
    """A relay through filters with a scripted client and server at its ends."""

    client: Peer
    server: Peer
    relay: FilterRelay
    ends: list
    detached: list

    @property
    def error(self):
        ((_, _, error),) = self.ends
        return error

    @property
    def is_broken(self):
        ((_, broken, _),) = self.ends
        return broken

    async def ended(self):
        await eventually(lambda: self.ends)
        return self.ends[0][0]

    def time_passes(self, seconds):
        advance(self.relay.deadlines, seconds)

    async def ask(self, data, size):
        await self.client.send(data)
        return await self.server.read(size)


@contextlib.asynccontextmanager
async def chain(
    *filters, max_buffer=BUFFER, filter_timeout=30, linger=10, small=False, with_server=True
):
    async with running_poller() as poller, running_deadlines() as deadlines:
        ends, detached = [], []
        client_side, client = tcp_pair(small=small)
        server_side, server = tcp_pair(small=small)
        for each in filters:
            each.detach = lambda each=each: detached.append(each)
        relay = FilterRelay(
            poller,
            deadlines,
            [(each, f"context {number}") for number, each in enumerate(filters)],
            "the connection",
            client_side,
            server_side if with_server else None,
            max_buffer=max_buffer,
            filter_timeout=filter_timeout,
            linger=linger,
            on_done=lambda *end: ends.append(end),
        )
        made = Chain(client, server, relay, ends, detached)
        try:
            relay.start()
            yield made
            relay.close()
            assert detached == list(filters)
            await turns()
        finally:
            for each in (relay, client, server, client_side, server_side):
                each.close()


async def settled(made: Chain) -> int:
    """Wait until nothing more is read from the client, and return how much was."""
    count = -1
    while count != made.relay.client_bytes:
        count = made.relay.client_bytes
        await turns(200)
    return count


class Gate(DataFilter):
    """Handles nothing until it is opened, and counts how many handlers run at once."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.running = 0
        self.most = 0
        self.started = 0

    async def data_from_client(self, data):
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await self.opened.wait()
        self.running -= 1
        self.to_server.send(data)


class Double(DataFilter):
    """Makes two pieces out of each."""

    def data_from_client(self, data):
        half = len(data) // 2
        self.to_server.send(data[:half])
        self.to_server.send(data[half:])
