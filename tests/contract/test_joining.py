"""Two who both come to the proxy or both wait: bound connections as targets, connect_for_client."""

import pytest
from calls import UNKNOWN, F, bind, carries, is_refused, own, proxy_address, redirect
from rig import HOST, OTHER_HOST, PROBE_DATA, Hearing, eventually, open_world, unused_endpoint

from fwproxy import Endpoint
from fwproxy.config.config import Limits
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import AddressNotAllowedError, AddressNotAvailableError, InvalidArgumentError

LONG = Limits(idle_timeout=1e6)


# A bound connection as the target: server and client both come to the proxy.


@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_bound_connection_takes_the_client_that_comes(first):
    async with open_world() as world:
        primary = await world.primary()
        hearing = Hearing(primary.session)
        (bound,) = await bind(primary, UNKNOWN, session_filter=hearing, flags=F.TIMEOUT)
        made = await redirect(primary, bound, flags=F.TIMEOUT)
        goals = {"client": made.internal_address, "server": proxy_address(bound)}
        ends = {first: await world.connect(goals.pop(first))}
        await ends[first].send(b"early")
        ((second, goal),) = goals.items()
        ends[second] = await world.connect(goal)
        assert await ends[second].read(5) == b"early"
        assert await carries(ends["client"], ends["server"])
        assert bound.client_address == ends["client"].address
        (event,) = hearing.heard
        assert event.connection is bound
        assert not len(world.engine.ledger)


async def test_a_bound_connection_that_nobody_redirects_to_any_more_ends():
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        (bound,) = await bind(primary, UNKNOWN)
        await redirect(primary, bound, flags=F.TIMEOUT)
        server = await world.connect(proxy_address(bound))
        world.advance(61)
        assert await server.is_cut_off()
        assert bound.is_closed


async def test_only_a_bound_connection_that_lacks_its_client_can_be_a_target():
    async with open_world() as world:
        primary = await world.primary()
        other = await world.primary()
        (known,) = await bind(primary, own())
        (foreign,) = await bind(other, UNKNOWN)
        (ended,) = await bind(primary, UNKNOWN)
        ended.kill()
        for target in (known, foreign, ended, primary.connection):
            with pytest.raises(InvalidArgumentError):
                await redirect(primary, target)
        (bound,) = await bind(primary, UNKNOWN)
        with pytest.raises(InvalidArgumentError):
            await redirect(primary, bound, flags=F.ALLOW_MULTIPLE)
        assert bound.state is ConnectionState.BOUND


async def test_a_client_that_comes_after_the_bound_connection_has_ended_is_cut_off():
    async with open_world() as world:
        primary = await world.primary()
        (bound,) = await bind(primary, UNKNOWN)
        made = await redirect(primary, bound)
        bound.kill()
        assert await is_refused(world, made.internal_address)


# connect_for_client: server and client both wait.


async def test_connect_for_client_joins_two_who_wait():
    async with open_world() as world:
        primary = await world.primary()
        client_side, server_side = world.listen(), world.listen()
        hearing, context = Hearing(primary.session), object()
        connection = await primary.session.connect_for_client(
            client_side.address,
            server_side.address,
            proxy_external_address=Endpoint(OTHER_HOST),
            protocol=PROBE_DATA,
            session_filter=hearing,
            context=context,
        )
        server = await world.accept(server_side)
        client = await world.accept(client_side)
        assert server.remote.host == OTHER_HOST
        assert await carries(client, server)
        (event,) = hearing.heard
        assert event.connection is connection
        assert event.context is context
        connection.kill()
        assert await client.is_cut_off()


@pytest.mark.parametrize(
    ("client", "server", "error"),
    [
        (own(), Endpoint("0.0.0.0", 5000), InvalidArgumentError),
        (own(), Endpoint(HOST, 0), InvalidArgumentError),
        (UNKNOWN, own(), InvalidArgumentError),
        (Endpoint(OTHER_HOST, 5000), own(), AddressNotAllowedError),
        (own(21), own(), AddressNotAllowedError),
    ],
)
async def test_connect_for_client_takes_addresses_that_may_be_connected_to(client, server, error):
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(error):
            await primary.session.connect_for_client(client, server, protocol=PROBE_DATA)
        assert len(primary.session.connections) == 1


@pytest.mark.parametrize("side", ["client", "server"])
async def test_connect_for_client_to_one_who_is_not_there_ends_the_connection(side):
    async with open_world() as world:
        primary = await world.primary()
        there = world.listen()
        ends = (unused_endpoint(), there.address)
        client, server = ends if side == "client" else reversed(ends)
        connection = await primary.session.connect_for_client(client, server, protocol=PROBE_DATA)
        await eventually(lambda: connection.is_closed)
        assert "cannot be reached" in connection.close_reason


async def test_connect_for_client_from_an_address_that_is_not_ours():
    async with open_world() as world:
        primary = await world.primary()
        connection = await primary.session.connect_for_client(
            own(),
            world.upstream.address,
            proxy_external_address=Endpoint("192.0.2.99"),
            protocol=PROBE_DATA,
        )
        await eventually(lambda: connection.is_closed)
        assert "192.0.2.99 is none of this computer's addresses" in connection.close_reason


async def test_an_error_leaves_no_half_a_redirection(monkeypatch):
    async with open_world() as world:
        primary = await world.primary()
        monkeypatch.setattr(
            world.engine.ports,
            "_open",
            lambda *_, **__: (_ for _ in ()).throw(AddressNotAvailableError("none left")),
        )
        with pytest.raises(AddressNotAvailableError):
            await redirect(primary, own(), own(5001))
        assert world.engine.ports.in_use == len(world.engine.ledger) == 0
