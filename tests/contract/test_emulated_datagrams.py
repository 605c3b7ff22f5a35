"""Emulated datagrams: a filter plays who sends to the client, or the server, and nothing leaves."""

import pytest
from calls import UNKNOWN, F, bind_udp, own, proxy_address, redirect
from players import LOCAL, REMOTE, Echo, Speaker, emulating, playing
from rig import HOST, Hearing, eventually, make_filter, open_world, turns

from fwproxy import Ends, Transport
from fwproxy.config.config import Limits
from fwproxy.errors import AddressNotAllowedError, BadContextError, CallError
from fwproxy.events import UdpDestination

LONG = Limits(idle_timeout=1e6)


async def test_datagrams_of_somebody_who_is_played():
    async with open_world(emulating(), limits=LONG) as world:
        primary = await world.primary()
        client, speaker = world.datagrams(), Speaker()
        hearing = Hearing(primary.session)
        (bound,) = await bind_udp(
            primary, client.address, flags=F.BIDIRECTIONAL, session_filter=hearing
        )
        connection = bound.emulate_connection(REMOTE, LOCAL, speaker)
        assert connection is bound
        assert len(hearing.heard) == 1
        speaker.to_client.send(b"one")
        data, source = await client.receive()
        assert (data, source.host) == (b"one", HOST)
        speaker.to_client.send_to(b"", Ends(client.address, REMOTE))
        assert (await client.receive())[0] == b""
        client.send(b"reply", source)
        await eventually(lambda: speaker.heard == [b"reply"])
        with pytest.raises(BadContextError):
            speaker.to_server.send(b"nobody")
        with pytest.raises(AddressNotAllowedError):
            speaker.to_client.send_to(b"x", Ends(own(1), REMOTE))
        world.advance(61)  # no longer a recent one (S21)
        client.send(b"late", source)
        await eventually(lambda: connection.dropped == 1)
        assert (connection.client_bytes, connection.data_path) == (5, "user")
        connection.kill()
        speaker.to_client.send(b"nothing any more")
        await turns()
        assert client.take() is None


async def test_s21_without_the_flag_the_client_cannot_answer_one_who_is_played():
    async with open_world(emulating()) as world:
        primary = await world.primary()
        client, speaker = world.datagrams(), Speaker()
        (bound,) = await bind_udp(primary, client.address)
        connection = bound.emulate_connection(REMOTE, data_filter=speaker)
        speaker.to_client.send(b"one")
        _, source = await client.receive()
        client.send(b"reply", source)
        await eventually(lambda: connection.dropped == 1)
        assert not speaker.heard


async def test_many_who_are_played_have_a_connection_each():
    async with open_world(emulating()) as world:
        primary = await world.primary()
        client = world.datagrams()
        (bound,) = await bind_udp(primary, client.address, flags=F.ALLOW_MULTIPLE)
        sources = set()
        for number in range(2):
            speaker = Speaker()
            bound.emulate_connection(REMOTE.with_port(number + 1), data_filter=speaker)
            speaker.to_client.send(b"%d" % number)
            data, source = await client.receive()
            assert data == b"%d" % number
            sources.add(source)
        assert len(sources) == 2


async def test_a_client_that_cannot_be_sent_to_ends_the_connection():
    async with open_world(emulating()) as world:
        primary = await world.primary()
        (bound,) = await bind_udp(primary, UNKNOWN)
        connection = bound.emulate_connection(REMOTE, data_filter=Speaker())
        assert connection.is_closed
        assert "cannot be sent to" in connection.close_reason


async def test_a_filter_plays_a_datagram_server_and_nothing_leaves():
    player = playing(Echo, UdpDestination, associated=[UdpDestination])
    async with open_world(player) as world:
        primary = await world.primary()
        server = world.datagrams()
        hearing = Hearing(primary.session)
        made = await redirect(
            primary,
            server.address,
            transport=Transport.UDP,
            flags=F.ALLOW_MULTIPLE,
            session_filter=hearing,
        )
        (connection,) = primary.session.connections - {primary.connection}
        one = world.datagrams()
        one.send(b"a", made.internal_address)
        assert await one.receive() == (b"aa", made.internal_address)
        assert connection.is_emulated
        assert connection.path_reason == "data filter attached by player"
        assert len(hearing.heard) == 1
        two = world.datagrams()
        two.send(b"b", made.internal_address)
        assert await two.receive() == (b"bb", made.internal_address)
        assert one.take() is None
        assert server.take() is None


async def test_a_datagram_server_that_is_real_already_cannot_be_played():
    errors = []

    def hear(event):
        try:
            event.connection.emulate_for_connect(Echo())
        except CallError as error:
            errors.append(type(error))

    hooked = make_filter("player", hear, associated=[UdpDestination])
    limits = Limits(max_destinations_per_connection=1)
    async with open_world(hooked, limits=limits) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        flags = F.BIDIRECTIONAL
        (connection,) = await bind_udp(primary, client.address, flags=flags)
        server.send(b"x", proxy_address(connection))
        _, source = await client.receive()
        client.send(b"y", source)
        assert (await server.receive())[0] == b"y"
        assert errors == [BadContextError]
