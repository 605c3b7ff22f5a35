"""S34-S40 of the filter API: `redirect_connections`."""

import socket

import pytest
from calls import UNKNOWN, F, carries, is_refused, own, redirect
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    THIRD_HOST,
    Mute,
    eventually,
    free_ports,
    leftovers,
    make_filter,
    open_world,
    unused_endpoint,
)

from fwproxy import Endpoint, SecondaryFlags, Transport, Verdict
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.errors import (
    InvalidArgumentError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
    QuotaError,
)
from fwproxy.events import ConnectTcp
from fwproxy.policy.policy import Network, Rule

LONG = Limits(idle_timeout=1e6)
BOTH = pytest.mark.parametrize("transport", list(Transport))


def addresses(made):
    return [action.proxy_address for action in made.actions]


@BOTH
async def test_s34_there_is_an_action_for_each_target_cancelled_separately(transport):
    async with open_world() as world:
        primary = await world.primary()
        targets = [Endpoint(HOST, port) for port in (5000, 6000, 7000)]
        made = await redirect(primary, *targets, transport=transport)
        assert [action.target for action in made.actions] == targets
        assert made.actions[1].cancel()
        assert not made.actions[1].cancel()
        assert [action.is_active for action in made.actions] == [True, False, True]
        assert made.actions[1].close_reason == "cancelled"
        assert world.engine.ports.in_use == len(world.engine.ledger) == 2
        if transport is Transport.TCP:
            assert await is_refused(world, addresses(made)[1])
        for action in made.actions:
            action.cancel()
        assert world.engine.ports.in_use == 0


@BOTH
@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_s35_the_internal_address_has_the_lowest_of_consecutive_ports(transport, count):
    async with open_world() as world:
        primary = await world.primary()
        made = await redirect(primary, *[own(5000)] * count, transport=transport)
        lowest = made.internal_address.port
        assert [address.port for address in addresses(made)] == list(range(lowest, lowest + count))
        assert made.internal_address.host == primary.client.remote.host


async def test_s35_each_port_leads_to_its_target():
    async with open_world() as world:
        primary = await world.primary()
        upstreams = [world.listen() for _ in range(3)]
        made = await redirect(primary, *(upstream.address for upstream in upstreams))
        for address, upstream in zip(addresses(made), upstreams, strict=True):
            client = await world.connect(address)
            assert await carries(client, await world.accept(upstream))
        assert not leftovers(world.firewall).get("permissions")


async def test_s35_a_transparent_client_is_told_the_address_that_it_believes_in():
    async with open_world() as world:
        primary = await world.primary()
        primary.session.advertised_host = "198.51.100.9"
        made = await redirect(primary, own())
        assert made.internal_address.host == "198.51.100.9"
        assert addresses(made)[0].host == HOST


@BOTH
async def test_s36_the_secondary_leaves_from_exactly_the_address_given(transport):
    source = Endpoint(OTHER_HOST, free_ports(1, hosts=(OTHER_HOST,)).first)
    async with open_world() as world:
        primary = await world.primary()
        for given, host in ((source, OTHER_HOST), (Endpoint(THIRD_HOST), THIRD_HOST), (None, HOST)):
            server = world.listen() if transport is Transport.TCP else world.datagrams()
            made = await redirect(
                primary, server.address, proxy_external_address=given, transport=transport
            )
            if transport is Transport.TCP:
                await world.connect(made.internal_address)
                remote = (await world.accept(server)).remote
            else:
                world.datagrams().send(b"x", made.internal_address)
                _, remote = await server.receive()
            assert remote.host == host
            if given == source:
                assert remote == source


async def test_s36_a_source_that_is_not_ours_ends_the_connection():
    async with open_world() as world:
        primary = await world.primary()
        target = world.upstream.address
        made = await redirect(primary, target, proxy_external_address=Endpoint("192.0.2.99"))
        assert await is_refused(world, made.internal_address)
        await eventually(lambda: len(primary.session.connections) == 1)


