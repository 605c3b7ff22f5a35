"""Chains of data filters on primary and secondary connections: order, ends, and bounds."""

import asyncio
import random
import resource

import pytest
from calls import F, bind, proxy_address, redirect
from rig import eventually, make_filter, open_world, turns

from fwproxy import DataFilter, Priority
from fwproxy.config.config import Limits
from fwproxy.events import AcceptedConnection, ConnectTcp

KIB, MIB = 1 << 10, 1 << 20
WAYS = pytest.mark.parametrize("way", ["primary", "bind", "redirect"])
PLACES = pytest.mark.parametrize("place", [0, 1, 2])


class Piece(DataFilter):
    """One of a chain; notes when it is let go."""

    def __init__(self, name="", gone=None):
        self.name, self.gone = name, [] if gone is None else gone

    def detach(self):
        self.gone.append(self.name)


class Tag(Piece):
    def data_from_client(self, data):
        self.to_server.send(self.name.encode() + data)

    def data_from_server(self, data):
        self.to_client.send(self.name.encode() + data)


class Slow(Piece):
    """Takes its time, with a coroutine."""

    async def data_from_client(self, data):
        await asyncio.sleep(0)
        self.to_server.send(data)

    async def data_from_server(self, data):
        await asyncio.sleep(0)
        self.to_client.send(data)


def chain_of(way, entries):
    """Return a filter that attaches (priority, data filter) pairs to the connection in question."""

    def hear(event):
        if event.connection.is_secondary is (way != "primary"):
            for priority, data_filter in entries:
                event.connection.attach_data_filter(data_filter, priority)

    associated = [] if way == "primary" else [AcceptedConnection, ConnectTcp]
    return make_filter("chain", hear, ConnectTcp, associated=associated)


async def ends_of(world, way):
    """Open a connection; return it with the client and the server."""
    primary = await world.primary()
    if way == "primary":
        return primary.connection, primary.client, primary.server
    listener = world.listen()
    if way == "bind":
        (connection,) = await bind(primary, listener.address)
        server = await world.connect(proxy_address(connection))
        client = await world.accept(listener)
    else:
        made = await redirect(primary, listener.address, flags=F.TIMEOUT)
        client = await world.connect(made.internal_address)
        server = await world.accept(listener)
        (connection,) = primary.session.connections - {primary.connection}
    await eventually(lambda: connection.data_path)
    return connection, client, server


def three(kind=Piece, gone=None):
    """Return three filters of different classes, as they stand from client to server."""
    priorities = (Priority.INTERNAL, Priority.MIDDLE, Priority.EXTERNAL)
    return [(each, kind(str(number), gone)) for number, each in enumerate(priorities)]


@WAYS
async def test_filters_stand_in_the_order_of_their_classes(way):
    order = [*list(Priority), Priority.MIDDLE, Priority.NAT]
    entries = [(priority, Tag(f"{number}")) for number, priority in enumerate(order)]
    # Equal ones stand in the order of the calls: 7 after 3, and 8 after 0.
    shuffled = entries[:]
    random.Random(7).shuffle(shuffled)
    shuffled.sort(key=lambda entry: entry[1].name in "78")
    async with open_world(chain_of(way, shuffled)) as world:
        _, client, server = await ends_of(world, way)
        await client.send(b"x")
        assert await server.read(10) == b"654732180x"
        await server.send(b"y")
        assert await client.read(10) == b"081237456y"


@WAYS
@pytest.mark.parametrize("kind", [Piece, Slow])
async def test_one_direction_ends_and_the_other_goes_on(way, kind):
    gone = []
    async with open_world(chain_of(way, three(kind, gone))) as world:
        connection, client, server = await ends_of(world, way)
        await client.send(b"the last words")
        client.half_close()
        assert await server.read_all() == b"the last words"
        for _ in range(3):
            await server.send(b"x" * 100_000)
            assert len(await client.read(100_000)) == 100_000
        server.half_close()
        assert await client.read_all() == b""
        await eventually(lambda: connection.is_closed)
        assert connection.close_reason == "closed"
        assert sorted(gone) == ["0", "1", "2"]


