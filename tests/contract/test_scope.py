"""A hostile filter asks for everything that its rule or listener does not grant, and gets nothing.

Each call is made as a filter would make it, with every flag that could help. What is refused must
be refused with a clear error, and nothing may be open afterwards.
"""

import contextlib

import pytest
from calls import UNKNOWN, F, bind, bind_udp, carries, is_refused, own, ports, redirect
from rig import HOST, OTHER_HOST, PROBE_DATA, THIRD_HOST, free_ports, open_world
from scopes import PLACES, SHARED, every_call, nothing_is_open, scoped

from fwproxy import Endpoint, HostName, IpFilter, Transport
from fwproxy.config.config import PortRange, SecondaryConfig
from fwproxy.errors import (
    AddressNotAllowedError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
    QuotaError,
)
from fwproxy.policy.policy import Network, Rule
from fwproxy.policy.scope import CALLS, Scope
from fwproxy.secondary.client_binds import hold_port

BOTH = pytest.mark.parametrize("transport", list(Transport))


@PLACES
async def test_only_the_granted_calls_can_be_made(place):
    for granted in ["bind", "redirect", "allow", None]:
        scope = Scope(calls=() if granted is None else (granted,))
        async with scoped(scope, place, shared=SHARED) as (world, primary):
            for name, call in every_call(primary).items():
                if name != granted:
                    with pytest.raises(
                        PolicyRulesDeniedError, match=rf"grant {CALLS[name]} \(.*calls"
                    ):
                        await call()
            nothing_is_open(world, primary)
            if granted is not None:
                assert await every_call(primary)[granted]()


@PLACES
async def test_only_the_granted_transports_can_be_used(place):
    for transport in Transport:
        (other,) = set(Transport) - {transport}
        async with scoped(Scope(transports=(transport,)), place, shared=SHARED) as (world, primary):
            for call in every_call(primary, other).values():
                with pytest.raises(
                    PolicyRulesDeniedError, match=r"does not grant \w+ \(.*transports"
                ):
                    await call()
            nothing_is_open(world, primary)
            assert await bind(primary, transport=transport)


async def test_a_port_that_the_client_holds_cannot_be_approved_either():
    async with scoped(Scope(calls=("bind",))) as (world, primary):
        sockets = world.engine.ports.allocate(Endpoint(HOST), Transport.TCP, 1, None)
        with contextlib.closing(sockets[0]):
            held = hold_port(primary.session, sockets[0], lambda *_: None)
            with pytest.raises(PolicyRulesDeniedError, match="retroactive_allow_bind"):
                await primary.session.retroactive_allow_bind(held.address, protocol=PROBE_DATA)
            assert not held.is_allowed
            held.close("the test is over")
        nothing_is_open(world, primary)


@PLACES
async def test_no_more_permissions_at_a_time_than_granted(place):
    async with scoped(Scope(max_permissions=2), place, shared=SHARED) as (world, primary):
        (first,) = await bind(primary)
        await redirect(primary, Endpoint(HOST, 50123), flags=F.ALLOW_MULTIPLE)
        for call in every_call(primary).values():
            with pytest.raises(
                QuotaError, match=r"grants 2 permissions at a time \(.*max_permissi"
            ):
                await call()
        for attempt in (bind(primary, own(5000), own(5001)), bind_udp(primary)):
            with pytest.raises(QuotaError):
                await attempt
        assert world.engine.ports.in_use == len(world.engine.ledger) == 2
        first.kill()
        assert await bind(primary)


async def test_many_at_once_are_counted_before_any_is_opened():
    async with scoped(Scope(max_permissions=2)) as (world, primary):
        with pytest.raises(QuotaError):
            await bind(primary, own(5000), own(5001), own(5002))
        nothing_is_open(world, primary)


async def test_shared_ports_count_too():
    async with scoped(Scope(max_permissions=1), shared=SHARED) as (world, primary):
        session = primary.session
        shared = await session.share_redirection(Endpoint(HOST, 50123), protocol=PROBE_DATA)
        again = await session.share_redirection(Endpoint(HOST, 50123), protocol=PROBE_DATA)
        assert again == shared
        with pytest.raises(QuotaError):
            await session.share_redirection(Endpoint(HOST, 50124), protocol=PROBE_DATA)
        with pytest.raises(QuotaError):
            await bind(primary)
        assert len(world.engine.shared) == 1
        world.engine.shared.close()


