"""S50-S52 of the filter API: reserved ports, and the calls that use them."""

import contextlib
import functools
import socket

import pytest
from calls import F, bind, carries, is_refused, own, ports, proxy_address, redirect
from rig import HOST, OTHER_HOST, closing, eventually, free_ports
from rig import open_world as open_any_world

from fwproxy import Endpoint, Transport
from fwproxy.bounds import PortRange
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAvailableError,
    InvalidArgumentError,
    PortsExhaustedError,
    QuotaError,
)
from fwproxy.ports.sockets import open_port

POOL = PortRange(25_000, 27_999)
"""Not that of other tests: a port that is to be reserved must not even be in TIME_WAIT."""

open_world = functools.partial(open_any_world, secondary=SecondaryConfig(POOL))

TCP, UDP = Transport.TCP, Transport.UDP
BOTH = pytest.mark.parametrize("transport", [TCP, UDP])
HOSTS = pytest.mark.parametrize("host", [HOST, "::1"])


def can_be_bound(address, transport, *, reuse):
    """Tell whether another program could have a port, politely or not."""
    with socket.socket(address.family, transport.socket_type) as sock:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address.sockaddr)
            if transport is TCP:
                sock.listen()
        except OSError:
            return False
    return True


@BOTH
@HOSTS
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("everywhere", [True, False])
async def test_s50_reserved_ports_are_nobody_elses(transport, host, count, everywhere):
    async with open_world() as world:
        kept = world.firewall.reserve_ports(count, transport, host=None if everywhere else host)
        assert (kept.count, kept.transport) == (count, transport)
        assert kept.first % count == 0
        assert kept.first in range(POOL.first, POOL.last + 1)
        addresses = [Endpoint(host, kept.first + n) for n in range(count)]
        for reuse in (True, False):
            for address in addresses:
                assert not can_be_bound(address, transport, reuse=reuse)
        kept.release()
        kept.release()
        for address in addresses:
            assert can_be_bound(address, transport, reuse=False)


async def test_s50_a_reserved_tcp_port_does_not_listen():
    async with open_world() as world:
        kept = world.firewall.reserve_ports(1)
        with pytest.raises(ConnectionRefusedError):
            await world.connect(Endpoint(HOST, kept.first))


@BOTH
async def test_s50_the_pool_gives_them_to_nobody(transport):
    block = free_ports(4, align=2)
    async with open_world(secondary=SecondaryConfig(ports=block)) as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(2, transport)
        made = [(await bind(primary, transport=transport))[0] for _ in range(2)]
        assert not {*ports(made)} & {*kept.ports}
        with pytest.raises(PortsExhaustedError):
            await bind(primary, transport=transport)
        asked = Endpoint(HOST, kept.first)
        with pytest.raises(AddressInUseError):
            await bind(primary, transport=transport, proxy_address=asked)
        with pytest.raises(PortsExhaustedError):
            world.firewall.reserve_ports(1, transport)
        kept.release()
        assert await bind(primary, transport=transport)


async def test_s50_the_stop_of_the_firewall_releases_them():
    async with open_world() as world:
        kept = world.firewall.reserve_ports(3, UDP)
        await world.firewall.stop(0)
        assert kept.is_released
        assert can_be_bound(Endpoint(HOST, kept.first), UDP, reuse=False)
        with pytest.raises(RuntimeError):
            world.firewall.reserve_ports(1)


async def test_s50_there_is_a_bound_and_nonsense_is_refused():
    async with open_world(limits=Limits(max_reserved_ports=3)) as world:
        first = world.firewall.reserve_ports(2)
        with pytest.raises(QuotaError, match="max_reserved_ports"):
            world.firewall.reserve_ports(2)
        first.release()
        assert world.firewall.reserve_ports(3)
        with pytest.raises(InvalidArgumentError):
            world.firewall.reserve_ports(0)
        with pytest.raises(InvalidArgumentError):
            world.firewall.reserve_ports(1, host="a name")


async def test_s50_an_address_that_is_not_ours():
    async with open_world() as world:
        with pytest.raises(AddressNotAvailableError):
            world.firewall.reserve_ports(2, host="192.0.2.99")
        assert world.engine.ports.reserved == 0


@HOSTS
async def test_s51_bind_for_client_uses_them(host):
    async with open_world(host=host) as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(2)
        clients = [world.listen(host) for _ in range(2)]
        addresses = [client.address for client in clients]
        made = await bind(primary, *addresses, reserved=kept, backlog=2)
        assert ports(made) == list(kept.ports)
        for connection, client in zip(made, clients, strict=True):
            server = await world.connect(proxy_address(connection))
            assert await carries(server, await world.accept(client))


@HOSTS
async def test_s51_bind_for_client_uses_them_for_datagrams(host):
    async with open_world(host=host) as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(2, UDP)
        client, server = world.datagrams(host), world.datagrams(host)
        (connection,) = await bind(
            primary, client.address, reserved=kept, transport=UDP, flags=F.BIDIRECTIONAL
        )
        assert proxy_address(connection).port == kept.first
        server.send(b"question", proxy_address(connection))
        _, sender = await client.receive()
        client.send(b"answer", sender)
        assert await server.receive() == (b"answer", proxy_address(connection))


