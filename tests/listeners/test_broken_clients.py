"""Slow and broken clients of `socks`, `http` and `mixed`: they cost little, and leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable

import pytest
import structlog
from doors import GRANTED, HELLO, SAYING, http, open_door, reads, rest_of, socks4, socks5
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import HOST, Peer, World, eventually, leftovers, turns

from fwproxy import Endpoint, ListenerKind
from fwproxy.clock import RESOLUTION
from fwproxy.config.config import Limits
from fwproxy.errors import NameNotFoundError
from fwproxy.listeners.farewell import PATIENCE
from fwproxy.policy.policy import Network, Rule

KINDS = [ListenerKind.SOCKS, ListenerKind.HTTP, ListenerKind.MIXED]
SPOKEN = {
    ListenerKind.SOCKS: ["socks4", "socks5"],
    ListenerKind.HTTP: ["http"],
    ListenerKind.MIXED: ["socks4", "socks5", "http"],
}
CASES = [(kind, speech) for kind in KINDS for speech in SPOKEN[kind]]
ONLY_HERE = {
    "networks": [Network("here", (f"{HOST}/32",))],
    "rules": [Rule(allow=True, targets=("here",))],
}
"""Random bytes may name any server; nobody is to be asked but this host."""


async def say_slowly(world: World, client: Peer, data: bytes, seconds: float) -> None:
    """Say a byte each so many seconds, as long as the proxy listens."""
    for byte in data:
        with contextlib.suppress(ConnectionError):
            await client.send(bytes([byte]))
        await turns(3)
        world.advance(seconds)


async def stand_still(meanwhile: Callable[[], object], seconds: float) -> None:
    """Hold the loop up where it has just asked what there is to read: its timers come next."""
    loop, stood = asyncio.get_running_loop(), asyncio.Event()
    one, other = socket.socketpair()

    def stand() -> None:
        loop.remove_reader(one)
        meanwhile()
        time.sleep(seconds)
        stood.set()

    with one, other:
        loop.add_reader(one, stand)
        other.send(b"!")
        await stood.wait()


@pytest.mark.parametrize(("kind", "speech"), CASES)
async def test_a_byte_a_second_is_in_time_if_there_are_few(kind, speech):
    limits = Limits(handshake_timeout=200.0)
    async with open_door(kind, limits=limits, **ONLY_HERE) as world:
        client = await world.connect()
        request = SAYING[speech](world.upstream.address)
        assert len(request) < limits.handshake_timeout
        await say_slowly(world, client, request, 1.0)
        server = await world.accept()
        await reads(client, GRANTED[speech])
        await client.send(b"hello")
        assert await server.read(5) == b"hello"


async def test_a_client_that_spoke_in_time_is_heard_although_the_proxy_was_held_up():
    limits = Limits(handshake_timeout=0.3)
    async with open_door(ListenerKind.SOCKS, limits=limits) as world:
        client = await world.connect()
        await eventually(lambda: len(world.firewall.sessions.arrivals))
        await stand_still(
            lambda: client.sock.send(socks5(world.upstream.address)),
            limits.handshake_timeout + 2 * RESOLUTION,
        )
        server = await world.accept()
        await reads(client, GRANTED["socks5"])
        await client.send(b"hello")
        assert await server.read(5) == b"hello"


@pytest.mark.parametrize(("kind", "speech"), CASES)
async def test_a_byte_a_second_does_not_hold_the_door_open(kind, speech):
    """The time is that of the whole handshake: it does not begin again with each byte."""
    async with open_door(kind, limits=Limits(handshake_timeout=10.0), **ONLY_HERE) as world:
        client = await world.connect()
        request = SAYING[speech](world.upstream.address)[:-1]
        request += bytes(20) if speech != "http" else b" " * 20
        beginning = request[:8] if speech != "socks5" else HELLO
        await say_slowly(world, client, beginning, 1.0)
        assert leftovers(world.firewall), "it is still listened to"
        await say_slowly(world, client, b"x" * 4, 1.0)
        await eventually(lambda: not leftovers(world.firewall))
        assert not re.search(GRANTED[speech], await rest_of(client), re.DOTALL)


@pytest.mark.parametrize(("kind", "speech"), CASES)
async def test_half_a_handshake_at_every_cut_is_closed_in_time(kind, speech):
    """All of them at a time; those who have said all are served, and only those."""
    async with open_door(kind, limits=Limits(max_sessions_per_client=1000), **ONLY_HERE) as world:
        request = SAYING[speech](world.upstream.address)
        clients = [await world.connect() for _ in range(len(request) + 1)]
        for size, client in enumerate(clients):
            await client.send(request[:size])
        await world.accept()
        await eventually(lambda: len(world.firewall._sessions.arrivals) == len(request))
        world.advance(world.engine.limits.handshake_timeout + 1)
        for client in clients[:-1]:
            assert not re.search(GRANTED[speech], await rest_of(client), re.DOTALL)
        assert not world.firewall._sessions.arrivals
        assert len(world.sessions) == 1


def mutated(request: bytes, at: int, byte: int) -> bytes:
    at %= len(request)
    return request[:at] + bytes([byte]) + request[at + 1 :]


ELSEWHERE = Endpoint("192.0.2.1", 80)
REQUESTS = [
    socks4(ELSEWHERE), socks4(ELSEWHERE, 2), socks5(ELSEWHERE), socks5(ELSEWHERE, 2),
    socks5(ELSEWHERE, 3), http(ELSEWHERE), http("a.example:80", "X: y"),
    b"\4\1\0\x50\0\0\0\1me\0a.example\0", HELLO + b"\5\1\0\3\x09a.example\0\x50", b"\5\2\0\2\1",
]  # fmt: skip
SAID = st.one_of(
    st.binary(max_size=600),
    st.builds(mutated, st.sampled_from(REQUESTS), st.integers(0, 200), st.integers(0, 255)),
    st.builds(
        lambda request, size, more: request[:size] + more,
        st.sampled_from(REQUESTS), st.integers(0, 60), st.binary(max_size=600),
    ),
)  # fmt: skip
ENDS = ["close", "reset", "half_close", "stay"]
VISITS = st.lists(
    st.tuples(SAID, st.integers(1, 600), st.sampled_from(ENDS)), min_size=1, max_size=8
)


async def visit(client: Peer, said: bytes, size: int, end: str) -> None:
    """Say it in pieces, and leave in some way or not."""
    with contextlib.suppress(OSError):  # it was turned away already
        for at in range(0, len(said), size):
            await client.send(said[at : at + size])
            await asyncio.sleep(0)
        if end != "stay":
            getattr(client, end)()


async def nobody(destination):
    if isinstance(destination, Endpoint):
        return [destination]
    raise NameNotFoundError("there are no names here")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(visits=VISITS)
async def test_whatever_comes_leaves_nothing_and_the_next_one_is_served(kind, visits):
    with structlog.testing.capture_logs() as logged:
        async with open_door(kind, **ONLY_HERE) as world:
            world.engine.resolver.resolve = nobody
            for said, size, end in visits:
                await visit(await world.connect(), said, size, end)
            client, speech = await world.connect(), SPOKEN[kind][-1]
            await client.send(SAYING[speech](world.upstream.address))
            await world.accept()
            await reads(client, GRANTED[speech])
            limits = world.engine.limits
            for patience in (limits.handshake_timeout, limits.connect_timeout, PATIENCE):
                await turns()
                world.advance(patience + 1)
            await eventually(lambda: not world.firewall._sessions.arrivals)
    assert not [line for line in logged if line["log_level"] == "error"]
    assert not [line for line in logged if "internal error" in str(line.get("reason"))]
