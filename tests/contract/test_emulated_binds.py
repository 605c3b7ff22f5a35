"""Emulated binds: a filter plays whoever comes, and nothing is bound."""

import asyncio
import gc

import psutil
import pytest
from calls import UNKNOWN, F, bind, own, proxy_address, redirect
from players import LOCAL, REMOTE, Echo, emulating
from rig import HOST, Hearing, eventually, make_filter, open_world, tagger, turns, unused_endpoint

from fwproxy import Endpoint, IpFilter, Transport, Verdict
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import (
    AddressNotAllowedError,
    AlreadyEmulatedError,
    BadContextError,
    NotEmulatedError,
    NotSupportedError,
    PolicyRulesDeniedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import AcceptedConnection, BindTcp, BindUdp, ConnectTcp, Listen

LONG = Limits(idle_timeout=1e6)
BOTH = pytest.mark.parametrize("transport", list(Transport))


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
