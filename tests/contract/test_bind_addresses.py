"""S01-S15 of the filter API: the addresses of `bind_for_client`."""

import pytest
from calls import (
    UNKNOWN,
    F,
    bind,
    bind_udp,
    carries,
    own,
    ports,
    proxy_address,
    redirect,
)
from rig import (
    HOST,
    OTHER_HOST,
    POOL,
    PROBE_DATA,
    THIRD_HOST,
    eventually,
    free_ports,
    open_world,
    turns,
)

from fwproxy import Endpoint, Transport
from fwproxy.config import Limits, SecondaryConfig
from fwproxy.connection import ConnectionState
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAllowedError,
    AddressNotAvailableError,
    InvalidArgumentError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.policy import Network, Rule

SAME_24 = Endpoint("127.0.0.77", 5000)
SAME_16 = Endpoint("127.0.99.1", 5000)
ELSEWHERE = Endpoint("192.0.2.1", 5000)
NETWORKS = (Network("near", ("127.0.0.0/16",)), Network("far", ("0.0.0.0/0",)))
ALLOW = (Rule(allow=True),)
BOTH = pytest.mark.parametrize("transport", list(Transport))


def nothing_is_bound(world):
    assert world.engine.ports.in_use == len(world.engine.ledger) == 0
    assert [len(session.connections) for session in world.sessions] == [1]


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


@BOTH
async def test_s06_clients_addresses_need_not_be_consecutive_but_ports_are(transport):
    async with open_world() as world:
        primary = await world.primary()
        made = await bind(primary, own(9000), own(5000), own(7777), transport=transport)
        lowest = ports(made)[0]
        assert ports(made) == [lowest, lowest + 1, lowest + 2]


async def test_s07_the_ith_connection_has_the_lowest_port_plus_i_and_leads_to_the_ith_client():
    async with open_world() as world:
        primary = await world.primary()
        listeners = [world.listen() for _ in range(3)]
        made = await bind(primary, *(listener.address for listener in listeners))
        assert len(made) == 3
        for number, (connection, listener) in enumerate(zip(made, listeners, strict=True)):
            assert ports(made)[number] == ports(made)[0] + number
            server = await world.connect(proxy_address(connection))
            assert await carries(server, await world.accept(listener))
            assert connection.client_address == listener.address


@BOTH
@pytest.mark.parametrize("count", [2, 3, 4, 7])
async def test_s08_lowest_port_is_a_multiple_of_n(transport, count):
    async with open_world() as world:
        primary = await world.primary()
        for _ in range(3):
            made = await bind(primary, *(own(5000 + n) for n in range(count)), transport=transport)
            assert len(made) == count
            assert ports(made)[0] % count == 0
            for connection in made:
                connection.kill()


async def test_s09_the_address_to_tell_is_the_first_connections():
    async with open_world() as world:
        primary = await world.primary()
        made = await bind(primary, own(5000), own(5001), proxy_address=Endpoint(OTHER_HOST))
        assert proxy_address(made[0]).host == OTHER_HOST
        assert proxy_address(made[0]).port == min(ports(made))


@BOTH
async def test_s10_a_port_asked_for_is_for_one_address_only(transport):
    port = free_ports(1).first
    async with open_world() as world:
        primary = await world.primary()
        wanted = Endpoint(HOST, port)
        (connection,) = await bind(primary, proxy_address=wanted, transport=transport)
        assert connection.proxy_address == wanted
        connection.kill()
        with pytest.raises(InvalidArgumentError, match=str(port)):
            await bind(primary, own(5000), own(5001), proxy_address=wanted, transport=transport)
        nothing_is_bound(world)


@BOTH
async def test_s11_the_proxy_address_forces_the_adapter_and_the_actual_port_comes_back(transport):
    async with open_world() as world:
        primary = await world.primary()
        asked = Endpoint(THIRD_HOST)
        (connection,) = await bind(primary, proxy_address=asked, transport=transport)
        actual = proxy_address(connection)
        assert actual.host == THIRD_HOST
        assert actual.port in range(POOL.first, POOL.last + 1)
        (entry,) = world.firewall.ledger
        assert entry.proxy_address == str(actual)


