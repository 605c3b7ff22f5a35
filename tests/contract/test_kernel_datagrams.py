"""Datagrams that the kernel carries (S17, S19, S21)."""

import asyncio

import pytest
from calls import F, bind_udp, proxy_address, redirect
from kernel_world import elements, world
from own_network import in_own_network, shell
from rig import Hearing, eventually, turns

from fwproxy import Transport
from fwproxy.config.config import SecondaryConfig

UDP = Transport.UDP


@in_own_network
async def test_s17_datagrams_of_one_source_reach_the_client():
    async with world() as here:
        primary = await here.primary()
        client, server, second = (here.datagrams() for _ in range(3))
        hearing = Hearing(primary.session)
        (connection,) = await bind_udp(primary, client.address, session_filter=hearing)
        assert connection.choice.path.value == "kernel"
        server.send(b"one", proxy_address(connection))
        data, sender = await client.receive()
        assert data == b"one"
        await eventually(lambda: hearing.heard)
        (event,) = hearing.heard
        assert (event.client, event.server) == (client.address, server.address)
        second.send(b"two", proxy_address(connection))
        server.send(b"three", proxy_address(connection))
        assert (await client.receive())[0] == b"three"
        with pytest.raises(PermissionError):  # as for a client on the proxy's own host
            client.send(b"answer", sender)
        await asyncio.sleep(0.05)
        assert server.take() is None
        assert connection.data_path == "kernel"
        connection.kill()
        with pytest.raises(PermissionError):
            server.send(b"four", proxy_address(connection))
        await asyncio.sleep(0.05)
        assert client.take() is None


@in_own_network
async def test_s21_a_bidirectional_bind_lets_the_client_answer():
    async with world() as here:
        primary = await here.primary()
        client, server = here.datagrams(), here.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.BIDIRECTIONAL)
        assert connection.choice.path.value == "kernel"
        server.send(b"one", proxy_address(connection))
        _, sender = await client.receive()
        client.send(b"answer", sender)
        assert await server.receive() == (b"answer", proxy_address(connection))


@in_own_network
async def test_a_redirection_of_datagrams_and_its_answers():
    async with world() as here:
        primary = await here.primary()
        client, server = here.datagrams(), here.datagrams()
        made = await redirect(primary, server.address, transport=UDP)
        assert made.actions[0].choice.path.value == "kernel"
        client.send(b"question", made.internal_address)
        data, sender = await server.receive()
        assert data == b"question"
        server.send(b"answer", sender)
        assert await client.receive() == (b"answer", made.internal_address)
        made.actions[0].cancel()
        await turns()
        assert not {name for name in elements() if not name.startswith("killed")}


@in_own_network
async def test_s19_a_source_that_rests_may_come_again_until_it_was_idle_for_too_long():
    async with world(secondary=SecondaryConfig(timeout=60)) as here:
        primary = await here.primary()
        client, server = here.datagrams(), here.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.TIMEOUT)
        server.send(b"one", proxy_address(connection))
        await client.receive()
        await eventually(lambda: connection.kernel_flow)
        first = connection.kernel_flow
        shell("conntrack -D -p udp >/dev/null 2>&1")  # as if it had rested for long
        await eventually(lambda: first.is_closed)
        assert not connection.is_closed
        server.send(b"again", proxy_address(connection))
        assert (await client.receive())[0] == b"again"
        await eventually(lambda: connection.kernel_flow is not first)
        here.advance(61)  # what has come since conntrack was asked last is heard of now
        here.advance(61)
        assert connection.close_reason == "idle"
        assert connection.server_bytes == len(b"oneagain") + 2 * 28
        assert not {name for name in elements() if not name.startswith("killed")}


@in_own_network
async def test_datagrams_of_several_sources_are_for_user_space():
    async with world() as here:
        primary = await here.primary()
        client = here.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.ALLOW_MULTIPLE)
        assert connection.choice.reason == "datagrams of several sources"
        for text in (b"one", b"two"):
            here.datagrams().send(text, proxy_address(connection))
            assert (await client.receive())[0] == text
