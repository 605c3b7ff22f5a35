"""A firewall whose names come from DNS servers."""

import asyncio

import pytest
from dns_server import dns_server, sockets
from doors import HELLO, WELCOME, named, open_door, read_reply
from rig import HOST, OTHER_HOST, Peer, Upstream, closing, eventually, probe_config

from fwproxy import Config, Endpoint, Firewall, ListenerConfig, ListenerKind
from fwproxy.config.config import Limits
from fwproxy.config.resolver import ResolverConfig
from fwproxy.errors import NoServerReplyError
from fwproxy.policy.policy import Network, Rule

NAME_UNKNOWN, DENIED = 4, 2
RULES = {
    "networks": [Network("here", (f"{HOST}/32",)), Network("there", (f"{OTHER_HOST}/32",))],
    "rules": [Rule(allow=True, targets=("here",))],
}


def door(server, *, timeout=5.0, **more):
    resolver = ResolverConfig("dns", (server.address,), timeout=timeout, attempt_timeout=timeout)
    return open_door(ListenerKind.SOCKS, resolver=resolver, **more)


async def ask(world, name):
    """Ask for the upstream's port at a name; the client is heard, and not answered yet."""
    client = await world.connect()
    await client.send(HELLO + b"\5\1\0" + named(name, world.upstream.address.port))
    assert await client.read(2) == WELCOME
    return client


async def reply(world, name):
    """Return the code that a client gets who asks for a name."""
    return (await read_reply(await ask(world, name)))[0]


async def test_a_client_is_led_where_the_server_says_for_as_long_as_it_says():
    async with dns_server() as server, door(server) as world:
        server.put("server.test", "A", 60, HOST)
        for moved, count in ((0, 2), (59.9, 2), (0.1, 4)):
            world.advance(moved)
            assert await reply(world, "server.test") == 0
            await world.accept()
            assert len(server.asked) == count
        assert await reply(world, "other.test") == NAME_UNKNOWN


async def test_the_rules_are_asked_about_every_answer():
    """A name may point elsewhere the next time (DNS rebinding)."""
    async with dns_server() as server, door(server, **RULES) as world:
        server.put("moving.test", "A", 0, HOST)
        assert await reply(world, "moving.test") == 0
        server.put("moving.test", "A", 0, OTHER_HOST)
        assert await reply(world, "moving.test") == DENIED


async def test_a_server_that_keeps_silent_is_a_name_that_is_not_known():
    async with dns_server() as server, door(server, timeout=0.3) as world:
        server.silent |= {("mute.test", kind) for kind in ("A", "AAAA")}
        assert await reply(world, "mute.test") == NAME_UNKNOWN


async def test_the_bounds_are_those_of_the_configuration():
    limits = Limits(max_resolutions=1, max_names=1)
    async with dns_server() as server, door(server, limits=limits) as world:
        for name in ("a.test", "b.test"):
            server.put(name, "A", 60, HOST)
            assert await reply(world, name) == 0
        assert await reply(world, "a.test") == 0
        assert len(server.questions("a.test")) == 4  # there was room for one name
        server.silent |= {(f"{name}.test", kind) for name in "cd" for kind in ("A", "AAAA")}
        first = await ask(world, "c.test")
        await server.heard("c.test", 2)
        await ask(world, "d.test")
        assert not server.questions("d.test")
        first.reset()
        await server.heard("d.test", 2)


@pytest.mark.parametrize("name", ["mute.test", "late.test"])
async def test_the_end_of_the_firewall_is_the_end_of_its_questions(name):
    """Also of that one of two that addresses wait for."""
    async with dns_server() as server:
        server.put("late.test", "A", 60, HOST)
        server.silent |= {("mute.test", "A"), ("mute.test", "AAAA"), ("late.test", "AAAA")}
        left = 1 if name == "late.test" else 2
        config = ResolverConfig("dns", (server.address,), timeout=60.0, attempt_timeout=60.0)
        listener = ListenerConfig("socks", Endpoint(HOST), kind=ListenerKind.SOCKS)
        firewall = Firewall(Config([listener], resolver=config))
        before = sockets()
        async with firewall:
            with closing(await Peer.connect(firewall.listeners["socks"].address)) as client:
                await client.send(HELLO + b"\5\1\0" + named(name, 80))
                await server.heard(name, 2)
                names = firewall.engine.resolver._names
                await eventually(lambda: len(names._questions) == left)
                await firewall.stop(0)
                assert not names._questions
                assert sockets() == before + 1  # the client's


async def test_the_end_of_the_firewall_does_not_wait_for_who_asks_from_outside():
    """The task is the test's, so that nobody cancels it."""
    async with dns_server() as server:
        server.silent |= {("mute.test", "A"), ("mute.test", "AAAA")}
        config = ResolverConfig("dns", (server.address,), timeout=60.0, attempt_timeout=60.0)
        upstream = Upstream()
        firewall = Firewall(probe_config(upstream=upstream.address, resolver=config))
        before = sockets()
        async with firewall:
            client = await Peer.connect(firewall.listeners["probe"].address)
            with closing(upstream, client, await upstream.accept()):
                (session,) = firewall.sessions
                asking = asyncio.ensure_future(session.get_host_by_name("mute.test"))
                await server.heard("mute.test", 2)
                names = firewall.engine.resolver._names
                await firewall.stop(0)
                assert not names._questions
                assert sockets() == before + 2  # the client's, and the upstream's of it
                with pytest.raises(NoServerReplyError, match="given up"):
                    await asking
