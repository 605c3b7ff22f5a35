"""`socks`, `http` and `mixed`: clients that ask for their server, good ones and bad ones."""

from __future__ import annotations

import asyncio
import re

import pytest
from doors import (
    GRANTED,
    HELLO,
    NOWHERE,
    SAYING,
    WELCOME,
    http,
    is_turned_away,
    named,
    open_door,
    read_reply,
    reads,
    rest_of,
    socks5,
)
from rig import HOST, OTHER_HOST, Mute, World, eventually, leftovers, unused_endpoint

from fwproxy import Endpoint, ListenerKind
from fwproxy.config.config import Limits
from fwproxy.policy.policy import Network, Rule
from fwproxy.protocol import TCP

MIXED = ListenerKind.MIXED
RULES = {
    "networks": [Network("here", ("127.0.0.0/8", "::1/128"))],
    "rules": [Rule(allow=False, targets=("here",)), Rule(allow=True)],
}


@pytest.mark.parametrize("speech", SAYING)
async def test_bytes_that_come_with_the_request_reach_the_server(speech):
    async with open_door(MIXED) as world:
        client = await world.connect()
        await client.send(SAYING[speech](world.upstream.address) + b"early")
        server = await world.accept()
        assert await server.read(5) == b"early"
        await reads(client, GRANTED[speech])
        await server.send(b"answer")
        assert await client.read(6) == b"answer"
        client.half_close()
        assert await server.read_all() == b""
        await server.send(b"last")
        server.close()
        assert await client.read_all() == b"last"
        await world.ended()


@pytest.mark.parametrize("speech", SAYING)
async def test_a_handshake_of_single_bytes(speech):
    async with open_door(MIXED) as world:
        client = await world.connect()
        for byte in SAYING[speech](world.upstream.address):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        server = await world.accept()
        await reads(client, GRANTED[speech])
        await server.send(b"x")
        assert await client.read(1) == b"x"


async def test_the_reply_names_the_sockets_own_address():
    async with open_door(MIXED) as world:
        client = await world.connect()
        await client.send(socks5(world.upstream.address))
        server = await world.accept()
        assert await client.read(2) == WELCOME
        assert await read_reply(client) == (0, server.remote)


@pytest.mark.parametrize(
    ("kind", "speech", "is_taken"),
    [
        (ListenerKind.SOCKS, "http", False),
        (ListenerKind.SOCKS, "socks4", True),
        (ListenerKind.HTTP, "socks5", False),
        (ListenerKind.HTTP, "http", True),
    ],
)
async def test_what_a_listener_is_not_for_is_turned_away(kind, speech, is_taken):
    async with open_door(kind) as world:
        client = await world.connect()
        await client.send(SAYING[speech](world.upstream.address))
        if is_taken:
            await world.accept()
            await reads(client, GRANTED[speech])
        else:
            said = await rest_of(client)
            assert not re.fullmatch(GRANTED[speech], said, re.DOTALL)
            assert b"400" in said or kind is not ListenerKind.HTTP


REFUSALS = {  # what becomes of it, the code of SOCKS 5, and HTTP's
    "refused": (5, 502),
    "denied": (2, 403),
    "unknown": (4, 502),
    "late": (6, 504),
}


async def provoke(world: World, why: str) -> Endpoint | str:
    """Return a server that is refused for a reason."""
    if why == "late":
        return world.add(Mute()).address
    return {"refused": unused_endpoint(), "denied": world.upstream.address}.get(
        why, "name.invalid:80"
    )


@pytest.mark.parametrize("why", REFUSALS)
@pytest.mark.parametrize("speech", SAYING)
async def test_each_refusal_has_its_code(speech, why):
    rest = RULES if why == "denied" else {}
    async with open_door(MIXED, **rest) as world:
        server = await provoke(world, why)
        client = await world.connect()
        if speech == "http":
            await client.send(http(server))
        elif isinstance(server, str):
            host, port = server.split(":")
            socks4a = b"\4\1" + int(port).to_bytes(2, "big") + b"\0\0\0\1\0" + host.encode() + b"\0"
            request = HELLO + b"\5\1\0" + named(host, int(port))
            await client.send(socks4a if speech == "socks4" else request)
        else:
            await client.send(SAYING[speech](server))
        if why == "late":
            await eventually(lambda: world.sessions)
            world.advance(world.engine.limits.connect_timeout + 1)
        said = await client.read_all()
        code, status = REFUSALS[why]
        expected = {
            "socks4": bytes([0, 91]) + bytes(6),
            "socks5": WELCOME + bytes([5, code]) + NOWHERE,
        }
        if speech == "http":
            assert said.startswith(b"HTTP/1.1 %d " % status)
        else:
            assert said == expected[speech]
        client.close()
        await eventually(lambda: not leftovers(world.firewall))


async def test_the_rules_are_asked_about_the_address_that_a_name_has():
    async with open_door(MIXED, **RULES) as world:
        client = await world.connect()
        await client.send(HELLO + b"\5\1\0" + named("localhost", world.upstream.address.port))
        assert await client.read_all() == WELCOME + b"\5\2" + NOWHERE


