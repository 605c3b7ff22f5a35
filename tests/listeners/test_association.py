"""SOCKS UDP ASSOCIATE: a client's datagrams to any server, and nobody else's."""

from __future__ import annotations

from doors import HELLO, WELCOME, named, open_door, read_reply, socks5
from rig import HOST, OTHER_HOST, Datagrams, Peer, World, eventually, leftovers, turns

from fwproxy import Endpoint, ListenerKind
from fwproxy.config.config import Limits
from fwproxy.handshake.socks_datagram import head, parse
from fwproxy.policy.policy import Network, Rule

ASSOCIATE = 3
ANYWHERE = Endpoint("0.0.0.0", 0)


async def associated(world: World, announced: Endpoint = ANYWHERE) -> tuple[Peer, Endpoint]:
    client = await world.connect()
    await client.send(socks5(announced, ASSOCIATE))
    assert await client.read(2) == WELCOME
    code, address = await read_reply(client)
    assert code == 0
    return client, address


async def heard(datagrams: Datagrams) -> tuple[object, bytes]:
    data, _ = await datagrams.receive()
    found = parse(data)
    return found.destination, found.data


async def test_each_server_answers_with_its_name_on_it():
    async with open_door(ListenerKind.SOCKS) as world:
        control, relay = await associated(world)
        client, one, two = world.datagrams(), world.datagrams(), world.datagrams(OTHER_HOST)
        for server in (one, two):
            client.send(head(server.address) + b"hello", relay)
            data, sender = await server.receive()
            assert data == b"hello"
            server.send(b"answer", sender)
            assert await heard(client) == (server.address, b"answer")
        assert len(world.sessions) == 3, "the association, and one for each server"
        control.close()
        await eventually(lambda: not leftovers(world.firewall))


async def test_names_are_resolved_by_the_proxy():
    async with open_door(ListenerKind.SOCKS) as world:
        _, relay = await associated(world)
        client, server = world.datagrams(), world.datagrams()
        client.send(b"\0\0\0" + named("localhost", server.address.port) + b"hello", relay)
        await eventually(lambda: len(world.sessions) == 2)
        # Which of its addresses is taken is the resolver's choice.
        hosts = {each.server_host for each in world.sessions if each.server_host}
        assert hosts <= {HOST, "::1"}


async def test_fragments_nonsense_and_other_senders_are_dropped():
    async with open_door(ListenerKind.SOCKS) as world:
        _, relay = await associated(world)
        client, server = world.datagrams(), world.datagrams()
        good = head(server.address)
        world.datagrams(OTHER_HOST).send(good + b"a stranger's", relay)
        client.send(b"\0\0\1" + good[3:] + b"a fragment", relay)
        client.send(b"nonsense", relay)
        client.send(good + b"good", relay)
        assert (await server.receive())[0] == b"good"
        world.datagrams().send(good + b"from another port", relay)
        client.send(good + b"good again", relay)
        assert (await server.receive())[0] == b"good again"
        assert server.take() is None


async def test_a_client_that_announces_its_port_is_held_to_it():
    async with open_door(ListenerKind.SOCKS) as world:
        client, server = world.datagrams(), world.datagrams()
        _, relay = await associated(world, client.address)
        world.datagrams().send(head(server.address) + b"another's", relay)
        client.send(head(server.address) + b"its own", relay)
        assert (await server.receive())[0] == b"its own"


async def test_the_rules_are_asked_about_each_server():
    rules = {
        "networks": [Network("other", (f"{OTHER_HOST}/32",))],
        "rules": [Rule(allow=False, targets=("other",)), Rule(allow=True)],
    }
    async with open_door(ListenerKind.SOCKS, **rules) as world:
        _, relay = await associated(world)
        client, good, bad = world.datagrams(), world.datagrams(), world.datagrams(OTHER_HOST)
        client.send(head(bad.address) + b"denied", relay)
        client.send(head(good.address) + b"allowed", relay)
        assert (await good.receive())[0] == b"allowed"
        await turns()
        assert bad.take() is None


async def test_there_are_only_so_many_servers():
    limits = Limits(max_peers_per_connection=2)
    async with open_door(ListenerKind.SOCKS, limits=limits) as world:
        _, relay = await associated(world)
        client = world.datagrams()
        servers = [world.datagrams() for _ in range(3)]
        for server in servers:
            client.send(head(server.address) + b"x", relay)
        for server in servers[:2]:
            await server.receive()
        client.send(head(servers[0].address) + b"y", relay)
        assert (await servers[0].receive())[0] == b"y"
        assert servers[2].take() is None


async def test_silent_servers_make_room_and_silence_ends_it():
    async with open_door(ListenerKind.SOCKS) as world:
        _, relay = await associated(world)
        client, server = world.datagrams(), world.datagrams()
        client.send(head(server.address) + b"x", relay)
        await server.receive()
        assert len(world.sessions) == 2
        world.advance(world.engine.limits.datagram_timeout + 1)
        await eventually(lambda: len(world.sessions) == 1)
        world.advance(world.engine.limits.idle_timeout + 1)
        await eventually(lambda: not world.sessions)


async def test_a_listener_for_a_protocol_of_streams_has_no_datagrams():
    async with open_door(ListenerKind.SOCKS, settings={"protocol": "ftp"}) as world:
        client = await world.connect()
        await client.send(HELLO + socks5(ANYWHERE, ASSOCIATE)[3:])
        assert await client.read(2) == WELCOME
        assert (await read_reply(client))[0] == 7
        assert await client.read_all() == b""