@WAYS
@PLACES
async def test_any_filter_may_abort_and_both_ends_are_cut_off(way, place):
    gone = []
    entries = three(Piece, gone)
    async with open_world(chain_of(way, entries)) as world:
        connection, client, server = await ends_of(world, way)
        entries[place][1].to_server.abort()
        assert connection.is_closed
        assert connection.close_reason == "aborted by a filter"
        assert await client.is_cut_off()
        assert await server.is_cut_off()
        assert sorted(gone) == ["0", "1", "2"]


@WAYS
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_reset_passes_through_the_chain(way, side):
    gone = []
    async with open_world(chain_of(way, three(Piece, gone))) as world:
        connection, client, server = await ends_of(world, way)
        one, other = (client, server) if side == "client" else (server, client)
        one.reset()
        assert await other.is_cut_off()
        await eventually(lambda: connection.is_closed)
        assert sorted(gone) == ["0", "1", "2"]


async def send_until_stuck(peer, piece=64 * KIB):
    """Send until nothing is taken any more; return how much was."""
    sent, waited = 0, 0
    while waited < 50:
        try:
            sent += peer.sock.send(b"x" * piece)
            waited = 0
        except BlockingIOError:
            waited += 1
            await asyncio.sleep(0.001)
    return sent


@WAYS
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("kind", [Piece, Slow])
async def test_who_does_not_read_stops_who_sends_and_nothing_is_lost(way, side, kind):
    limits = Limits(max_buffer=64 * KIB)
    async with open_world(chain_of(way, three(kind)), limits=limits) as world:
        connection, client, server = await ends_of(world, way)
        sender, reader = (client, server) if side == "client" else (server, client)
        sent = await send_until_stuck(sender)
        relay = connection._relay
        received = relay.client_bytes if side == "client" else relay.server_bytes
        waiting = max(relay._client.size, relay._server.size)
        assert received <= sent
        assert 0 < waiting <= limits.max_buffer
        queued = sum(stage.waiting_size(way) for stage in relay._stages for way in (0, 1))
        assert queued <= 3 * limits.max_buffer
        # The other direction is free all the same.
        await reader.send(b"still here")
        assert await sender.read(10) == b"still here"
        assert len(await reader.read(sent)) == sent
        await sender.send(b"more")
        assert await reader.read(4) == b"more"


async def carry(sender, reader, size):
    """Move *size* bytes from one to the other."""

    async def send():
        piece = bytes(256 * KIB)
        for _ in range(size // len(piece)):
            await sender.send(piece)
        sender.half_close()

    sending = asyncio.ensure_future(send())
    seen = 0
    while data := await reader.receive(1 << 20):
        seen += len(data)
    await sending
    return seen


@pytest.mark.parametrize("way", ["primary", "redirect"])
async def test_much_data_passes_three_filters_in_bounded_memory(way):
    size = 256 * MIB
    async with open_world(chain_of(way, three())) as world:
        connection, client, server = await ends_of(world, way)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert await carry(server, client, size) == size
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert connection.server_bytes == size
        assert (after - before) * KIB < 32 * MIB
        assert connection.data_path == "user"


@WAYS
async def test_a_filter_that_makes_too_much_of_little_ends_its_connection_only(way):
    class Flood(Piece):
        def data_from_client(self, data):
            for _ in range(10_000):
                self.to_server.send(b"x" * 100_000)

    entries = three()
    entries[1] = (Priority.MIDDLE, Flood())
    async with open_world(chain_of(way, entries), limits=Limits(max_buffer=1 * MIB)) as world:
        connection, client, server = await ends_of(world, way)
        await client.send(b"?")
        await eventually(lambda: connection.is_closed)
        assert "BufferFullError" in connection.close_reason
        assert await server.is_cut_off()
        await turns()
        assert len(world.sessions) == (way != "primary")
