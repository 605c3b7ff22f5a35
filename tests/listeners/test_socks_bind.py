"""SOCKS BIND: a port for one peer, in the session with it if there is one."""

from __future__ import annotations

import pytest
from doors import (
    HELLO,
    WELCOME,
    is_turned_away,
    named,
    open_door,
    read_reply,
    socks4,
    socks5,
    spelled,
)
from rig import HOST, OTHER_HOST, THIRD_HOST, Peer, World, eventually, leftovers

from fwproxy import Endpoint, ListenerKind
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.policy.policy import Network, Rule

BIND = 2


async def bound(world: World, server: Endpoint) -> tuple[Peer, Endpoint]:
    """Ask for a port for a server; return the client and the port."""
    client = await world.connect()
    await client.send(socks5(server, BIND))
    assert await client.read(2) == WELCOME
    code, address = await read_reply(client)
    assert code == 0
    return client, address


async def test_the_one_who_was_named_comes_and_is_named_in_the_second_reply():
    async with open_door(ListenerKind.SOCKS) as world:
        client, address = await bound(world, Endpoint(OTHER_HOST, 0))
        (entry,) = world.firewall.ledger
        assert entry.proxy_address == str(address)
        assert entry.peers == OTHER_HOST
        server = await world.connect(address, OTHER_HOST)
        assert await read_reply(client) == (0, server.address)
        await server.send(b"from the server")
        assert await client.read(15) == b"from the server"
        await client.send(b"from the client")
        assert await server.read(15) == b"from the client"
        client.close()
        assert await server.read_all() == b""
        server.close()
        await world.ended()
        assert not world.firewall.ledger


async def test_socks4_has_it_too():
    async with open_door(ListenerKind.SOCKS) as world:
        client = await world.connect()
        await client.send(socks4(Endpoint(OTHER_HOST, 21), BIND))
        first = await client.read(8)
        assert first[:2] == b"\0\x5a"
        address = Endpoint(".".join(map(str, first[4:])), int.from_bytes(first[2:4], "big"))
        server = await world.connect(address, OTHER_HOST)
        second = await client.read(8)
        assert second[:2] == b"\0\x5a"
        assert int.from_bytes(second[2:4], "big") == server.address.port


async def test_strangers_are_reset_and_the_port_waits_on():
    async with open_door(ListenerKind.SOCKS) as world:
        client, address = await bound(world, Endpoint(OTHER_HOST, 0))
        assert await is_turned_away(world, address, THIRD_HOST)
        server = await world.connect(address, OTHER_HOST)
        assert await read_reply(client) == (0, server.address)


async def test_a_port_on_behalf_of_a_connection_is_of_its_session():
    async with open_door(ListenerKind.SOCKS) as world:
        first = await world.connect()
        await first.send(socks5(world.upstream.address))
        called = await world.accept()
        assert await first.read(2) == WELCOME
        await read_reply(first)
        client, address = await bound(world, world.upstream.address)
        (session,) = world.sessions
        (entry,) = world.firewall.ledger
        assert entry.session == session.id
        server = await world.connect(address, HOST)
        assert await read_reply(client) == (0, server.address)
        first.close()
        called.close()
        await eventually(lambda: session.end_reason)  # the port's gets drain_timeout to finish
        world.advance(world.engine.limits.drain_timeout + 1)
        assert await client.is_cut_off()
        await world.ended(session)


async def test_nobody_comes_in_time():
    async with open_door(ListenerKind.SOCKS) as world:
        client, _ = await bound(world, Endpoint(OTHER_HOST, 0))
        world.advance(SecondaryConfig().timeout + 1)
        code, _ = await read_reply(client)
        assert code != 0
        assert await client.read_all() == b""
        client.close()
        await eventually(lambda: not leftovers(world.firewall))


async def test_a_client_that_leaves_takes_its_port_along():
    async with open_door(ListenerKind.SOCKS) as world:
        client, address = await bound(world, Endpoint(OTHER_HOST, 0))
        client.close()
        await eventually(lambda: not leftovers(world.firewall))
        with pytest.raises(ConnectionRefusedError):
            await world.connect(address, OTHER_HOST)


async def test_the_rules_are_asked_about_the_one_who_may_come():
    rules = {
        "networks": [Network("other", (f"{OTHER_HOST}/32",))],
        "rules": [Rule(allow=False, targets=("other",)), Rule(allow=True)],
    }
    async with open_door(ListenerKind.SOCKS, **rules) as world:
        client = await world.connect()
        await client.send(socks5(Endpoint(OTHER_HOST, 0), BIND))
        assert await client.read(2) == WELCOME
        assert (await read_reply(client))[0] == 2
        assert await client.read_all() == b""
        await bound(world, Endpoint(THIRD_HOST, 0))


async def test_a_session_has_only_so_many_ports():
    limits = Limits(max_permissions_per_session=2)
    async with open_door(ListenerKind.SOCKS, limits=limits) as world:
        first = await world.connect()
        await first.send(socks5(world.upstream.address))
        await world.accept()
        assert await first.read(2) == WELCOME
        await read_reply(first)
        for _ in range(2):
            await bound(world, world.upstream.address)
        client = await world.connect()
        await client.send(HELLO + b"\5\2\0" + spelled(world.upstream.address))
        assert await client.read(2) == WELCOME
        assert (await read_reply(client))[0] == 1


@pytest.mark.parametrize("is_connected", [False, True])
async def test_a_name_lets_nobody_come_whom_the_rules_deny(monkeypatch, is_connected):
    """A client may have a name of its own for somebody allowed and somebody denied."""
    rules = {
        "networks": [Network("other", (f"{OTHER_HOST}/32",))],
        "rules": [Rule(allow=False, targets=("other",)), Rule(allow=True)],
    }
    async with open_door(ListenerKind.SOCKS, **rules) as world:
        if is_connected:
            first = await world.connect()
            await first.send(socks5(world.upstream.address))
            await world.accept()

        async def resolve(_):
            return [Endpoint(HOST, 0), Endpoint(OTHER_HOST, 0)]

        monkeypatch.setattr(world.engine.resolver, "resolve", resolve)
        client = await world.connect()
        await client.send(HELLO + b"\5\2\0" + named("both.test", 0))
        assert await client.read(2) == WELCOME
        code, address = await read_reply(client)
        assert code == 0
        assert await is_turned_away(world, address, OTHER_HOST)
        assert await world.connect(address, HOST)
        assert (await read_reply(client))[1].host == HOST
