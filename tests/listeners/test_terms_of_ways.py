"""What rules say besides yes holds however a client has come: by BIND, or with datagrams."""

from __future__ import annotations

import pytest
from doors import WELCOME, open_door, read_reply, socks5
from rig import HOST, OTHER_HOST, Datagrams, eventually, make_filter

from fwproxy import Endpoint, ListenerKind, ProtocolDefinition, Transport
from fwproxy.config.config import Limits
from fwproxy.events import BindTcp, UdpDestination
from fwproxy.handshake.socks_datagram import head
from fwproxy.policy.policy import Rule
from fwproxy.policy.rules import RuleLimits
from fwproxy.policy.scope import Scope
from fwproxy.protocol import BUILT_IN

BIND, ASSOCIATE = 2, 3
ONE = RuleLimits(max_connections=1)


async def asked_by_socks(world, command, server=Endpoint("0.0.0.0")):  # noqa: B008 - a frozen value
    client = await world.connect()
    await client.send(socks5(server, command))
    assert await client.read(2) == WELCOME
    return client, *await read_reply(client)


def rule_for(transport, **says):
    own = ProtocolDefinition("own", transport)
    rule = Rule(allow=True, name="one", **says)
    return {"protocols": [own, *BUILT_IN], "rules": [rule]}


async def test_a_rule_limits_the_datagram_sessions_of_a_port_forward():
    server = Datagrams()
    settings = {"protocol": "udp", "upstream": server.address}
    async with open_door(
        ListenerKind.FORWARD, settings=settings, **rule_for(Transport.UDP, limits=ONE)
    ) as world:
        world.add(server)
        world.datagrams().send(b"first", world.address)
        assert (await server.receive())[0] == b"first"
        assert [session.rule for session in world.sessions] == ["one"]
        refused = world.datagrams(OTHER_HOST)
        refused.send(b"second", world.address)
        await eventually(lambda: refused.address and len(world.sessions) == 1)
        assert server.take() is None


async def test_a_rule_limits_the_servers_of_an_association():
    async with open_door(ListenerKind.SOCKS, **rule_for(Transport.UDP, limits=ONE)) as world:
        _, code, relay = await asked_by_socks(world, ASSOCIATE)
        assert code == 0
        client, one, two = world.datagrams(), world.datagrams(), world.datagrams()
        client.send(head(one.address) + b"first", relay)
        assert (await one.receive())[0] == b"first"
        client.send(head(two.address) + b"second", relay)
        client.send(head(one.address) + b"third", relay)
        assert (await one.receive())[0] == b"third"
        assert two.take() is None


async def test_a_rule_chooses_the_filters_of_datagrams():
    heard = []
    chosen = make_filter("chosen", heard.append, UdpDestination)
    server = Datagrams()
    async with open_door(
        ListenerKind.FORWARD,
        filters=[chosen],
        settings={"protocol": "udp", "upstream": server.address},
        **rule_for(Transport.UDP, use_filters=("chosen",)),
    ) as world:
        world.add(server)
        world.datagrams().send(b"hello", world.address)
        await server.receive()
        assert len(heard) == 1


async def test_a_rule_limits_the_ports_that_clients_bind():
    limits = RuleLimits(max_connections=2)  # one more while the port is being bound
    async with open_door(ListenerKind.SOCKS, **rule_for(Transport.TCP, limits=limits)) as world:
        _, code, _ = await asked_by_socks(world, BIND, Endpoint(OTHER_HOST, 0))
        assert code == 0
        assert [session.rule for session in world.sessions] == ["one"]
        _, code, _ = await asked_by_socks(world, BIND, Endpoint(OTHER_HOST, 0))
        assert code == 1
        await eventually(lambda: len(world.sessions) == 1)


@pytest.mark.parametrize(("calls", "code"), [(("bind",), 0), (("redirect",), 2)])
async def test_a_port_that_a_client_binds_is_one_that_the_rule_grants(calls, code):
    heard = []
    chosen = make_filter("chosen", heard.append, BindTcp)
    scope = Scope(calls=calls)
    rules = rule_for(Transport.TCP, secondary=scope, use_filters=("chosen",))
    async with open_door(ListenerKind.SOCKS, filters=[chosen], **rules) as world:
        _, said, _ = await asked_by_socks(world, BIND, Endpoint(HOST, 0))
        assert said == code
        assert len(heard) == (code == 0)


async def test_an_association_is_a_permission_like_others():
    limits = Limits(max_permissions_per_client=1)
    async with open_door(ListenerKind.SOCKS, limits=limits) as world:
        assert (await asked_by_socks(world, ASSOCIATE))[1] == 0
        assert (await asked_by_socks(world, ASSOCIATE))[1] == 1
        await eventually(lambda: len(world.sessions) == 1)
        assert len(world.firewall.ledger) == 1


async def test_a_client_counts_once_against_its_rate():
    limits = Limits(connection_rate_per_client=0.001, connection_burst_per_client=2)
    async with open_door(ListenerKind.SOCKS, limits=limits) as world:
        for _ in range(2):
            client = await world.connect()
            await client.send(socks5(world.upstream.address))
            await world.accept()
        assert len(world.sessions) == 2