@BOTH
@PLACES
async def test_only_the_granted_peers_can_come(place, transport):
    async with scoped(Scope(peers=("server",)), place) as (world, primary):
        for asked in (None, IpFilter.everyone(), IpFilter.only(HOST, OTHER_HOST)):
            (made,) = await bind(primary, transport=transport, ip_filter=asked, flags=F.TIMEOUT)
            assert made.ip_filter == IpFilter.only(HOST)
            assert made.permission.peers == IpFilter.only(HOST)
            for lifted in (None, IpFilter.everyone()):
                made.set_ip_filter(lifted)
                assert made.ip_filter == made.permission.peers == IpFilter.only(HOST)
            if transport is Transport.TCP:
                assert await is_refused(world, made.proxy_address, OTHER_HOST)
            made.kill()
        with pytest.raises(
            AddressNotAllowedError, match=r"connections from 127\.0\.0\.2 .*\.peers"
        ):
            await bind(primary, transport=transport, ip_filter=IpFilter.only(OTHER_HOST))
        nothing_is_open(world, primary)
        (made,) = await bind(primary, transport=transport, ip_filter=IpFilter())
        assert made.ip_filter == IpFilter()


@PLACES
async def test_only_the_granted_hosts_can_be_connected_to(place):
    scope = Scope(peers=("server", "127.0.0.8/30"))
    async with scoped(scope, place, shared=SHARED) as (world, primary):
        session, stranger = primary.session, Endpoint(OTHER_HOST, 50123)
        attempts = [
            lambda: redirect(primary, stranger),
            lambda: redirect(primary, stranger, transport=Transport.UDP),
            lambda: redirect(primary, Endpoint(HOST, 50123), stranger),
            lambda: session.connect_for_client(own(), stranger, protocol=PROBE_DATA),
            lambda: session.share_redirection(stranger, protocol=PROBE_DATA),
            lambda: session.allow_future_connect(
                stranger, protocol=PROBE_DATA, flags=F.ALLOW_ADDRESSES_ALL
            ),
        ]
        for attempt in attempts:
            with pytest.raises(AddressNotAllowedError, match=r"with 127\.0\.0\.2 \(.*\.peers\)"):
                await attempt()
        nothing_is_open(world, primary)
        assert await redirect(primary, Endpoint(HOST, 50123), Endpoint("127.0.0.10", 50123))


async def test_a_shared_name_could_lead_anywhere():
    async with scoped(Scope(peers=("server",)), shared=SHARED) as (world, primary):
        with pytest.raises(AddressNotAllowedError, match="may lead to hosts that are not granted"):
            await primary.session.share_redirection(
                HostName("broker.example", 9092), protocol=PROBE_DATA
            )
        nothing_is_open(world, primary)


@BOTH
@pytest.mark.parametrize("supply", ["at once", "later"])
async def test_no_flag_makes_a_third_host_the_client(transport, supply):
    """The way of a bounce attack: an inbound connection that is passed on to somebody else."""
    async with scoped(Scope(peers=("server",))) as (world, primary):
        primary.session.engine.address_flags = F.ALLOW_ADDRESSES_ALL
        victim, flags = Endpoint(THIRD_HOST, 5000), F.ALLOW_ADDRESSES_ALL
        if supply == "at once":
            with pytest.raises(AddressNotAllowedError, match=r"connections with 127\.0\.0\.3"):
                await bind(primary, victim, transport=transport, flags=flags)
            if transport is Transport.TCP:
                with pytest.raises(AddressNotAllowedError):
                    await primary.session.connect_for_client(
                        victim, Endpoint(HOST, 50123), protocol=PROBE_DATA, flags=flags
                    )
            with pytest.raises(AddressNotAllowedError):
                await primary.session.emulate_client_bind(
                    victim, Endpoint(HOST, 50124), PROBE_DATA, transport=transport, flags=flags
                )
            nothing_is_open(world, primary)
        else:
            (made,) = await bind(primary, UNKNOWN, transport=transport, flags=flags)
            with pytest.raises(AddressNotAllowedError):
                made.set_client_address(victim)
            made.set_client_address(own())


