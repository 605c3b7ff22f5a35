"""Emulation: a filter plays the server, or whoever comes to a bind; nothing is dialled or bound."""

import asyncio
import gc

import psutil
import pytest
from calls import UNKNOWN, F, bind, bind_udp, is_refused, own, proxy_address, redirect
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    Hearing,
    eventually,
    make_filter,
    open_world,
    tagger,
    turns,
    unused_endpoint,
)

from fwproxy import (
    ConnectionFlags,
    DataFilter,
    Endpoint,
    Ends,
    IpFilter,
    ListenerKind,
    Priority,
    Transport,
    Verdict,
)
from fwproxy.config import Limits, SecondaryConfig
from fwproxy.connection import ConnectionState
from fwproxy.errors import (
    AddressNotAllowedError,
    AlreadyEmulatedError,
    BadContextError,
    CallError,
    NotEmulatedError,
    NotSupportedError,
    PolicyRulesDeniedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import (
    AcceptedConnection,
    BindTcp,
    BindUdp,
    ConnectionTerminating,
    ConnectTcp,
    Listen,
    UdpDestination,
)

LONG = Limits(idle_timeout=1e6)
BOTH = pytest.mark.parametrize("transport", list(Transport))
REMOTE, LOCAL = Endpoint("198.51.100.9", 20), Endpoint("203.0.113.1", 4000)


class Echo(DataFilter):
    """Plays a server that says everything twice."""

    def __init__(self):
        self.ended = self.let_go = 0

    def data_from_client(self, data):
        self.to_client.send(data * 2)

    def end_from_client(self):
        self.ended += 1
        super().end_from_client()

    def detach(self):
        self.let_go += 1


def playing(make=Echo, *events, associated=(), more=lambda event: None):
    """Make a filter that plays the server of every connect that it hears of."""

    def hear(event):
        event.connection.emulate_for_connect(make())
        return more(event)

    return make_filter("player", hear, *(events or [ConnectTcp]), associated=associated)


# Connects.


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


# Binds.


def emulating(*events, by_verdict=False, address=None, more=None):
    """Make a filter that plays every bind that it hears of."""

    def hear(event):
        if more is not None:
            more(event)
        if by_verdict:
            return Verdict.EMULATE
        event.connection.emulate_for_bind(address)
        return None

    return make_filter("player", hear, *(events or (BindTcp, BindUdp)))


def is_free(address, transport):
    """Tell whether the proxy has no socket at an address."""
    kind = "tcp" if transport is Transport.TCP else "udp"
    bound = {each.laddr[1] for each in psutil.Process().net_connections(kind)}
    return address.port not in bound


@BOTH
@pytest.mark.parametrize("by_verdict", [False, True])
async def test_an_emulated_bind_has_a_port_number_and_no_port(transport, by_verdict):
    async with open_world(emulating(by_verdict=by_verdict)) as world:
        primary = await world.primary()
        made = await bind(primary, own(5000), own(5001), own(5002), transport=transport)
        first = proxy_address(made[0]).port
        assert [proxy_address(each).port for each in made] == [first, first + 1, first + 2]
        assert first % 3 == 0
        assert all(each.is_emulated and each.state is ConnectionState.BOUND for each in made)
        assert all(is_free(proxy_address(each), transport) for each in made)
        assert world.engine.ports.in_use == len(world.engine.ledger) == 3
        made[1].kill()
        assert world.engine.ports.in_use == len(world.engine.ledger) == 2
        assert made[0].path_reason == "data filter attached by player"


async def test_a_filter_may_emulate_one_of_several_and_the_others_are_bound():
    heard = []

    def hear(event):
        heard.append(event)
        if len(heard) == 2:
            event.connection.emulate_for_bind()

    async with open_world(make_filter("player", hear, BindTcp)) as world:
        primary = await world.primary()
        made = await bind(primary, own(5000), own(5001), own(5002))
        free = [is_free(proxy_address(each), Transport.TCP) for each in made]
        assert free == [False, True, False]
        assert [each.is_emulated for each in made] == [False, True, False]


@pytest.mark.parametrize("asked", [None, Endpoint(HOST, 40123)])
@BOTH
async def test_an_emulated_bind_may_have_an_address_that_is_none_of_this_computers(
    transport, asked
):
    async with open_world(emulating(address=LOCAL)) as world:
        primary = await world.primary()
        (connection,) = await bind(primary, proxy_address=asked, transport=transport)
        assert connection.proxy_address == LOCAL
        assert world.engine.ports.in_use == 0
        assert len(world.engine.ledger) == 1
        made = await bind(primary, own(5000), own(5001), transport=transport)
        assert {each.proxy_address for each in made} == {LOCAL}
        assert world.engine.ports.in_use == 0


async def test_an_emulated_bind_keeps_the_port_that_was_asked_for():
    async with open_world(emulating()) as world:
        primary = await world.primary()
        asked = unused_endpoint()
        (connection,) = await bind(primary, proxy_address=asked)
        assert connection.proxy_address == asked
        assert is_free(asked, Transport.TCP)
        assert world.engine.ports.in_use == 0


async def test_somebody_comes_to_an_emulated_bind():
    async with open_world(emulating()) as world:
        primary = await world.primary()
        listener, echo, hearing = world.listen(), Echo(), Hearing(primary.session)
        (bound,) = await bind(primary, listener.address, session_filter=hearing, context="its own")
        connection = bound.emulate_connection(REMOTE, LOCAL, echo, "context")
        assert connection is bound
        client = await world.accept(listener)
        await client.send(b"abc")
        assert await client.read(6) == b"abcabc"
        assert echo.context == "context"
        assert connection.external_peer_name == connection.server_address == REMOTE
        assert connection.external_socket_name is None
        assert not bound.permission.is_active
        assert bound.permission.uses == 1
        (event,) = hearing.heard
        assert (event.server, event.client, event.context) == (
            REMOTE,
            listener.address,
            "its own",
        )
        with pytest.raises(NotEmulatedError):
            bound.emulate_connection(REMOTE)
        client.half_close()
        assert await client.read_all() == b""
        await eventually(lambda: connection.is_closed)
        assert connection.close_reason == "closed"
        with pytest.raises(TerminatingError):
            bound.emulate_connection(REMOTE)


async def test_many_come_where_many_are_allowed():
    limits = Limits(max_connections_per_session=4)
    async with open_world(emulating(), limits=limits) as world:
        primary = await world.primary()
        listener = world.listen()
        (bound,) = await bind(primary, listener.address, flags=F.ALLOW_MULTIPLE)
        made = [bound.emulate_connection(REMOTE, data_filter=Echo()) for _ in range(2)]
        assert len({bound, *made}) == 3
        for connection in made:
            assert connection.is_emulated
            client = await world.accept(listener)
            await client.send(b"x")
            assert await client.read(2) == b"xx"
            assert connection.permission is bound.permission
        with pytest.raises(QuotaError, match="max_connections_per_session"):
            bound.emulate_connection(REMOTE, data_filter=Echo())
        assert bound.permission.uses == 2
        bound.kill()
        await client.send(b"y")
        assert await client.read(2) == b"yy"


async def test_s24_the_ip_filter_holds_for_those_who_are_played():
    async with open_world(emulating()) as world:
        primary = await world.primary()
        (bound,) = await bind(primary, ip_filter=IpFilter.only("192.0.2.1"))
        with pytest.raises(AddressNotAllowedError):
            bound.emulate_connection(REMOTE, data_filter=Echo())
        assert bound.permission.refused == 1
        assert bound.state is ConnectionState.BOUND
        with pytest.raises(NotSupportedError):
            bound.set_ip_filter(None)


async def test_the_other_filters_hear_of_an_emulated_accept_and_may_attach_or_deny():
    heard, answer = [], []

    def hear(event):
        heard.append(event)
        event.connection.attach_data_filter(tagger(b"<%b>"))
        return answer.pop() if answer else None

    witness = make_filter("witness", hear, associated=[AcceptedConnection])
    async with open_world(emulating(), witness) as world:
        primary = await world.primary()
        listener = world.listen()
        (bound,) = await bind(primary, listener.address)
        connection = bound.emulate_connection(REMOTE, LOCAL, Echo())
        client = await world.accept(listener)
        await client.send(b"x")
        assert await client.read(8) == b"<<x><x>>"
        (event,) = heard
        assert (event.remote, event.local) == (REMOTE, LOCAL)
        assert event.connection is connection
        answer.append(Verdict.DENY)
        (bound,) = await bind(primary, listener.address)
        connection = bound.emulate_connection(REMOTE, data_filter=Echo())
        assert connection.is_closed
        assert "denied by a filter" in connection.close_reason
        assert heard[1].local == proxy_address(bound)


@BOTH
async def test_a_connection_that_is_killed_at_once_leaves_no_handler_behind(transport):
    running = []

    async def think(event):
        running.append(event)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(event)

    thinking = make_filter("thinking", think, associated=[AcceptedConnection])
    async with open_world(emulating(), thinking) as world:
        primary = await world.primary()
        (bound,) = await bind(primary, transport=transport)
        bound.emulate_connection(REMOTE, data_filter=Echo()).kill()
        await turns()
        assert not running
        gc.collect()  # Python would warn of a coroutine that was never awaited


async def test_the_last_filter_of_the_chain_plays_if_nobody_is_named():
    def hear(event):
        event.connection.attach_data_filter(Echo())

    witness = make_filter("witness", hear, associated=[AcceptedConnection])
    async with open_world(emulating(), witness) as world:
        primary = await world.primary()
        listener = world.listen()
        (bound,) = await bind(primary, listener.address)
        bound.emulate_connection(REMOTE)
        client = await world.accept(listener)
        await client.send(b"x")
        assert await client.read(2) == b"xx"


@BOTH
async def test_a_connection_that_nobody_plays_ends(transport):
    async with open_world(emulating()) as world:
        primary = await world.primary()
        (bound,) = await bind(primary, transport=transport)
        connection = bound.emulate_connection(REMOTE)
        assert connection.is_closed
        assert "no data filter plays" in connection.close_reason
        assert len(world.engine.ledger) == world.engine.ports.in_use == 0


async def test_s05_the_client_may_become_known_later():
    async with open_world(emulating()) as world:
        primary = await world.primary()
        listener = world.listen()
        (bound,) = await bind(primary, UNKNOWN)
        connection = bound.emulate_connection(REMOTE, data_filter=Echo())
        await turns()
        connection.set_client_address(listener.address)
        client = await world.accept(listener)
        await client.send(b"x")
        assert await client.read(2) == b"xx"


async def test_a_redirected_client_may_meet_somebody_who_is_played():
    async with open_world(emulating()) as world:
        primary = await world.primary()
        (bound,) = await bind(primary, UNKNOWN)
        made = await redirect(primary, bound)
        bound.emulate_connection(REMOTE, data_filter=Echo())
        client = await world.connect(made.internal_address)
        await client.send(b"x")
        assert await client.read(2) == b"xx"


async def test_s18_the_time_out_holds_for_emulated_binds():
    async with open_world(emulating(), limits=LONG, secondary=SecondaryConfig(timeout=5)) as world:
        primary = await world.primary()
        (bound,) = await bind(primary, flags=F.TIMEOUT)
        world.advance(4)
        assert not bound.is_closed
        world.advance(2)
        assert bound.is_closed
        with pytest.raises(TerminatingError):
            bound.emulate_connection(REMOTE, data_filter=Echo())
        assert len(world.engine.ledger) == world.engine.ports.in_use == 0


async def test_emulate_for_bind_says_what_is_wrong():
    caught = []

    def hear(event):
        connection = event.connection
        if isinstance(event, BindTcp | BindUdp):
            connection.emulate_for_bind()
            with pytest.raises(AlreadyEmulatedError):
                connection.emulate_for_bind()
            with pytest.raises(BadContextError):
                connection.emulate_for_connect(Echo())
            with pytest.raises(NotEmulatedError):
                connection.emulate_connection(REMOTE, data_filter=Echo())
        else:
            with pytest.raises(BadContextError):
                connection.emulate_for_bind()
        caught.append(type(event))

    hooked = make_filter("player", hear, BindTcp, BindUdp, Listen, ConnectTcp)
    async with open_world(hooked) as world:
        primary = await world.primary()
        for transport in Transport:
            await bind(primary, transport=transport)
        assert caught == [ConnectTcp, BindTcp, Listen, BindUdp]
        with pytest.raises(BadContextError):
            primary.connection.emulate_for_bind()


async def test_a_bind_that_is_emulated_and_denied_is_denied():
    deny = make_filter("deny", lambda event: Verdict.DENY, BindTcp, BindUdp)
    async with open_world(emulating(), deny) as world:
        primary = await world.primary()
        for transport in Transport:
            with pytest.raises(PolicyRulesDeniedError):
                await bind(primary, own(), own(5001), transport=transport)
        assert len(world.engine.ledger) == world.engine.ports.in_use == 0
        assert len(primary.session.connections) == 1


# emulate_client_bind.


@BOTH
async def test_a_primary_inbound_connection_for_a_client_that_made_no_bind(transport):
    heard = []
    events = (BindTcp, BindUdp, Listen, AcceptedConnection, ConnectionTerminating)
    witness = make_filter("witness", heard.append, *events)
    async with open_world(witness) as world:
        primary = await world.primary()
        far = world.listen() if transport is Transport.TCP else world.datagrams()
        hearing = Hearing(primary.session)
        bound = await primary.session.emulate_client_bind(
            far.address, LOCAL, PROBE_DATA, transport=transport, session_filter=hearing
        )
        assert (bound.is_secondary, bound.is_emulated) == (False, True)
        assert (bound.proxy_address, bound.client_address) == (LOCAL, far.address)
        assert world.engine.ports.in_use == 0
        assert len(world.engine.ledger) == 1
        speaker = Speaker()
        connection = bound.emulate_connection(REMOTE, data_filter=speaker)
        speaker_says = b"hello"
        if transport is Transport.TCP:
            client = await world.accept(far)
            await eventually(lambda: connection.data_path)
            speaker.to_client.send(speaker_says)
            assert await client.read(5) == speaker_says
        else:
            speaker.to_client.send(speaker_says)
            assert (await far.receive())[0] == speaker_says
        connection.kill()
        kinds = [BindTcp, Listen] if transport is Transport.TCP else [BindUdp]
        assert [type(event) for event in heard] == [
            *kinds,
            AcceptedConnection,
            ConnectionTerminating,
        ]
        assert [event.context for event in hearing.heard] == [None]
        assert primary.session.end_reason is None  # only *the* primary's end is the session's


class Speaker(DataFilter):
    """Plays somebody who says only what the test says."""

    def __init__(self):
        self.heard = []

    def data_from_client(self, data):
        self.heard.append(data)


async def test_emulate_client_bind_is_checked_as_a_bind_is():
    async with open_world(limits=Limits(max_connections_per_session=2)) as world:
        primary = await world.primary()
        session = primary.session
        with pytest.raises(AddressNotAllowedError):
            await session.emulate_client_bind(Endpoint(OTHER_HOST, 5000), LOCAL, PROBE_DATA)
        made = await session.emulate_client_bind(UNKNOWN, LOCAL, PROBE_DATA)
        with pytest.raises(QuotaError):
            await session.emulate_client_bind(own(), LOCAL, PROBE_DATA)
        made.kill()
        primary.client.reset()
        await world.ended()
        with pytest.raises(TerminatingError):
            await session.emulate_client_bind(own(), LOCAL, PROBE_DATA)


async def test_emulate_client_bind_may_be_denied_by_others_and_not_by_the_caller():
    answer = []

    def hear(event):
        return answer[0] if isinstance(event, BindTcp) else None

    async with open_world(make_filter("other", hear, BindTcp)) as world:
        primary = await world.primary()
        session = primary.session
        answer.append(Verdict.DENY)
        with pytest.raises(PolicyRulesDeniedError):
            await session.emulate_client_bind(own(), LOCAL, PROBE_DATA)
        assert len(session.connections) == 1
        caller = session.attach_filter("other")
        assert await session.emulate_client_bind(own(), LOCAL, PROBE_DATA, session_filter=caller)
        answer[0] = Verdict.EMULATE  # which it is already
        assert await session.emulate_client_bind(own(), LOCAL, PROBE_DATA)


# Datagrams.


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
