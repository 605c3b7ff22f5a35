"""UDP secondaries: sources, replies, sizes, names, and whose datagrams are whose."""

import asyncio
import contextlib

import pytest
from calls import UNKNOWN, F, bind_udp, proxy_address
from datagram_calls import attaching_at, redirect_udp, secondary_of
from rig import (
    HOST,
    OTHER_HOST,
    THIRD_HOST,
    Hearing,
    eventually,
    free_ports,
    make_filter,
    open_world,
    turns,
)

from fwproxy import DataFilter, IpFilter
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.errors import InvalidArgumentError, NotSupportedError, TerminatingError
from fwproxy.events import BindUdp, EstablishedConnection

LONG = Limits(idle_timeout=1e6)


# Sources and replies.


async def test_s17_the_first_source_keeps_its_place_however_long_it_is_silent():
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        client, one, two = (world.datagrams() for _ in range(3))
        (connection,) = await bind_udp(primary, client.address)
        one.send(b"1", proxy_address(connection))
        assert (await client.receive())[0] == b"1"
        world.advance(1000)
        two.send(b"2", proxy_address(connection))
        await eventually(lambda: connection.dropped == 1)
        one.send(b"3", proxy_address(connection))
        assert (await client.receive())[0] == b"3"


@pytest.mark.parametrize("way", ["bind", "redirect"])
async def test_s17_the_number_of_sources_is_bounded_and_silent_ones_make_room(way):
    limits = Limits(idle_timeout=1e6, max_peers_per_connection=2, peer_timeout=60)
    async with open_world(limits=limits) as world:
        primary = await world.primary()
        far, silent, busy, third = (world.datagrams() for _ in range(4))
        if way == "bind":
            (made,) = await bind_udp(primary, far.address, flags=F.ALLOW_MULTIPLE)
            address = proxy_address(made)
        else:
            address = await redirect_udp(primary, far.address, flags=F.ALLOW_MULTIPLE)
        connection = secondary_of(primary)

        async def hears(peer):
            peer.send(b"x", address)
            return (await far.receive())[0] == b"x"

        assert await hears(silent)
        assert await hears(busy)
        third.send(b"no room", address)
        await eventually(lambda: connection.dropped == 1)
        for _ in range(2):
            assert await hears(busy)
            world.advance(61)
        assert connection._relay.peers == 1
        assert await hears(third)
        silent.send(b"no room", address)
        await eventually(lambda: connection.dropped == 2)
        assert await hears(busy)


async def test_s21_replies_go_only_to_those_who_sent_recently():
    limits = Limits(idle_timeout=1e6, reply_timeout=10, peer_timeout=1e5)
    async with open_world(limits=limits) as world:
        primary = await world.primary()
        client, one, two = (world.datagrams() for _ in range(3))
        flags = F.BIDIRECTIONAL | F.ALLOW_MULTIPLE
        (connection,) = await bind_udp(primary, client.address, flags=flags)
        sources = []
        for server in (one, two):
            server.send(b"x", proxy_address(connection))
            sources.append((await client.receive())[1])
        world.advance(9)
        client.send(b"in time", sources[0])
        assert (await one.receive())[0] == b"in time"
        two.send(b"again", proxy_address(connection))
        await client.receive()
        world.advance(2)
        client.send(b"late", sources[0])
        client.send(b"in time", sources[1])
        assert (await two.receive())[0] == b"in time"
        await eventually(lambda: connection.dropped == 1)
        assert one.take() is None
        one.send(b"here again", proxy_address(connection))
        await client.receive()
        client.send(b"welcome back", sources[0])
        assert (await one.receive())[0] == b"welcome back"


async def test_s21_a_data_filters_own_datagrams_are_held_to_the_same_rule():
    held = []

    class Holds(DataFilter):
        def data_from_client(self, data):
            held.append(data)
            self.to_server.send(data)

    limits = Limits(idle_timeout=1e6, reply_timeout=10)
    async with open_world(attaching_at(BindUdp, Holds), limits=limits) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.BIDIRECTIONAL)
        server.send(b"x", proxy_address(connection))
        _, source = await client.receive()
        client.send(b"in time", source)
        assert (await server.receive())[0] == b"in time"
        world.advance(11)
        holds = connection.data_filters[0].data_filter
        holds.to_server.send(b"late")
        assert connection.dropped == 1
        assert server.take() is None