async def test_s11_without_a_proxy_address_it_is_the_one_that_the_server_sees():
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary)
        assert proxy_address(connection).host == primary.server.remote.host


@BOTH
async def test_s13_a_port_in_use(transport):
    async with open_world() as world:
        primary = await world.primary()
        stranger = world.listen() if transport is Transport.TCP else world.datagrams()
        with pytest.raises(AddressInUseError):
            await bind(primary, proxy_address=stranger.address, transport=transport)
        nothing_is_bound(world)


@BOTH
async def test_s13_the_whole_pool_in_use(transport):
    pool = SecondaryConfig(ports=free_ports(2))
    async with open_world(secondary=pool) as world:
        primary = await world.primary()
        first, _ = [await bind(primary, transport=transport) for _ in range(2)]
        with pytest.raises(PortsExhaustedError):
            await bind(primary, transport=transport)
        first[0].kill()
        assert await bind(primary, transport=transport)


@BOTH
async def test_s13_an_address_that_is_not_ours(transport):
    async with open_world() as world:
        primary = await world.primary()
        for count in (1, 2):
            clients = [own(5000 + n) for n in range(count)]
            proxy = Endpoint("192.0.2.99")
            with pytest.raises(AddressNotAvailableError):
                await bind(primary, *clients, proxy_address=proxy, transport=transport)
        nothing_is_bound(world)


@BOTH
async def test_s13_a_protocol_that_the_rules_do_not_allow(transport):
    rules = (Rule(allow=True, protocols=("probe",)),)
    async with open_world(rules=rules) as world:
        primary = await world.primary()
        assert await bind(primary, transport=transport)  # what the protocol itself opens
        tcp = world.engine.protocols["tcp"]
        with pytest.raises(PolicyRulesDeniedError, match="tcp"):
            await bind(primary, protocol=tcp, transport=transport)
        with pytest.raises(PolicyRulesDeniedError, match="tcp"):
            await redirect(primary, world.upstream.address, protocol=tcp, transport=transport)


@pytest.mark.parametrize("call", ["bind_for_client", "redirect_connections"])
async def test_no_address_at_all_is_an_invalid_argument(call):
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(InvalidArgumentError, match="at least one"):
            await getattr(primary.session, call)([], protocol=PROBE_DATA)


@BOTH
async def test_a_session_that_has_ended_binds_nothing(transport):
    async with open_world() as world:
        primary = await world.primary()
        primary.client.close()
        primary.server.close()
        await world.ended()
        with pytest.raises(TerminatingError):
            await bind(primary, transport=transport)
        with pytest.raises(TerminatingError):
            await redirect(primary, world.upstream.address, transport=transport)
        assert world.engine.ports.in_use == 0


@BOTH
async def test_want_of_descriptors_binds_nothing(transport, monkeypatch):
    """The third of three sockets cannot be watched."""
    async with open_world() as world:
        primary = await world.primary()
        watched = []
        watch = world.engine.poller.watch

        def fail(fd, *rest):
            watched.append(fd)
            if len(watched) == 3:
                raise OSError(28, "No space left on device")
            return watch(fd, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(world.engine.poller, "watch", fail)
            with pytest.raises(OSError, match="No space"):
                await bind(primary, own(5000), own(5001), own(5002), transport=transport)
        nothing_is_bound(world)
        watched.clear()
        with monkeypatch.context() as patch:
            patch.setattr(world.engine.poller, "watch", fail)
            with pytest.raises(OSError, match="No space"):
                await redirect(primary, *[world.upstream.address] * 3, transport=transport)
        nothing_is_bound(world)


@pytest.mark.parametrize("count", [1, 3])
async def test_more_permissions_than_a_session_may_have(count):
    async with open_world(limits=Limits(max_permissions_per_session=2)) as world:
        primary = await world.primary()
        held = await bind(primary, own(5000), own(5001)) if count == 1 else []
        with pytest.raises(QuotaError, match="max_permissions_per_session"):
            await bind(primary, *(own(6000 + n) for n in range(count)))
        for connection in held:
            assert connection.state is ConnectionState.BOUND
            connection.kill()
        assert await bind(primary, own(5000), own(5001))


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
