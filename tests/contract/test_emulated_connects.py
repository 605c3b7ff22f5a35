"""Emulated connects: a filter plays the server, and nothing is dialled."""

import asyncio

import pytest
from calls import is_refused, proxy_address
from players import REMOTE, Echo, playing
from rig import (
    HOST,
    PROBE_DATA,
    Hearing,
    eventually,
    make_filter,
    open_world,
    tagger,
    unused_endpoint,
)

from fwproxy import ConnectionFlags, DataFilter, Endpoint, IpFilter, ListenerKind, Priority, Verdict
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import (
    AlreadyEmulatedError,
    BadContextError,
    NotEmulatedError,
    NotSupportedError,
    PolicyRulesDeniedError,
    TerminatingError,
)
from fwproxy.events import AcceptedConnection, BindTcp, ConnectionTerminating, ConnectTcp, Listen


@pytest.mark.parametrize("verdict", [None, Verdict.PASS, Verdict.ALLOW, Verdict.EMULATE])
async def test_a_filter_plays_the_server_and_nothing_is_dialled(verdict):
    echo = Echo()
    nobody = unused_endpoint()
    filters = playing(lambda: echo, more=lambda event: verdict)
    async with open_world(filters, upstream=nobody) as world:
        client = await world.connect()
        await client.send(b"abc")
        assert await client.read(6) == b"abcabc"
        (session,) = world.sessions
        connection = session.primary
        assert connection.is_emulated
        assert connection.connection_flags & ConnectionFlags.EMULATED
        assert connection.external_socket_name is None
        assert connection.external_peer_name == nobody
        assert connection.state is ConnectionState.ESTABLISHED
        assert (connection.data_path, connection.path_reason) == (
            "user",
            "data filter attached by player",
        )
        assert (connection.client_bytes, connection.server_bytes) == (3, 0)
        client.half_close()
        assert await client.read_all() == b""
        await world.ended()
        assert (echo.ended, echo.let_go) == (1, 1)
        assert connection.close_reason == "closed"


async def test_a_coroutine_may_emulate_too():
    async def later(event):
        await asyncio.sleep(0)
        event.connection.emulate_for_connect(Echo(), "context")
        return Verdict.EMULATE

    async with open_world(make_filter("player", later, ConnectTcp)) as world:
        client = await world.connect()
        await client.send(b"abc")
        assert await client.read(6) == b"abcabc"


async def test_the_player_stands_behind_all_other_filters():
    def hear(event):
        event.connection.attach_data_filter(tagger(b"<%b>"), Priority.EXTERNAL)

    before = make_filter("before", hear, ConnectTcp)
    after = make_filter("after", hear, ConnectTcp)
    async with open_world(before, playing(), after) as world:
        client = await world.connect()
        await client.send(b"x")
        assert await client.read(14) == b"<<<<x>><<x>>>>"


async def test_the_other_filters_see_what_the_player_says():
    def hear(event):
        event.connection.attach_data_filter(tagger(b"<%b>"))

    async with open_world(playing(), make_filter("tagger", hear, ConnectTcp)) as world:
        client = await world.connect()
        await client.send(b"x")
        assert await client.read(8) == b"<<x><x>>"


async def test_nothing_is_behind_the_player():
    class PassesOn(DataFilter):
        """The defaults would pass the bytes on."""

    async with open_world(playing(PassesOn)) as world:
        client = await world.connect()
        await client.send(b"x")
        assert await client.is_cut_off()
        await world.ended()


async def test_the_player_may_speak_first_and_end_first():
    class Hello(DataFilter):
        def set_sockets(self, internal, external, connection, context):
            super().set_sockets(internal, external, connection, context)
            assert context == "context"
            internal.send(b"hello")
            internal.half_close()

    def hear(event):
        event.connection.emulate_for_connect(Hello(), "context")

    async with open_world(make_filter("player", hear, ConnectTcp)) as world:
        client = await world.connect()
        assert await client.read_all() == b"hello"
        client.half_close()
        await world.ended()


async def test_a_denial_of_another_filter_counts():
    echo = Echo()
    deny = make_filter("deny", lambda event: Verdict.DENY, ConnectTcp)
    for filters in ([playing(lambda: echo), deny], [deny, playing(lambda: echo)]):
        async with open_world(*filters) as world:
            assert await is_refused(world, world.address)
            await world.ended()


async def test_emulate_without_a_player_is_refused_and_nothing_is_dialled():
    only_says_so = make_filter("player", lambda event: Verdict.EMULATE, ConnectTcp)
    async with open_world(only_says_so) as world:
        assert await is_refused(world, world.address)
        await world.ended()
        with pytest.raises(BlockingIOError):
            world.upstream.sock.accept()


