"""UDP secondaries: filters are asked about each destination, and what waits for them is bounded."""

import asyncio

import pytest
from calls import F, bind_udp, own, proxy_address
from datagram_calls import redirect_udp, secondary_of
from rig import Hearing, eventually, make_filter, open_world

from fwproxy import Verdict
from fwproxy.config.config import Limits
from fwproxy.errors import BadContextError
from fwproxy.events import UdpDestination


class Asked:
    """Hears of destinations and answers by port, at once or later."""

    def __init__(self, answers=(), *, later=False):
        self.answers, self.later, self.heard = dict(answers), later, []

    def __call__(self, event):
        self.heard.append(event)
        return self._later(event) if self.later else self.answers.get(event.destination)

    async def _later(self, event):
        await asyncio.sleep(0.001)
        return self.answers.get(event.destination)

    def filter(self):
        return make_filter("asked", self, UdpDestination, associated=[UdpDestination])

    @property
    def destinations(self):
        return [event.destination for event in self.heard]


LATER = pytest.mark.parametrize("later", [False, True])


@LATER
async def test_each_destination_is_heard_of_once(later):
    asked = Asked(later=later)
    async with open_world(asked.filter()) as world:
        primary = await world.primary()
        server, clients = world.datagrams(), [world.datagrams() for _ in range(2)]
        address = await redirect_udp(primary, server.address, flags=F.ALLOW_MULTIPLE)
        for number in range(6):
            clients[number % 2].send(b"%d" % number, address)
        found = {(await server.receive())[0] for _ in range(6)}
        assert found == {b"%d" % number for number in range(6)}
        assert asked.destinations == [server.address]
        (event,) = asked.heard
        assert event.is_secondary
        assert event.connection is secondary_of(primary)
        assert event.protocol.name == "probe-data"


@LATER
@pytest.mark.parametrize("denial", [Verdict.DENY, Verdict.EMULATE])
async def test_datagrams_to_a_denied_destination_are_dropped(later, denial):
    asked = Asked(later=later)
    async with open_world(asked.filter()) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        asked.answers[server.address] = denial
        hearing = Hearing(primary.session)
        address = await redirect_udp(primary, server.address, session_filter=hearing)
        connection = secondary_of(primary)
        for count in range(1, 4):
            client.send(b"x", address)
            await eventually(lambda count=count: connection.dropped == count)
        assert asked.destinations == [server.address]
        assert not hearing.heard  # it was never established
        assert not connection.is_closed


@LATER
async def test_the_destinations_of_replies_are_heard_of_too(later):
    asked = Asked(later=later)
    async with open_world(asked.filter()) as world:
        primary = await world.primary()
        client = world.datagrams()
        good, bad = world.datagrams(), world.datagrams()
        asked.answers[bad.address] = Verdict.DENY
        flags = F.BIDIRECTIONAL | F.ALLOW_MULTIPLE
        (connection,) = await bind_udp(primary, client.address, flags=flags)
        sources = {}
        for server, data in ((good, b"good"), (bad, b"bad")):
            server.send(data, proxy_address(connection))
            found, sources[data] = await client.receive()
            assert found == data
        assert not asked.heard  # what comes in is not for this event: that is BindUdp's
        for _ in range(2):
            client.send(b"reply", sources[b"good"])
            client.send(b"reply", sources[b"bad"])
            assert (await good.receive())[0] == b"reply"
        await eventually(lambda: connection.dropped == 2)
        assert bad.take() is None
        assert sorted(asked.destinations, key=str) == sorted([good.address, bad.address], key=str)


async def test_the_cache_of_destinations_is_bounded_and_the_oldest_is_forgotten():
    asked = Asked()
    limits = Limits(max_destinations_per_connection=2)
    async with open_world(asked.filter(), limits=limits) as world:
        primary = await world.primary()
        client, servers = world.datagrams(), [world.datagrams() for _ in range(3)]
        flags = F.BIDIRECTIONAL | F.ALLOW_MULTIPLE
        (connection,) = await bind_udp(primary, client.address, flags=flags)
        for server in servers:
            server.send(b"x", proxy_address(connection))
            _, source = await client.receive()
            client.send(b"y", source)
            await server.receive()
        destinations = connection._relay._admit_reply.__self__
        assert len(destinations._known) == 2
        assert servers[0].address not in destinations._known


async def test_what_waits_for_an_answer_is_bounded():
    go = asyncio.Event()

    async def think(event):
        await go.wait()

    thinking = make_filter("thinking", think, associated=[UdpDestination])
    limits = Limits(max_waiting_datagrams=2)
    async with open_world(thinking, limits=limits) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        address = await redirect_udp(primary, server.address)
        for number in range(5):
            client.send(b"%d" % number, address)
        await eventually(lambda: secondary_of(primary).dropped == 3)
        go.set()
        assert [(await server.receive())[0] for _ in range(2)] == [b"0", b"1"]
        client.send(b"more", address)
        assert (await server.receive())[0] == b"more"


async def test_a_handler_that_hangs_over_a_destination_denies_it():
    async def hang(event):
        await asyncio.Event().wait()

    hanging = make_filter("hanging", hang, associated=[UdpDestination])
    async with open_world(hanging, limits=Limits(filter_timeout=0.05)) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        address = await redirect_udp(primary, server.address)
        client.send(b"x", address)
        await eventually(lambda: secondary_of(primary).dropped == 1)
        assert server.take() is None


async def test_a_connection_may_end_while_a_filter_thinks_about_its_destination():
    async def think(event):
        event.connection.kill("changed my mind")
        await asyncio.sleep(0)

    thinking = make_filter("thinking", think, associated=[UdpDestination])
    async with open_world(thinking) as world:
        primary = await world.primary()
        client = world.datagrams()
        client.send(b"x", await redirect_udp(primary, own()))
        made = secondary_of(primary)
        await eventually(lambda: made.is_closed)
        assert made.close_reason == "changed my mind"
        assert len(primary.session.connections) == 1


async def test_deny_is_not_for_this_handler():
    def hear(event):
        with pytest.raises(BadContextError):
            event.connection.deny()
        refused.append(event)

    refused = []
    async with open_world(make_filter("deny", hear, associated=[UdpDestination])) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        client.send(b"x", await redirect_udp(primary, server.address))
        assert (await server.receive())[0] == b"x"
        assert refused