@pytest.mark.parametrize("way", ["bind", "redirect"])
async def test_s19_idle_is_measured_from_the_last_datagram_in_either_direction(way):
    limits = Limits(idle_timeout=1e6, reply_timeout=1e5)
    async with open_world(limits=limits, secondary=SecondaryConfig(timeout=0.6)) as world:
        primary = await world.primary()
        far, near = world.datagrams(), world.datagrams()
        if way == "bind":
            flags = F.TIMEOUT | F.BIDIRECTIONAL
            (made,) = await bind_udp(primary, far.address, flags=flags)
            address = proxy_address(made)
        else:
            address = await redirect_udp(primary, far.address, flags=F.TIMEOUT)
        connection = secondary_of(primary)
        near.send(b"x", address)
        _, source = await far.receive()
        started = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - started < 1.2:
            far.send(b"y", source)
            await near.receive()
            await asyncio.sleep(0.05)
        assert not connection.is_closed
        await eventually(lambda: connection.is_closed)
        assert connection.close_reason == "idle"


async def test_s22_and_set_buffer_size_larger_datagrams_are_dropped():
    async with open_world() as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        flags = F.BIDIRECTIONAL
        (connection,) = await bind_udp(primary, client.address, flags=flags)
        server.send(b"x" * 101, proxy_address(connection))
        _, source = await client.receive()
        connection.set_buffer_size(100)
        server.send(b"x" * 101, proxy_address(connection))
        client.send(b"y" * 101, source)
        await eventually(lambda: connection.dropped == 2)
        server.send(b"x" * 100, proxy_address(connection))
        client.send(b"y" * 100, source)
        assert (await client.receive())[0] == b"x" * 100
        assert (await server.receive())[0] == b"y" * 100
        for wrong in (0, -1, 65536):
            with pytest.raises(InvalidArgumentError):
                connection.set_buffer_size(wrong)
        with pytest.raises(NotSupportedError):
            primary.connection.set_buffer_size(100)


async def test_set_buffer_size_holds_from_the_bind_on():
    def hear(event):
        event.connection.set_buffer_size(10)

    async with open_world(make_filter("small", hear, BindUdp)) as world:
        primary = await world.primary()
        server = world.datagrams()
        (connection,) = await bind_udp(primary)
        server.send(b"x" * 11, proxy_address(connection))
        await eventually(lambda: connection.dropped == 1)
        assert connection.server_bytes == 0


async def test_s05_datagrams_are_dropped_until_the_client_is_known():
    async with open_world() as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (connection,) = await bind_udp(primary, UNKNOWN)
        server.send(b"early", proxy_address(connection))
        await eventually(lambda: connection.dropped == 1)
        connection.set_client_address(client.address)
        with pytest.raises(InvalidArgumentError):
            connection.set_client_address(client.address)
        server.send(b"x", proxy_address(connection))
        assert (await client.receive())[0] == b"x"
        connection.kill()
        with pytest.raises(TerminatingError):
            connection.set_client_address(client.address)


async def test_s29_nothing_passes_before_a_slow_filter_has_heard_of_the_connection():
    go = asyncio.Event()

    class Slow(Hearing):
        async def firewall_event_handler(self, event):
            self.heard.append(event)
            await go.wait()

    async with open_world() as world:
        primary = await world.primary()
        client, one, two = (world.datagrams() for _ in range(3))
        slow = Slow(primary.session)
        (connection,) = await bind_udp(
            primary, client.address, session_filter=slow, flags=F.ALLOW_MULTIPLE
        )
        one.send(b"1", proxy_address(connection))
        await eventually(lambda: slow.heard)
        two.send(b"2", proxy_address(connection))
        await eventually(lambda: connection._relay.peers == 2)
        await turns()
        assert client.take() is None
        go.set()
        assert {(await client.receive())[0] for _ in range(2)} == {b"1", b"2"}
        assert [type(event) for event in slow.heard] == [EstablishedConnection]