@BOTH
@PLACES
async def test_only_the_granted_ports_are_opened(place, transport):
    pool = free_ports(64, align=64)
    part = PortRange(pool.first + 8, pool.first + 11)
    settings = {"secondary": SecondaryConfig(ports=pool), "shared": SHARED}
    async with scoped(Scope(ports=part), place, **settings) as (world, primary):
        outside = [
            Endpoint(HOST, part.last + 1),
            Endpoint(HOST, part.first - 1),
            Endpoint(HOST, 1025),
        ]
        for address in outside:
            with pytest.raises(PolicyRulesDeniedError, match=f"not one of the granted {part}"):
                await bind(primary, proxy_address=address, transport=transport)
        # Of three pairs one at least is outside.
        pairs = [world.firewall.reserve_ports(2, transport) for _ in range(3)]
        reserved = next(pair for pair in pairs if pair.first not in part)
        for attempt in (
            bind(primary, reserved=reserved, transport=transport),
            redirect(primary, Endpoint(HOST, 50123), reserved=reserved, transport=transport),
        ):
            with pytest.raises(PolicyRulesDeniedError, match="not one of the granted"):
                await attempt
        for pair in pairs:
            pair.release()
        with pytest.raises(PortsExhaustedError, match="shared"):
            await primary.session.share_redirection(Endpoint(HOST, 50123), protocol=PROBE_DATA)
        nothing_is_open(world, primary)
        made = await bind(primary, own(5000), own(5001), transport=transport)
        made += await bind(primary, proxy_address=Endpoint(HOST), transport=transport)
        made_ports = {*ports(made)}
        redirection = await redirect(primary, Endpoint(HOST, 50123), transport=transport)
        made_ports.add(redirection.internal_address.port)
        assert made_ports == set(part.numbers)
        with pytest.raises(PortsExhaustedError):
            await bind(primary, transport=transport)


@PLACES
@pytest.mark.parametrize("flags", [F.NONE, F.ALLOW_MULTIPLE, F.TIMEOUT])
async def test_an_unused_permission_lasts_no_longer_than_granted(place, flags):
    async with scoped(Scope(timeout=5.0), place) as (world, primary):
        made = await bind(primary, flags=flags)
        made += await bind_udp(primary, flags=flags)
        actions = [connection.permission for connection in made]
        actions += (await redirect(primary, Endpoint(HOST, 50123), flags=flags)).actions
        actions.append(
            await primary.session.allow_future_connect(
                Endpoint(HOST, 50123), protocol=PROBE_DATA, flags=flags | F.ADDRESS_BASED
            )
        )
        world.advance(4)
        assert all(action.is_active for action in actions)
        world.advance(1.5)
        assert not any(action.is_active for action in actions)
        nothing_is_open(world, primary)


async def test_a_shorter_time_out_of_the_proxy_stays():
    secondary = SecondaryConfig(timeout=2.0)
    async with scoped(Scope(timeout=5.0), secondary=secondary) as (world, primary):
        (short,) = await bind(primary, flags=F.TIMEOUT)
        (long,) = await bind(primary)
        world.advance(2.5)
        assert short.is_closed
        assert not long.is_closed


async def test_an_established_connection_outlives_the_time_out():
    async with scoped(Scope(timeout=5.0)) as (world, primary):
        client = world.listen()
        (made,) = await bind(primary, client.address)
        server = await world.connect(made.proxy_address)
        far = await world.accept(client)
        world.advance(60)
        assert await carries(server, far)


async def test_peers_can_be_networks():
    networks = (Network("wide", ("127.0.0.0/8",)), Network("lab", ("127.0.0.2/31",)))
    rules = (Rule(allow=True, secondary=Scope(peers=("wide",))),)
    async with open_world(networks=networks, rules=rules) as world:
        primary = await world.primary()
        (made,) = await bind(primary)
        assert made.ip_filter.is_included(HOST)
        assert not made.ip_filter.is_included(OTHER_HOST)  # a longer prefix is another network's


async def test_the_client_itself_is_a_peer_only_where_granted():
    async with scoped(Scope(peers=("client",))) as (world, _):
        session = (await world.primary(OTHER_HOST)).session
        (made,) = await session.bind_for_client([Endpoint(OTHER_HOST, 5000)], protocol=PROBE_DATA)
        assert made.ip_filter == IpFilter.only(OTHER_HOST)
        with pytest.raises(AddressNotAllowedError):
            await session.redirect_connections([Endpoint(THIRD_HOST, 50123)], protocol=PROBE_DATA)
