"""S06-S13 of the filter API: the proxy's addresses and ports of `bind_for_client`, or none."""

import pytest
from calls import bind, carries, nothing_is_bound, own, ports, proxy_address, redirect
from rig import HOST, OTHER_HOST, POOL, PROBE_DATA, THIRD_HOST, free_ports, open_world

from fwproxy import Endpoint, Transport
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAvailableError,
    InvalidArgumentError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.policy.policy import Rule

BOTH = pytest.mark.parametrize("transport", list(Transport))


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