async def test_a_redirected_connection_can_be_played():
    async with open_world(playing(associated=[ConnectTcp])) as world:
        client = await world.connect()
        await client.send(b"a")
        assert await client.read(2) == b"aa"
        (session,) = world.sessions
        hearing = Hearing(session)
        made = await session.redirect_connections(
            [unused_endpoint()], protocol=PROBE_DATA, session_filter=hearing
        )
        data = await world.connect(made.internal_address)
        await data.send(b"b")
        assert await data.read(2) == b"bb"
        (event,) = hearing.heard
        assert event.connection.is_emulated


async def test_a_gateways_filter_may_get_a_played_server():
    """The filter that asks for a server talks with the client already."""
    said = []

    class Gateway(DataFilter):
        async def data_from_client(self, data):
            if said:
                self.to_server.send(data)
                return
            said.append(data)
            self.to_server.send(b"early ")
            await self.connection.connect(unused_endpoint())
            self.to_client.send(b"connected ")

    def hear(event):
        if isinstance(event, AcceptedConnection):
            event.connection.attach_data_filter(Gateway())
        else:
            with pytest.raises(BadContextError):
                event.connection.attach_data_filter(Gateway())
            event.connection.emulate_for_connect(Echo())

    both = make_filter("gateway", hear, AcceptedConnection, ConnectTcp)
    async with open_world(both, kind=ListenerKind.GATEWAY) as world:
        client = await world.connect()
        await client.send(b"go")
        assert await client.read(22) == b"connected early early "
        await client.send(b"x")
        assert await client.read(2) == b"xx"
        client.half_close()
        assert await client.read_all() == b""
        await world.ended()


async def test_a_played_server_that_is_denied_is_forgotten():
    """A gateway's filter may name another server then."""
    answers = [Verdict.DENY, None]
    outcomes = []

    class Gateway(DataFilter):
        async def data_from_client(self, data):
            with pytest.raises(PolicyRulesDeniedError):
                await self.connection.connect(unused_endpoint())
            outcomes.append(self.connection.is_emulated)
            await self.connection.connect(upstream.address)
            outcomes.append(self.connection.is_emulated)
            self.to_server.send(data)

    def hear(event):
        if isinstance(event, AcceptedConnection):
            event.connection.attach_data_filter(Gateway())
            return None
        if answers[0] is Verdict.DENY:
            event.connection.emulate_for_connect(Echo())
        return answers.pop(0)

    both = make_filter("gateway", hear, AcceptedConnection, ConnectTcp)
    async with open_world(both, kind=ListenerKind.GATEWAY) as world:
        upstream = world.upstream
        client = await world.connect()
        await client.send(b"go")
        server = await world.accept()
        assert await server.read(2) == b"go"
        assert outcomes == [False, False]


async def test_emulate_for_connect_says_what_is_wrong():
    caught = []

    def hear(event):
        connection = event.connection
        if isinstance(event, ConnectTcp):
            connection.emulate_for_connect(Echo())
            with pytest.raises(AlreadyEmulatedError):
                connection.emulate_for_connect(Echo())
            with pytest.raises(BadContextError):
                connection.emulate_for_bind()
        else:
            with pytest.raises((BadContextError, TerminatingError)) as info:
                connection.emulate_for_connect(Echo())
            caught.append(info.type)

    events = [ConnectTcp, BindTcp, Listen, ConnectionTerminating]
    several = make_filter("player", hear, *events, associated=[AcceptedConnection])
    async with open_world(several) as world:
        client = await world.connect()
        await client.send(b"x")
        assert await client.read(2) == b"xx"
        (session,) = world.sessions
        connection = session.primary
        with pytest.raises(BadContextError):
            connection.emulate_for_connect(Echo())
        with pytest.raises(NotSupportedError):
            connection.set_ip_filter(IpFilter())
        with pytest.raises(NotEmulatedError):
            connection.emulate_connection(REMOTE)
        listener = world.listen()
        (bound,) = await session.bind_for_client(
            [listener.address], proxy_address=Endpoint(HOST), protocol=PROBE_DATA
        )
        server = await world.connect(proxy_address(bound))
        await world.accept(listener)
        server.reset()
        await eventually(lambda: bound.is_closed)
        client.reset()
        await world.ended()
        assert caught == [BadContextError] * 3 + [TerminatingError]
        with pytest.raises(TerminatingError):
            connection.emulate_for_connect(Echo())
        with pytest.raises(TerminatingError):
            connection.emulate_for_bind()
