"""The statements of the filter API over IPv6, in short: those that have IPv4 in their own tests."""

import pytest
from calls import F, bind, carries, is_refused, ports, proxy_address, redirect
from rig import Hearing, free_ports, open_world

from fwproxy import Endpoint, IpFilter, Transport
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAllowedError,
    AddressNotAvailableError,
    InvalidArgumentError,
)

V6 = "::1"
UNKNOWN = Endpoint("::")
TCP, UDP = Transport.TCP, Transport.UDP
BOTH = pytest.mark.parametrize("transport", [TCP, UDP])
LONG = Limits(idle_timeout=1e6)


def own(port=5000):
    return Endpoint(V6, port)


def open_v6(**settings):
    return open_world(host=V6, **settings)


@BOTH
async def test_s01_s02_only_the_clients_own_address_and_all_or_nothing(transport):
    async with open_v6() as world:
        primary = await world.primary()
        for other in (Endpoint("2001:db8::1", 5000), Endpoint("127.0.0.1", 5000)):
            with pytest.raises(AddressNotAllowedError):
                await bind(primary, own(), other, transport=transport)
        assert world.engine.ports.in_use == 0


@BOTH
async def test_s05_all_zeros_are_supplied_later(transport):
    async with open_v6() as world:
        primary = await world.primary()
        end = world.listen(V6) if transport is TCP else world.datagrams(V6)
        (bound,) = await bind(primary, UNKNOWN, transport=transport)
        bound.set_client_address(end.address)
        if transport is TCP:
            server = await world.connect(proxy_address(bound))
            assert await carries(server, await world.accept(end))
        else:
            world.datagrams(V6).send(b"x", proxy_address(bound))
            assert (await end.receive())[0] == b"x"


@BOTH
async def test_s06_to_s11_consecutive_ports_from_a_multiple_on_the_address_asked_for(transport):
    async with open_v6() as world:
        primary = await world.primary()
        clients = [own(9000), own(5000), own(7000)]
        made = await bind(primary, *clients, proxy_address=Endpoint(V6), transport=transport)
        lowest = ports(made)[0]
        assert ports(made) == [lowest, lowest + 1, lowest + 2]
        assert lowest % 3 == 0
        assert [each.client_address for each in made] == clients
        assert proxy_address(made[0]) == Endpoint(V6, lowest)
        with pytest.raises(InvalidArgumentError):
            await bind(primary, *clients, proxy_address=Endpoint(V6, 45000), transport=transport)
        port = free_ports(1).first
        (one,) = await bind(primary, own(), proxy_address=Endpoint(V6, port), transport=transport)
        assert proxy_address(one).port == port


@BOTH
async def test_s13_in_use_and_not_ours(transport):
    async with open_v6() as world:
        primary = await world.primary()
        taken = world.listen(V6) if transport is TCP else world.datagrams(V6)
        with pytest.raises(AddressInUseError):
            await bind(primary, own(), proxy_address=taken.address, transport=transport)
        foreign = Endpoint("2001:db8::99")
        with pytest.raises(AddressNotAvailableError):
            await bind(primary, own(), proxy_address=foreign, transport=transport)


async def test_s17_s24_one_connection_and_only_from_whom_it_is_for():
    async with open_v6() as world:
        primary = await world.primary()
        listener = world.listen(V6)
        nobody = IpFilter.only("2001:db8::/32")
        (closed,) = await bind(primary, listener.address, ip_filter=nobody)
        assert await is_refused(world, proxy_address(closed))
        (bound,) = await bind(primary, listener.address, ip_filter=IpFilter.only("::1/128"))
        server = await world.connect(proxy_address(bound))
        assert await carries(server, await world.accept(listener))
        assert await is_refused(world, proxy_address(bound))


async def test_s17_s21_one_source_of_datagrams_and_answers_where_they_are_asked_for():
    async with open_v6() as world:
        primary = await world.primary()
        client, first, second = (world.datagrams(V6) for _ in range(3))
        (bound,) = await bind(primary, client.address, transport=UDP, flags=F.BIDIRECTIONAL)
        first.send(b"first", proxy_address(bound))
        _, sender = await client.receive()
        second.send(b"second", proxy_address(bound))
        client.send(b"answer", sender)
        assert await first.receive() == (b"answer", proxy_address(bound))
        assert client.take() is None


@BOTH
async def test_s18_s19_s38_what_nobody_uses_expires(transport):
    async with open_v6(limits=LONG) as world:
        primary = await world.primary()
        (bound,) = await bind(primary, own(), flags=F.TIMEOUT, transport=transport)
        made = await redirect(primary, own(), flags=F.TIMEOUT, transport=transport)
        world.advance(61)
        assert bound.is_closed
        assert not made.actions[0].is_active
        assert world.engine.ports.in_use == 0


async def test_s29_the_event_has_both_ends():
    async with open_v6() as world:
        primary = await world.primary()
        hearing, context = Hearing(primary.session), object()
        listener = world.listen(V6)
        (bound,) = await bind(primary, listener.address, session_filter=hearing, context=context)
        server = await world.connect(proxy_address(bound))
        assert await carries(server, await world.accept(listener))
        (event,) = hearing.heard
        assert event.context is context
        assert (event.client, event.server) == (listener.address, server.address)


@BOTH
async def test_s34_s35_an_action_for_each_target_and_the_lowest_port(transport):
    async with open_v6() as world:
        primary = await world.primary()
        targets = [own(5000), own(6000)]
        made = await redirect(primary, *targets, transport=transport)
        lowest = made.internal_address
        assert lowest.host == V6
        assert lowest.port % 2 == 0
        addresses = [action.proxy_address for action in made.actions]
        assert addresses == [lowest, lowest.with_port(lowest.port + 1)]
        assert [action.target for action in made.actions] == targets
        assert made.actions[0].cancel()
        assert made.actions[1].is_active


@BOTH
async def test_s36_s37_from_the_address_given_and_once(transport):
    async with open_v6() as world:
        primary = await world.primary()
        source = Endpoint(V6, free_ports(1).first)
        server = world.listen(V6) if transport is TCP else world.datagrams(V6)
        made = await redirect(
            primary, server.address, proxy_external_address=source, transport=transport
        )
        if transport is TCP:
            client = await world.connect(made.internal_address)
            peer = await world.accept(server)
            assert peer.remote == source
            assert await carries(client, peer)
            assert await is_refused(world, made.internal_address)
        else:
            world.datagrams(V6).send(b"x", made.internal_address)
            assert (await server.receive())[1] == source


async def test_s13_the_pool_is_separate_for_each_address():
    pool = SecondaryConfig(ports=free_ports(1))
    async with open_v6(secondary=pool) as world:
        primary = await world.primary()
        (six,) = await bind(primary, own(), proxy_address=Endpoint(V6))
        (four,) = await bind(primary, own(), proxy_address=Endpoint("127.0.0.1"))
        assert proxy_address(six).port == proxy_address(four).port == pool.ports.first
        assert six.state is four.state is ConnectionState.BOUND
