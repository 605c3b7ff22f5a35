"""UDP secondaries: data filters on them, in order, slow, failing and hanging."""

import asyncio

import pytest
from calls import F, bind_udp, proxy_address
from datagram_calls import attaching_at, redirect_udp, secondary_of
from rig import eventually, make_filter, open_world, tagger

from fwproxy import DataFilter, Ends
from fwproxy.config.config import Limits
from fwproxy.errors import BadContextError
from fwproxy.events import BindUdp, UdpDestination

LONG = Limits(idle_timeout=1e6)


class Ledger(DataFilter):
    """Remembers what passes, between whom."""

    def __init__(self, notes):
        self.notes = notes

    def datagram_from_client(self, data, ends):
        self.notes.append(("up", data, ends))
        self.to_server.send(data)

    def datagram_from_server(self, data, ends):
        self.notes.append(("down", data, ends))
        self.to_client.send(data)

    def detach(self):
        self.notes.append("detached")


async def test_s27_a_filter_may_attach_a_data_filter_to_a_bind():
    notes = []
    async with open_world(attaching_at(BindUdp, lambda: Ledger(notes))) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.BIDIRECTIONAL)
        assert connection.data_path == "user"
        for data in (b"one", b"", b"x" * 60_000):
            server.send(data, proxy_address(connection))
            found, source = await client.receive()
            assert found == data
            client.send(data + b"!", source)
            assert (await server.receive())[0] == data + b"!"
        ends = Ends(client.address, server.address)
        assert [each[2] for each in notes] == [ends] * 6
        assert [(way, len(data)) for way, data, _ in notes[-2:]] == [
            ("down", 60_000),
            ("up", 60_001),
        ]
        connection.kill()
        assert notes[-1] == "detached"


async def test_a_filter_may_attach_a_data_filter_at_the_first_destination():
    notes = []
    probe = attaching_at(UdpDestination, lambda: Ledger(notes), associated=[UdpDestination])
    async with open_world(probe) as world:
        primary = await world.primary()
        server, one, two = world.datagrams(), world.datagrams(), world.datagrams()
        address = await redirect_udp(primary, server.address, flags=F.ALLOW_MULTIPLE)
        assert secondary_of(primary).data_path == "datagram"
        for client, data in ((one, b"1"), (two, b"2")):
            client.send(data, address)
            found, source = await server.receive()
            assert found == data
            server.send(data * 2, source)
            assert await client.receive() == (data * 2, address)
        assert secondary_of(primary).data_path == "user"
        assert [each[1] for each in notes] == [b"1", b"11", b"2", b"22"]
        assert {each[2].client for each in notes} == {one.address, two.address}
        assert {each[2].server for each in notes} == {server.address}


async def test_several_filters_form_a_chain_by_priority():
    def hear(event):
        for name, priority in ((b"e", 50), (b"n", 0), (b"m", 30)):
            event.connection.attach_data_filter(tagger(name + b"%b"), priority)

    async with open_world(make_filter("three", hear, BindUdp)) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.BIDIRECTIONAL)
        server.send(b"x", proxy_address(connection))
        found, source = await client.receive()
        assert found == b"nmex"
        client.send(b"y", source)
        assert (await server.receive())[0] == b"emny"


async def test_a_slow_filter_loses_datagrams_and_counts_them():
    go = asyncio.Event()

    class Slow(DataFilter):
        async def data_from_server(self, data):
            await go.wait()
            self.to_client.send(data)

    limits = Limits(max_waiting_datagrams=2)
    async with open_world(attaching_at(BindUdp, Slow), limits=limits) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (connection,) = await bind_udp(primary, client.address)
        for number in range(6):
            server.send(b"%d" % number, proxy_address(connection))
        await eventually(lambda: connection.dropped == 3)
        assert connection.server_bytes == 6
        go.set()
        assert [(await client.receive())[0] for _ in range(3)] == [b"0", b"1", b"2"]


async def test_a_filter_that_fails_ends_the_connection_and_nothing_passes():
    class Fails(DataFilter):
        def data_from_server(self, data):
            self.to_client.send(data)
            raise ValueError("a fault")

    async with open_world(attaching_at(BindUdp, Fails)) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (connection,) = await bind_udp(primary, client.address)
        server.send(b"x", proxy_address(connection))
        assert (await client.receive())[0] == b"x"
        await eventually(lambda: connection.is_closed)
        assert "filter Fails failed: ValueError: a fault" in connection.close_reason
        assert len(world.engine.ledger) == world.engine.ports.in_use == 0
        assert primary.session.end_reason is None


async def test_a_filter_that_hangs_ends_its_connection_and_no_other():
    class Hangs(DataFilter):
        async def data_from_server(self, data):
            if data == b"hang":
                await asyncio.Event().wait()
            self.to_client.send(data)

    async with open_world(attaching_at(BindUdp, Hangs), limits=LONG) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        hanging, other = await bind_udp(primary, client.address, client.address)
        server.send(b"hang", proxy_address(hanging))
        server.send(b"go on", proxy_address(other))
        assert (await client.receive())[0] == b"go on"
        await eventually(lambda: hanging.server_bytes)
        world.advance(31)
        await eventually(lambda: hanging.is_closed)
        assert "took too long" in hanging.close_reason
        assert not other.is_closed


async def test_a_filter_may_kill_its_connection_from_a_handler():
    class Kills(DataFilter):
        def data_from_server(self, data):
            self.connection.kill("enough")

    async with open_world(attaching_at(BindUdp, Kills)) as world:
        primary = await world.primary()
        server = world.datagrams()
        (connection,) = await bind_udp(primary)
        for _ in range(3):
            server.send(b"x", proxy_address(connection))
        await eventually(lambda: connection.is_closed)
        assert connection.close_reason == "enough"


async def test_a_data_filter_cannot_be_attached_at_another_time():
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind_udp(primary)
        with pytest.raises(BadContextError):
            connection.attach_data_filter(DataFilter())
