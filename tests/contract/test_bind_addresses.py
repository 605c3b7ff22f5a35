"""S01-S05 and S56 of the filter API: the clients' addresses of `bind_for_client`."""

import pytest
from calls import (
    UNKNOWN,
    F,
    bind,
    bind_udp,
    carries,
    nothing_is_bound,
    own,
    proxy_address,
    redirect,
)
from rig import HOST, OTHER_HOST, PROBE_DATA, eventually, free_ports, open_world, turns

from fwproxy import Endpoint, Transport
from fwproxy.config.config import SecondaryConfig
from fwproxy.errors import (
    AddressNotAllowedError,
    InvalidArgumentError,
    PortsExhaustedError,
    TerminatingError,
)
from fwproxy.policy.policy import Network, Rule

BOTH = pytest.mark.parametrize("transport", list(Transport))
SAME_24 = Endpoint("127.0.0.77", 5000)
SAME_16 = Endpoint("127.0.99.1", 5000)
ELSEWHERE = Endpoint("192.0.2.1", 5000)
NETWORKS = (Network("near", ("127.0.0.0/16",)), Network("far", ("0.0.0.0/0",)))
ALLOW = (Rule(allow=True),)


@BOTH
async def test_s01_the_clients_own_address_is_allowed_and_no_other(transport):
    async with open_world() as world:
        primary = await world.primary()
        assert await bind(primary, own(), own(6000), transport=transport)
        for other in (SAME_24, SAME_16, ELSEWHERE):
            with pytest.raises(AddressNotAllowedError, match="not an address of the client"):
                await bind(primary, other, transport=transport)


@BOTH
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_s02_one_bad_address_of_many_and_nothing_is_bound(transport, position):
    async with open_world() as world:
        primary = await world.primary()
        clients = [own(5000), own(5001), own(5002)]
        clients[position] = ELSEWHERE
        with pytest.raises(AddressNotAllowedError):
            await bind(primary, *clients, transport=transport)
        nothing_is_bound(world)


@BOTH
async def test_s02_a_port_that_is_taken_and_nothing_is_bound(transport):
    block = free_ports(3, align=3)
    async with open_world(secondary=SecondaryConfig(ports=block)) as world:
        primary = await world.primary()
        (taken,) = await bind(
            primary, proxy_address=Endpoint(HOST, block.first + 1), transport=transport
        )
        with pytest.raises(PortsExhaustedError):
            await bind(primary, own(1025), own(1026), own(1027), transport=transport)
        taken.kill()
        nothing_is_bound(world)


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        (F.NONE, []),
        (F.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK, [SAME_24]),
        (F.ALLOW_ADDRESSES_IN_NETWORK, [SAME_24, SAME_16]),
        (F.ALLOW_ADDRESSES_IN_NETWORK | F.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK, [SAME_24, SAME_16]),
        (F.ALLOW_ADDRESSES_ALL, [SAME_24, SAME_16, ELSEWHERE]),
    ],
)
async def test_s03_flags_widen_what_is_compared_with_the_client(flags, allowed):
    async with open_world(networks=NETWORKS, rules=ALLOW) as world:
        primary = await world.primary()
        for address in (SAME_24, SAME_16, ELSEWHERE):
            if address in allowed:
                assert await bind(primary, own(), address, flags=flags)
            else:
                with pytest.raises(AddressNotAllowedError):
                    await bind(primary, own(), address, flags=flags)


async def test_s03_a_class_c_network_is_the_clients_and_not_its_neighbours():
    async with open_world() as world:
        primary = await world.primary(source="127.0.9.5")
        flags = F.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK
        assert await bind(primary, Endpoint("127.0.9.200", 5000), flags=flags)
        with pytest.raises(AddressNotAllowedError):
            await bind(primary, own(), flags=flags)


async def test_s03_ipv6_has_no_class_c_network():
    async with open_world(host="::1") as world:
        primary = await world.primary()
        assert await bind(primary, Endpoint("::1", 5000))
        flags = F.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK
        with pytest.raises(AddressNotAllowedError):
            await bind(primary, Endpoint("::2", 5000), flags=flags)


@pytest.mark.parametrize("port", [0, 1, 21, 1023])
async def test_s04_a_port_for_services_is_no_clients_port(port):
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(AddressNotAllowedError, match="restricted"):
            await bind(primary, own(port))
        if port:
            assert await bind(primary, own(port), flags=F.IGNORE_RESTRICTED_PORTS)
        else:
            with pytest.raises(AddressNotAllowedError):
                await bind(primary, own(port), flags=F.IGNORE_RESTRICTED_PORTS)


async def test_s04_a_bounce_to_a_third_host_opens_nothing():
    async with open_world() as world:
        primary = await world.primary()
        victim = world.listen(OTHER_HOST)
        with pytest.raises(AddressNotAllowedError):
            await bind(primary, victim.address)
        with pytest.raises(AddressNotAllowedError):
            await primary.session.connect_for_client(
                victim.address, world.upstream.address, protocol=PROBE_DATA
            )
        nothing_is_bound(world)


