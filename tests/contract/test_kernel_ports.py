"""Ports whose connections the kernel carries: side by side, many, and not to be had (S07-S13)."""

import contextlib

import pytest
from calls import bind, bind_udp, carries, ports, proxy_address, redirect
from kernel_world import come, elements, opened, world
from own_network import in_own_network
from rig import free_ports

from fwproxy.config.config import DatapathConfig, Limits, SecondaryConfig
from fwproxy.datapath.kernel.messages import split
from fwproxy.datapath.kernel.netlink import open_netfilter
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


@contextlib.contextmanager
def generations():
    """Count the transactions that nftables has done since."""
    with contextlib.closing(open_netfilter(1 << 7 - 1)) as sock:  # NFNLGRP_NFTABLES
        sock.settimeout(0)

        def count():
            found = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    found += sum(kind & 0xFF == 15 for kind, *_ in split(sock.recv(1 << 16)))
            return found

        yield count


@in_own_network
@pytest.mark.parametrize("count", [2, 8])
async def test_s07_datagrams_to_ports_side_by_side_are_opened_in_one_transaction(count):
    """As RTP and its reports want them."""
    async with world() as here:
        primary = await here.primary()
        ends = [here.datagrams() for _ in range(count)]
        with generations() as transactions:
            made = await bind_udp(primary, *(each.address for each in ends))
            assert transactions() == 1
            numbers = ports(made)
            assert numbers == list(range(numbers[0], numbers[0] + count))
            assert numbers[0] % count == 0
            server = here.datagrams()
            for connection, end in zip(made, ends, strict=True):
                server.send(b"to %d" % end.address.port, proxy_address(connection))
                assert (await end.receive())[0] == b"to %d" % end.address.port
            assert {each.choice.path.value for each in made} == {"kernel"}
            assert transactions() == 0


@in_own_network
async def test_s39_targets_side_by_side_are_opened_in_one_transaction():
    async with world() as here:
        primary = await here.primary()
        servers = [here.listen() for _ in range(4)]
        with generations() as transactions:
            made = await redirect(primary, *(each.address for each in servers))
            assert transactions() == 1
        first = made.internal_address
        for number, server in enumerate(servers):
            client = await here.connect(first.with_port(first.port + number))
            assert await carries(client, await here.accept(server))
        assert {each.choice.path.value for each in made.actions} == {"kernel"}


@in_own_network
async def test_s07_of_ports_side_by_side_the_kernel_opens_all_or_none():
    async with world(datapath=DatapathConfig(kernel="require", max_pinholes=3)) as here:
        primary = await here.primary()
        ends = [here.datagrams() for _ in range(4)]
        made = await bind_udp(primary, *(each.address for each in ends))
        assert {each.choice.path.value for each in made} == {"datagram"}
        assert not elements()
        for connection, end in zip(made, ends, strict=True):
            here.datagrams().send(b"there", proxy_address(connection))
            assert (await end.receive())[0] == b"there"