async def test_s37_a_single_connection_by_default():
    async with open_world() as world:
        primary = await world.primary()
        upstream = world.listen()
        made = await redirect(primary, upstream.address)
        client = await world.connect(made.internal_address)
        assert await carries(client, await world.accept(upstream))
        assert made.actions[0].close_reason == "used"
        assert await is_refused(world, made.internal_address)


async def test_s37_a_single_source_of_datagrams_by_default():
    async with open_world() as world:
        primary = await world.primary()
        server, client, other = (world.datagrams() for _ in range(3))
        made = await redirect(primary, server.address, transport=Transport.UDP)
        client.send(b"one", made.internal_address)
        _, sender = await server.receive()
        other.send(b"two", made.internal_address)
        server.send(b"answer", sender)
        assert await client.receive() == (b"answer", made.internal_address)
        assert server.take() is None


@BOTH
async def test_s37_allow_multiple_lifts_it(transport):
    async with open_world() as world:
        primary = await world.primary()
        server = world.listen() if transport is Transport.TCP else world.datagrams()
        made = await redirect(primary, server.address, flags=F.ALLOW_MULTIPLE, transport=transport)
        for _ in range(3):
            if transport is Transport.TCP:
                client = await world.connect(made.internal_address)
                assert await carries(client, await world.accept(server))
            else:
                client = world.datagrams()
                client.send(b"x", made.internal_address)
                _, sender = await server.receive()
                server.send(b"y", sender)
                assert (await client.receive())[0] == b"y"
        assert made.actions[0].is_active
        assert world.engine.ports.in_use == 1


@BOTH
async def test_s38_a_permission_that_is_not_used_expires(transport):
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        flags = F.TIMEOUT
        made = await redirect(primary, own(5000), own(5001), flags=flags, transport=transport)
        world.advance(59)
        assert all(action.is_active for action in made.actions)
        world.advance(2)
        assert not any(action.is_active for action in made.actions)
        assert world.engine.ports.in_use == len(world.engine.ledger) == 0
        if transport is Transport.TCP:
            assert await is_refused(world, made.internal_address)


async def test_s38_a_connection_that_was_made_is_unaffected():
    async with open_world(limits=LONG, secondary=SecondaryConfig(timeout=5)) as world:
        primary = await world.primary()
        upstream = world.listen()
        made = await redirect(primary, upstream.address, flags=F.TIMEOUT)
        client = await world.connect(made.internal_address)
        server = await world.accept(upstream)
        assert await carries(client, server)
        world.advance(3600)
        assert await carries(client, server)


async def test_s38_without_a_time_out_it_stays():
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        made = await redirect(primary, own())
        world.advance(24 * 3600)
        assert made.actions[0].is_active


async def test_s39_filters_of_connect_events_are_notified_and_can_deny():
    heard, answer = [], [None]

    def hear(event):
        heard.append(event)
        return answer[0] if event.is_secondary else None

    witness = make_filter("witness", hear, ConnectTcp, associated=[ConnectTcp])
    async with open_world(witness) as world:
        primary = await world.primary()
        upstream = world.listen()
        made = await redirect(primary, upstream.address)
        client = await world.connect(made.internal_address)
        assert await carries(client, await world.accept(upstream))
        assert heard[-1].is_secondary
        assert heard[-1].server == upstream.address
        assert heard[-1].protocol == PROBE_DATA
        answer[0] = Verdict.DENY
        made = await redirect(primary, upstream.address)
        assert await is_refused(world, made.internal_address)