async def test_s05_an_address_may_be_supplied_later_and_once():
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary, UNKNOWN)
        listener = world.listen()
        connection.set_client_address(listener.address)
        with pytest.raises(InvalidArgumentError, match="known"):
            connection.set_client_address(own(7000))
        server = await world.connect(proxy_address(connection))
        assert await carries(server, await world.accept(listener))


async def test_s05_the_server_may_come_before_the_address():
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary, UNKNOWN)
        server = await world.connect(proxy_address(connection))
        await server.send(b"early")
        await eventually(lambda: connection.server_sock)
        listener = world.listen()
        connection.set_client_address(listener.address)
        client = await world.accept(listener)
        assert await client.read(5) == b"early"
        assert await carries(server, client)
        with pytest.raises(InvalidArgumentError):
            connection.set_client_address(own(7000))


@pytest.mark.parametrize("said", [b"", b"early"])
async def test_s05_a_server_that_breaks_off_before_the_address_is_noticed(said):
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary, UNKNOWN)
        server = await world.connect(proxy_address(connection))
        await server.send(said)
        await eventually(lambda: connection.server_sock)
        server.reset()
        await eventually(lambda: connection.is_closed, "the reset was not noticed")
        assert connection.close_reason == "the server has left before the client was there"
        with pytest.raises(TerminatingError):
            connection.set_client_address(own())


async def test_s05_a_server_that_only_ends_its_stream_has_not_left():
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary, UNKNOWN)
        server = await world.connect(proxy_address(connection))
        await server.send(b"a file")
        server.half_close()
        await eventually(lambda: connection.server_sock)
        await turns()
        listener = world.listen()
        connection.set_client_address(listener.address)
        client = await world.accept(listener)
        assert await client.read_all() == b"a file"
        await client.send(b"thanks")
        client.half_close()
        assert await server.read_all() == b"thanks"


async def test_s05_an_address_may_be_supplied_for_datagrams_too():
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind_udp(primary, UNKNOWN)
        client, server = world.datagrams(), world.datagrams()
        connection.set_client_address(client.address)
        server.send(b"for you", proxy_address(connection))
        assert (await client.receive())[0] == b"for you"
        with pytest.raises(InvalidArgumentError):
            connection.set_client_address(own(7000))


@BOTH
async def test_s05_the_same_restriction_applies_to_what_is_supplied(transport):
    async with open_world() as world:
        primary = await world.primary()
        (strict,) = await bind(primary, UNKNOWN, transport=transport)
        for wrong, error in (
            (SAME_24, AddressNotAllowedError),
            (own(21), AddressNotAllowedError),
            (UNKNOWN, InvalidArgumentError),
        ):
            with pytest.raises(error):
                strict.set_client_address(wrong)
        assert strict.client_address == UNKNOWN
        flags = F.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK
        (lax,) = await bind(primary, UNKNOWN, transport=transport, flags=flags)
        lax.set_client_address(SAME_24)
        assert lax.client_address == SAME_24


async def test_s05_a_connection_that_has_ended_takes_no_address():
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary, UNKNOWN)
        connection.kill()
        with pytest.raises(TerminatingError):
            connection.set_client_address(own())


@pytest.mark.parametrize(
    ("configured", "allowed"),
    [
        ((), []),
        (("class-c",), [SAME_24]),
        (("network",), [SAME_24, SAME_16]),
        (("class-c", "network"), [SAME_24, SAME_16]),
        (("all",), [SAME_24, SAME_16, ELSEWHERE]),
    ],
)
async def test_s56_a_deployment_may_add_flags_to_every_call(configured, allowed):
    settings = SecondaryConfig(allow_addresses=configured)
    async with open_world(networks=NETWORKS, rules=ALLOW, secondary=settings) as world:
        primary = await world.primary()
        for address in (SAME_24, SAME_16, ELSEWHERE):
            (late,) = await bind(primary, UNKNOWN)
            calls = [
                lambda address=address: bind(primary, address),
                lambda address=address: primary.session.connect_for_client(
                    address, world.upstream.address, protocol=PROBE_DATA
                ),
                lambda address=address: primary.session.allow_future_connect(
                    address, protocol=PROBE_DATA
                ),
            ]
            if address in allowed:
                for call in calls:
                    assert await call()
                late.set_client_address(address)
            else:
                for call in calls:
                    with pytest.raises(AddressNotAllowedError):
                        await call()
                with pytest.raises(AddressNotAllowedError):
                    late.set_client_address(address)


async def test_s56_flags_of_the_call_and_of_the_deployment_are_combined():
    settings = SecondaryConfig(allow_addresses=("class-c",))
    async with open_world(networks=NETWORKS, rules=ALLOW, secondary=settings) as world:
        primary = await world.primary()
        assert await bind(primary, SAME_24, SAME_16, flags=F.ALLOW_ADDRESSES_IN_NETWORK)


@BOTH
async def test_s56_calls_without_addresses_of_a_client_are_as_before(transport):
    settings = SecondaryConfig(allow_addresses=("all",))
    async with open_world(secondary=settings) as world:
        primary = await world.primary()
        assert await redirect(primary, own(), transport=transport)
