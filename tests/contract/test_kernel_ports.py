"""Ports whose connections the kernel carries: side by side, many, and not to be had (S07-S13)."""

import pytest
from calls import bind, carries, ports, proxy_address
from kernel_world import come, elements, opened, world
from own_network import in_own_network
from rig import (
    free_ports,
)

from fwproxy.config import DatapathConfig, Limits, SecondaryConfig
from fwproxy.errors import AddressInUseError


@in_own_network
async def test_s07_s08_consecutive_ports_each_with_a_client_of_its_own():
    async with world() as here:
        primary = await here.primary()
        clients = [here.listen() for _ in range(4)]
        connections = await bind(primary, *(each.address for each in clients))
        numbers = ports(connections)
        assert numbers[0] % 4 == 0
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        assert elements()["targets4"] == 4
        for connection, client in zip(connections, clients, strict=True):
            assert await carries(*await come(here, connection, client))
        connections[1].kill()
        assert connections[0].is_closed is False


@in_own_network
async def test_s13_a_port_in_use_is_in_use():
    async with world() as here:
        primary = await here.primary()
        taken = here.listen()
        with pytest.raises(AddressInUseError):
            await bind(primary, proxy_address=taken.address)
        assert not elements()


@in_own_network
async def test_the_port_of_a_pinhole_is_nobody_elses():
    async with world() as here:
        primary = await here.primary()
        connection, _ = await opened(here, primary)
        with pytest.raises(AddressInUseError):
            await bind(primary, proxy_address=proxy_address(connection))


@in_own_network
async def test_five_thousand_pinholes_at_once():
    limits = Limits(max_permissions_per_session=6000, max_connections_per_session=6000)
    pool = free_ports(6000)
    async with world(limits=limits, secondary=SecondaryConfig(ports=pool)) as here:
        primary = await here.primary()
        client = here.listen()
        made = []
        for _ in range(50):
            made += await bind(primary, *[client.address] * 100)
        assert elements()["targets4"] == 5000
        assert {each.choice.path.value for each in made} == {"kernel"}
        assert await carries(*await come(here, made[4321], client))
        primary.session.end("the test says so", at_once=True)
        assert set(elements()) <= {"killed4"}


@in_own_network
async def test_more_pinholes_than_the_kernel_may_have_are_spliced():
    datapath = DatapathConfig(kernel="require", max_pinholes=2)
    async with world(datapath=datapath) as here:
        primary = await here.primary()
        made = [await opened(here, primary) for _ in range(3)]
        assert [c.choice.path.value for c, _ in made] == ["kernel", "kernel", "splice"]
        assert made[2][0].choice.reason == "2 pinholes already (max_pinholes)"
        for connection, client in made:
            assert await carries(*await come(here, connection, client))