@pytest.mark.parametrize(
    "said",
    [b"", b"\4", b"\5", b"\5\2\0", HELLO, HELLO + b"\5\1\0\3\x40a", b"CONNECT a:1 HTTP/1.1\r\n"],
)
async def test_whoever_does_not_finish_is_closed_in_time(said):
    async with open_door(MIXED) as world:
        client = await world.connect()
        await client.send(said)
        await eventually(lambda: len(world.firewall._sessions.arrivals) == 1)
        if said[:3] == HELLO:
            assert await client.read(2) == WELCOME
        world.advance(world.engine.limits.handshake_timeout / 2)
        assert leftovers(world.firewall)
        world.advance(world.engine.limits.handshake_timeout / 2 + 1)
        assert await rest_of(client) == b""
        assert not leftovers(world.firewall)


@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
@pytest.mark.parametrize("said", [b"", b"\5\1", HELLO, b"CONNECT "])
async def test_whoever_leaves_leaves_nothing(said, way):
    async with open_door(MIXED) as world:
        client = await world.connect()
        await client.send(said)
        await eventually(lambda: len(world.firewall._sessions.arrivals) == 1)
        getattr(client, way)()
        await eventually(lambda: not leftovers(world.firewall))


async def test_whoever_leaves_while_the_server_is_called_ends_it():
    async with open_door(MIXED) as world:
        mute = world.add(Mute())
        client = await world.connect()
        await client.send(socks5(mute.address))
        await eventually(lambda: world.sessions)
        client.reset()
        world.advance(world.engine.limits.connect_timeout + 1)
        await eventually(lambda: not leftovers(world.firewall))


async def test_those_who_say_nothing_count_as_clients():
    limits = Limits(max_sessions=4, max_sessions_per_client=3)
    async with open_door(MIXED, limits=limits) as world:
        quiet = [await world.connect() for _ in range(3)]
        await eventually(lambda: len(world.firewall._sessions.arrivals) == 3)
        assert await is_turned_away(world), "one too many of this address"
        await world.connect(source=OTHER_HOST)
        await eventually(lambda: len(world.firewall._sessions.arrivals) == 4)
        assert await is_turned_away(world, source="127.0.0.3"), "one too many at all"
        quiet[0].close()
        await eventually(lambda: len(world.firewall._sessions.arrivals) == 3)
        client = await world.connect()
        await client.send(socks5(world.upstream.address))
        await world.accept()


async def test_stopping_turns_away_those_in_their_handshake():
    async with open_door(MIXED) as world:
        client = await world.connect()
        await client.send(HELLO)
        assert await client.read(2) == WELCOME
        await world.firewall.stop(0)
        assert await client.read_all() == b""
        await world.firewall.start()


async def test_a_client_on_ipv6_may_ask_for_a_server_on_ipv4():
    async with open_door(MIXED, bind=Endpoint("::1")) as world:
        client = await world.connect()
        await client.send(socks5(world.upstream.address))
        await world.accept()
        assert await client.read(2) == WELCOME
        code, address = await read_reply(client)
        assert (code, address.host) == (0, HOST)


async def test_a_silent_address_of_a_name_keeps_nobody_from_the_others(monkeypatch):
    async with open_door(MIXED) as world:
        mute = world.add(Mute())

        async def resolve(_):
            return [mute.address, world.upstream.address]

        monkeypatch.setattr(world.engine.resolver, "resolve", resolve)
        client = await world.connect()
        await client.send(HELLO + b"\5\1\0" + named("two.example", 80))
        await eventually(lambda: len(world.engine.deadlines) > 1)
        world.advance(world.engine.limits.connect_attempt_delay * 3)
        server = await world.accept()
        assert await client.read(2) == WELCOME
        assert await read_reply(client) == (0, server.remote)
        (session,) = world.sessions
        assert session.primary.server_address == world.upstream.address


async def test_whoever_has_left_before_it_is_led_elsewhere_leaves_nothing(monkeypatch):
    """Its name takes a while to resolve; then there is a place for it, and it is gone."""
    async with open_door(ListenerKind.SOCKS) as world:
        known, data = asyncio.Event(), world.listen()

        async def resolve(_):
            await known.wait()
            return [data.address]

        first = await world.connect()
        await first.send(socks5(world.upstream.address))
        await world.accept()
        (session,) = world.sessions
        await session.allow_future_connect(data.address, protocol=TCP)
        monkeypatch.setattr(world.engine.resolver, "resolve", resolve)
        client = await world.connect()
        await client.send(HELLO)
        assert await client.read(2) == WELCOME
        await client.send(b"\5\1\0" + named("server.test", data.address.port))
        (arrival,) = world.firewall._sessions.arrivals._all
        await eventually(lambda: arrival._is_busy)
        client.reset()
        await eventually(lambda: arrival.is_all or arrival.is_over)
        known.set()
        await eventually(lambda: not world.firewall._sessions.arrivals)
        await eventually(lambda: len(session.connections) == 1)
        assert arrival.sock.fileno() == -1, "nobody else closes it"