# Names, and whose datagrams are whose.


async def test_the_names_of_both_ends():
    async with open_world() as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (bound,) = await bind_udp(primary, client.address, flags=F.BIDIRECTIONAL)
        assert bound.external_socket_name == proxy_address(bound)
        assert bound.external_peer_name is None
        assert bound.internal_socket_name is None
        assert bound.internal_peer_name == client.address
        server.send(b"x", proxy_address(bound))
        _, source = await client.receive()
        assert bound.external_peer_name == server.address
        assert bound.internal_socket_name == source
        bound.kill()
        assert bound.external_socket_name is bound.internal_socket_name is None
        address = await redirect_udp(primary, server.address)
        redirected = secondary_of(primary)
        client.send(b"x", address)
        _, source = await server.receive()
        assert redirected.internal_socket_name == address
        assert redirected.internal_peer_name == client.address
        assert redirected.external_socket_name == source
        assert redirected.external_peer_name == server.address


async def test_no_datagram_reaches_another_session():
    """Sessions of several clients at a time, each with a bind and a redirection."""
    async with open_world() as world:
        ends = {}
        for host in (HOST, OTHER_HOST, THIRD_HOST):
            primary = await world.primary(source=host)
            client, server = world.datagrams(host), world.datagrams()
            (bound,) = await bind_udp(primary, client.address, flags=F.BIDIRECTIONAL)
            ends[host] = (client, server, bound, await redirect_udp(primary, server.address))
        for host, (client, server, bound, redirected) in ends.items():
            for other, (stranger, *_) in ends.items():
                if other != host:  # a client of another session sends to this one's redirection
                    stranger.send(b"stolen", redirected)
            server.send(b"in " + host.encode(), proxy_address(bound))
            client.send(b"out " + host.encode(), redirected)
        for host, (client, server, _, _) in ends.items():
            data, source = await client.receive()
            assert data == b"in " + host.encode()
            for stranger, *_ in ends.values():
                if stranger is not client:  # nor can they reply where they were not sent to
                    stranger.send(b"stolen", source)
            data, source = await server.receive()
            assert data == b"out " + host.encode()
            server.send(b"back " + host.encode(), source)
            assert (await client.receive())[0] == b"back " + host.encode()
        await turns()
        for client, server, *_ in ends.values():
            assert client.take() is None
            assert server.take() is None


async def test_what_is_still_on_its_way_to_a_port_does_not_reach_its_next_owner():
    """The same port number, first for one session and then for another."""
    ports = free_ports(1)
    async with open_world(secondary=SecondaryConfig(ports=ports)) as world:
        first, second = await world.primary(), await world.primary(source=OTHER_HOST)
        one, two = world.datagrams(), world.datagrams(OTHER_HOST)
        server, late = world.datagrams(), world.datagrams()
        (bound,) = await bind_udp(first, one.address)
        server.send(b"x", proxy_address(bound))
        await one.receive()
        for _ in range(50):
            late.send(b"late", proxy_address(bound))
        bound.kill()
        only = IpFilter.only(OTHER_HOST)
        (again,) = await bind_udp(second, two.address, ip_filter=only)
        assert again.proxy_address == bound.proxy_address
        late.send(b"late", proxy_address(again))
        await eventually(lambda: again.dropped == 1)
        assert one.take() is None
        assert two.take() is None


async def test_a_flood_from_many_sources_costs_bounded_memory_and_no_descriptors():
    limits = Limits(max_peers_per_connection=8)
    async with open_world(limits=limits) as world:
        primary = await world.primary()
        far = world.datagrams()
        (connection,) = await bind_udp(primary, far.address, flags=F.ALLOW_MULTIPLE)
        watched = len(world.engine.poller)
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                source = stack.enter_context(contextlib.closing(world.datagrams()))
                source.send(b"x", proxy_address(connection))
            await eventually(lambda: connection.dropped == 92)
        assert connection._relay.peers == 8
        assert len(world.engine.poller) == watched + 8
