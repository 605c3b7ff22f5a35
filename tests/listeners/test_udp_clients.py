"""`forward` for datagrams: a session for each client's address, bounded, and ended by silence."""

from __future__ import annotations

import pytest
from doors import open_door
from rig import HOST, OTHER_HOST, Datagrams, World, eventually, leftovers, tagger, turns

from fwproxy import Endpoint, ListenerKind, ProtocolDefinition, Session, SessionFilter, Transport
from fwproxy.config.config import Limits
from fwproxy.policy.policy import Network, Rule
from fwproxy.protocol import BUILT_IN


def forward(server: Datagrams, **rest):
    settings = {"protocol": "udp", "upstream": server.address}
    return open_door(ListenerKind.FORWARD, settings=settings, **rest)


async def said(world: World, client: Datagrams, server: Datagrams, text: bytes) -> Endpoint:
    """Send, and return whom the server sees."""
    client.send(text, world.address)
    data, sender = await server.receive()
    assert data == text
    return sender


@pytest.mark.parametrize("bind", [HOST, "0.0.0.0"])
async def test_each_client_has_a_session_and_its_own_answers(bind):
    server = Datagrams()
    async with forward(server, bind=Endpoint(bind), rules=[Rule(allow=True)]) as world:
        world.add(server)
        address = Endpoint(HOST, world.address.port)
        one, two = world.datagrams(), world.datagrams(OTHER_HOST)
        for client in (one, two, one):
            client.send(b"hello", address)
            _, sender = await server.receive()
            server.send(b"answer", sender)
            data, proxy = await client.receive()
            assert data == b"answer"
            assert proxy == address, "from where the client has sent to"
        assert {each.client_address.host for each in world.sessions} == {HOST, OTHER_HOST}
        assert len(world.sessions) == 2


async def test_silence_ends_a_session():
    server = Datagrams()
    async with forward(server) as world:
        client = world.add(server) and world.datagrams()
        first = await said(world, client, server, b"one")
        assert await said(world, client, server, b"two") == first
        world.advance(world.engine.limits.datagram_timeout + 1)
        await world.ended()
        assert not leftovers(world.firewall)
        assert await said(world, client, server, b"three") != first


async def test_only_the_server_may_answer():
    server = Datagrams()
    async with forward(server) as world:
        client = world.add(server) and world.datagrams()
        sender = await said(world, client, server, b"one")
        world.datagrams().send(b"a stranger's", sender)
        server.send(b"the server's", sender)
        assert (await client.receive())[0] == b"the server's"
        await turns()
        assert client.take() is None


async def test_the_tables_are_bounded():
    server = Datagrams()
    async with forward(server, limits=Limits(max_sessions=3, max_sessions_per_client=2)) as world:
        world.add(server)
        clients = [world.datagrams() for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number, world.address)
        heard = {(await server.receive())[0] for _ in range(2)}
        assert heard == {b"0", b"1"}
        assert await said(world, world.datagrams(OTHER_HOST), server, b"other")
        assert len(world.sessions) == 3
        assert server.take() is None


async def test_whoever_is_not_allowed_begins_nothing():
    server = Datagrams()
    rules = {
        "networks": [Network("other", (f"{OTHER_HOST}/32",))],
        "rules": [Rule(allow=False, sources=("other",)), Rule(allow=True)],
    }
    async with forward(server, **rules) as world:
        world.add(server)
        world.datagrams(OTHER_HOST).send(b"denied", world.address)
        assert await said(world, world.datagrams(), server, b"allowed")
        assert len(world.sessions) == 1


async def test_data_filters_see_them():
    """The filters hear of a client's first datagram as of any other UDP destination."""
    from fwproxy import Filter, Firewall, Hooks  # noqa: PLC0415 - only here
    from fwproxy.events import UdpDestination  # noqa: PLC0415

    class Tagging(SessionFilter):
        def firewall_event_handler(self, event):
            event.connection.attach_data_filter(tagger(b"<%b>"))

    class Tags(Filter):
        name = "tags"

        def filter_init(self, firewall: Firewall) -> Hooks:
            return Hooks.on(UdpDestination)

        def attach_to_session(self, session: Session) -> SessionFilter:
            return Tagging(session)

    server = Datagrams()
    own = ProtocolDefinition("own", Transport.UDP, filters=("tags",))
    settings = {"protocol": "own", "upstream": server.address}
    async with open_door(
        ListenerKind.FORWARD, settings=settings, filters=[Tags], protocols=[*BUILT_IN, own]
    ) as world:
        client = world.add(server) and world.datagrams()
        client.send(b"hello", world.address)
        data, sender = await server.receive()
        assert data == b"<hello>"
        server.send(b"answer", sender)
        assert (await client.receive())[0] == b"<answer>"


async def test_a_server_that_is_not_there_ends_nothing():
    server = Datagrams()
    async with forward(server) as world:
        server.close()
        client = world.datagrams()
        for _ in range(3):
            client.send(b"x", world.address)
        await eventually(lambda: world.sessions)
        await turns()
        assert len(world.sessions) == 1