@BOTH
async def test_s40_only_four_flags_are_taken(transport):
    taken = F.ALLOW_MULTIPLE | F.TIMEOUT | F.NO_KERNEL_MODE | F.INCREASE_RECEIVE_BUFFER
    async with open_world() as world:
        primary = await world.primary()
        assert await redirect(primary, own(), flags=taken, transport=transport)
        for flag in SecondaryFlags:
            if flag not in taken:
                with pytest.raises(InvalidArgumentError, match=str(flag.name)):
                    await redirect(primary, own(), flags=flag, transport=transport)
                with pytest.raises(InvalidArgumentError):
                    await redirect(primary, own(), flags=flag | F.TIMEOUT, transport=transport)


async def test_s40_the_receive_buffer_can_be_increased():
    async with open_world() as world:
        primary = await world.primary()
        flags = F.INCREASE_RECEIVE_BUFFER
        await redirect(primary, own(), flags=flags, transport=Transport.UDP)
        (secondary,) = primary.session.connections - {primary.connection}
        size = secondary._relay.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert size >= 2 * 64 * 1024  # socket(7): doubled


@BOTH
async def test_only_the_sessions_client_may_come(transport):
    async with open_world() as world:
        primary = await world.primary()
        server = world.listen() if transport is Transport.TCP else world.datagrams()
        made = await redirect(primary, server.address, transport=transport)
        if transport is Transport.TCP:
            for _ in range(2):
                assert await is_refused(world, made.internal_address, OTHER_HOST)
            assert made.actions[0].refused == 2
            client = await world.connect(made.internal_address)
            assert await carries(client, await world.accept(server))
        else:
            (secondary,) = primary.session.connections - {primary.connection}
            world.datagrams(OTHER_HOST).send(b"race", made.internal_address)
            await eventually(lambda: secondary._relay.dropped == 1)
            world.datagrams().send(b"mine", made.internal_address)
            assert (await server.receive())[0] == b"mine"


@BOTH
@pytest.mark.parametrize("target", [Endpoint(HOST, 0), Endpoint("0.0.0.0", 5000), UNKNOWN])
async def test_a_target_is_an_address_to_connect_to(transport, target):
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(InvalidArgumentError):
            await redirect(primary, own(), target, transport=transport)
        assert world.engine.ports.in_use == 0


@BOTH
async def test_a_target_that_the_rules_do_not_allow(transport):
    networks = (Network("near", ("127.0.0.1/32",)), Network("far", ("127.0.0.2/32",)))
    rules = (Rule(allow=True, targets=("near",)),)
    async with open_world(networks=networks, rules=rules) as world:
        primary = await world.primary()
        assert await redirect(primary, own(), transport=transport)
        with pytest.raises(PolicyRulesDeniedError):
            await redirect(primary, own(), Endpoint(OTHER_HOST, 5000), transport=transport)
        assert world.engine.ports.in_use == 1


@BOTH
async def test_the_pool_and_the_quota_bound_it(transport):
    pool = SecondaryConfig(ports=free_ports(2))
    async with open_world(secondary=pool, limits=Limits(max_permissions_per_session=3)) as world:
        primary = await world.primary()
        await redirect(primary, own(), transport=transport)
        with pytest.raises(PortsExhaustedError):
            await redirect(primary, own(5000), own(5001), transport=transport)
        with pytest.raises(QuotaError, match="max_permissions_per_session"):
            await redirect(primary, *[own()] * 3, transport=transport)
        assert world.engine.ports.in_use == len(world.engine.ledger) == 1


@pytest.mark.parametrize("target", ["refusing", "hanging"])
async def test_a_target_that_cannot_be_reached_cuts_the_client_off(target):
    async with open_world(limits=Limits(connect_timeout=5)) as world:
        primary = await world.primary()
        address = unused_endpoint() if target == "refusing" else world.add(Mute()).address
        made = await redirect(primary, address)
        if target == "refusing":
            assert await is_refused(world, made.internal_address)
        else:
            client = await world.connect(made.internal_address)
            await eventually(lambda: len(primary.session.connections) == 2)
            world.advance(6)
            assert await client.is_cut_off()
        await eventually(lambda: len(primary.session.connections) == 1)
        assert primary.session in world.sessions