@BOTH
@HOSTS
async def test_s51_redirect_connections_uses_them(transport, host):
    async with open_world(host=host) as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(1, transport)
        server = world.listen(host) if transport is TCP else world.datagrams(host)
        made = await redirect(primary, server.address, reserved=kept, transport=transport)
        assert made.internal_address == Endpoint(host, kept.first)
        if transport is TCP:
            client = await world.connect(made.internal_address)
            assert await carries(client, await world.accept(server))
        else:
            client = world.datagrams(host)
            client.send(b"question", made.internal_address)
            _, sender = await server.receive()
            server.send(b"answer", sender)
            assert await client.receive() == (b"answer", made.internal_address)


@BOTH
async def test_s51_they_stay_reserved_when_the_connections_have_ended(transport):
    async with open_world() as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(2, transport)
        for _ in range(3):
            made = await bind(primary, own(), own(6000), reserved=kept, transport=transport)
            assert ports(made) == list(kept.ports)
            for port in kept.ports:
                assert not can_be_bound(Endpoint(HOST, port), transport, reuse=True)
            for connection in made:
                connection.kill()
            for port in kept.ports:
                assert not can_be_bound(Endpoint(HOST, port), transport, reuse=True)
        if transport is TCP:
            with pytest.raises(ConnectionRefusedError):
                await world.connect(Endpoint(HOST, kept.first))


async def test_s51_they_can_be_used_again_while_earlier_connections_linger_in_time_wait():
    async with open_world() as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(1)
        for _ in range(3):
            client = world.listen()
            (connection,) = await bind(primary, client.address, reserved=kept)
            server = await world.connect(proxy_address(connection))
            end = await world.accept(client)
            assert await carries(server, end)
            end.close()  # so that the proxy's end closes first towards the server
            assert not await server.receive()
            server.close()
            await eventually(lambda ended=connection: ended.is_closed)


@BOTH
async def test_s51_a_part_of_them_can_be_used_and_the_next_call_gets_the_next(transport):
    async with open_world() as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(4, transport)
        use = {"reserved": kept, "transport": transport}
        first = await bind(primary, own(), **use)
        pair = await bind(primary, own(), own(6000), **use)
        assert ports([*first, *pair]) == list(kept.ports)[:3]
        with pytest.raises(AddressInUseError, match="has no 2 consecutive"):
            await bind(primary, own(), own(6000), **use)
        first[0].kill()
        assert ports(await bind(primary, own(), **use)) == [kept.first]


@BOTH
async def test_s51_connections_go_on_when_their_port_is_released(transport):
    async with open_world() as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(1, transport)
        (connection,) = await bind(primary, reserved=kept, transport=transport)
        kept.release()
        address = proxy_address(connection)
        assert not connection.is_closed
        assert not can_be_bound(address, transport, reuse=True)
        connection.kill()
        assert can_be_bound(address, transport, reuse=False)


@BOTH
@pytest.mark.parametrize("call", [bind, redirect])
async def test_s52_a_reservation_that_does_not_fit_says_why(transport, call):
    other = UDP if transport is TCP else TCP
    async with open_world() as world:
        primary = await world.primary()
        reserve = world.firewall.reserve_ports
        small, wrong, gone = reserve(1, transport), reserve(2, other), reserve(2, transport)
        elsewhere = reserve(2, transport, host=OTHER_HOST)
        gone.release()
        for kept, text in (
            (small, "is too small: 2 ports are needed"),
            (wrong, f"is not for {transport.value}"),
            (gone, "has been released"),
            (elsewhere, f"is not for {HOST}"),
        ):
            with pytest.raises(InvalidArgumentError, match=text):
                await call(primary, own(), own(6000), reserved=kept, transport=transport)
        assert world.engine.ports.in_use == len(world.engine.ledger) == 0
        assert primary.session.connections == {primary.connection}


async def test_s52_a_port_and_a_reservation_exclude_each_other():
    async with open_world() as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(1)
        with pytest.raises(InvalidArgumentError, match="not both"):
            await bind(primary, proxy_address=Endpoint(HOST, kept.first), reserved=kept)


async def test_s52_a_reservation_on_one_address_is_used_there():
    pool = SecondaryConfig(ports=free_ports(2, align=2, hosts=(HOST, OTHER_HOST)))
    async with open_world(secondary=pool) as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(2, host=OTHER_HOST)
        made = await bind(primary, proxy_address=Endpoint(OTHER_HOST), reserved=kept)
        assert proxy_address(made[0]) == Endpoint(OTHER_HOST, kept.first)
        (elsewhere,) = await bind(primary, proxy_address=Endpoint(HOST, kept.first))
        elsewhere.kill()  # says nothing of the reserved one
        again = await bind(primary, proxy_address=Endpoint(OTHER_HOST), reserved=kept)
        assert proxy_address(again[0]).port == kept.first + 1


@BOTH
async def test_s50_a_port_that_others_have_is_not_reserved(transport):
    block = free_ports(4, align=2)
    async with open_world(secondary=SecondaryConfig(ports=block)) as world:
        taken = open_port(Endpoint(HOST, block.first + 1), transport, shared=True)
        with closing(taken), contextlib.ExitStack() as stack:
            for _ in range(2):
                kept = world.firewall.reserve_ports(1, transport)
                stack.callback(kept.release)
                assert block.first + 1 not in kept.ports
            with pytest.raises(PortsExhaustedError):
                world.firewall.reserve_ports(2, transport)


async def test_s50_is_refused_counts_as_not_listening_after_a_kill():
    async with open_world() as world:
        primary = await world.primary()
        kept = world.firewall.reserve_ports(1)
        (connection,) = await bind(primary, reserved=kept)
        connection.kill()
        assert await is_refused(world, Endpoint(HOST, kept.first))
