"""Data filter factories: what they are asked about, how long they stay, and their failures."""

import pytest
from calls import F, bind, bind_udp, is_refused, proxy_address, redirect
from four_ways import EACH_WAY
from rig import HOST, OTHER_HOST, PROBE_DATA, eventually, make_filter, open_world, tagger

from fwproxy import Endpoint, Priority, Verdict
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.errors import (
    InvalidArgumentError,
    PolicyRulesDeniedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import (
    AcceptedConnection,
    BindTcp,
    BindUdp,
    ConnectionTerminating,
    ConnectTcp,
    EstablishedConnection,
    Listen,
    UdpDestination,
)

LONG = Limits(idle_timeout=1e6)


async def test_the_address_is_the_remote_one_for_connects():
    async with open_world() as world:
        primary = await world.primary()
        one, other = world.listen(), world.listen()
        session = primary.session
        session.set_data_filter_factory(ConnectTcp, one.address, lambda *_: tagger(b"<%b>"))
        for upstream, expected in ((other, b"x"), (one, b"<x>")):
            made = await redirect(primary, upstream.address)
            client = await world.connect(made.internal_address)
            server = await world.accept(upstream)
            await client.send(b"x")
            client.half_close()
            assert await server.read_all() == expected


async def test_the_address_is_the_bound_one_for_accepts():
    async with open_world() as world:
        primary = await world.primary()
        listener = world.listen()
        reserved = (await bind(primary, listener.address))[0]
        address = proxy_address(reserved)
        reserved.kill()
        session = primary.session
        elsewhere = Endpoint(OTHER_HOST, address.port)
        for wrong in (elsewhere, address.with_port(address.port - 1), Endpoint(OTHER_HOST)):
            session.set_data_filter_factory(AcceptedConnection, wrong, fault)
        right = session.set_data_filter_factory(
            AcceptedConnection, address, lambda *_: tagger(b"<%b>")
        )
        (connection,) = await bind(primary, listener.address, proxy_address=address)
        server = await world.connect(address)
        client = await world.accept(listener)
        await server.send(b"x")
        server.half_close()
        assert await client.read_all() == b"<x>"
        assert not right.is_active
        assert len(session.factories) == 3
        assert connection.path_reason.startswith("data filter attached by")


@pytest.mark.parametrize(
    ("asked", "address", "matches"),
    [
        (None, Endpoint(HOST, 5), True),
        (Endpoint("0.0.0.0"), Endpoint(HOST, 5), True),
        (Endpoint("::"), Endpoint(HOST, 5), True),
        (Endpoint("0.0.0.0", 5), Endpoint(HOST, 5), True),
        (Endpoint("0.0.0.0", 6), Endpoint(HOST, 5), False),
        (Endpoint(HOST), Endpoint(HOST, 5), True),
        (Endpoint(HOST, 5), Endpoint(HOST, 5), True),
        (Endpoint(HOST, 5), Endpoint(OTHER_HOST, 5), False),
        (Endpoint(HOST, 5), None, True),
    ],
)
async def test_port_0_is_any_port_and_all_zeros_any_host(asked, address, matches):
    async with open_world() as world:
        primary = await world.primary()
        action = primary.session.set_data_filter_factory(ConnectTcp, asked, lambda *_: None)
        assert action.matches(ConnectTcp, address) is matches
        assert not action.matches(AcceptedConnection, address)
        action.cancel()
        assert not action.matches(ConnectTcp, address)


async def test_it_serves_one_connection_or_many():
    async with open_world() as world:
        primary = await world.primary()
        session = primary.session

        def factory(connection, context):
            return tagger(context)

        once = session.set_data_filter_factory(AcceptedConnection, None, factory, context=b"1%b")
        many = session.set_data_filter_factory(
            AcceptedConnection, None, factory, context=b"2%b", flags=F.ALLOW_MULTIPLE
        )
        listener = world.listen()
        for expected in (b"21x", b"2x", b"2x"):
            (connection,) = await bind(primary, listener.address)
            server = await world.connect(proxy_address(connection))
            client = await world.accept(listener)
            await client.send(b"x")
            client.half_close()
            assert (await server.read_all()) == expected
        assert (once.uses, many.uses) == (1, 3)
        assert (once.is_active, many.is_active) == (False, True)


async def test_a_factory_makes_one_data_filter_for_a_connection_with_many_destinations():
    made = []

    def factory(connection, context):
        made.append(connection)
        return tagger(b"<%b>")

    async with open_world() as world:
        primary = await world.primary()
        client, servers = world.datagrams(), [world.datagrams() for _ in range(3)]
        primary.session.set_data_filter_factory(
            UdpDestination, None, factory, flags=F.ALLOW_MULTIPLE
        )
        flags = F.BIDIRECTIONAL | F.ALLOW_MULTIPLE
        (connection,) = await bind_udp(primary, client.address, flags=flags)
        for server in servers:
            server.send(b"x", proxy_address(connection))
            data, source = await client.receive()
            client.send(b"y", source)
            assert (await server.receive())[0] == b"<y>"
        assert data == b"<x>"  # the first has gone by before there was a reply
        assert made == [connection]


async def test_a_factory_may_stay_away_and_keeps_its_place():
    async with open_world() as world:
        primary = await world.primary()
        action = primary.session.set_data_filter_factory(AcceptedConnection, None, lambda *_: None)
        listener = world.listen()
        (connection,) = await bind(primary, listener.address)
        await world.connect(proxy_address(connection))
        await world.accept(listener)
        await eventually(lambda: connection.data_path)
        assert connection.data_path == "splice"
        assert action.is_active


def fault(connection, context):
    raise ValueError("a fault")


@EACH_WAY
async def test_a_factory_that_fails_denies(way, logged):
    async with open_world() as world:
        primary = await world.primary()
        primary.session.set_data_filter_factory(way.event, None, fault)
        if way.event is BindUdp:
            with pytest.raises(PolicyRulesDeniedError, match="failed"):
                await way.call(world, primary)
        else:
            opened = await way.call(world, primary)
            if way.is_tcp:
                assert await is_refused(world, opened.permission.proxy_address)
            else:
                peer = world.datagrams()
                peer.send(b"x", opened.permission.proxy_address)
                (secondary,) = primary.session.connections - {primary.connection}
                await eventually(lambda: secondary.dropped)
                assert opened.far.take() is None
        assert "data filter factory failed" in [line["event"] for line in logged]
        assert world.engine.ports.in_use == (1 if way.event is UdpDestination else 0)


async def test_primary_connections_of_the_session_are_served_too():
    """Such as the one that a gateway's filter connects later, or a further one of a client."""

    def hear(event):
        event.connection.session.set_data_filter_factory(
            ConnectTcp, event.server, lambda *_: tagger(b"<%b>")
        )

    async with open_world(make_filter("early", hear, ConnectTcp)) as world:
        primary = await world.primary()
        await primary.client.send(b"x")
        primary.client.half_close()
        assert await primary.server.read_all() == b"<x>"


async def test_priorities_hold_between_factories_and_handlers():
    def attach(event):
        event.connection.attach_data_filter(tagger(b"h%b"), Priority.MIDDLE)

    async with open_world(make_filter("hooked", attach, associated=[ConnectTcp])) as world:
        primary = await world.primary()
        session = primary.session
        for name, priority in ((b"e", Priority.EXTERNAL), (b"n", Priority.NAT)):
            session.set_data_filter_factory(
                ConnectTcp, None, lambda _, name: tagger(name + b"%b"), priority, name
            )
        upstream = world.listen()
        made = await redirect(primary, upstream.address)
        client = await world.connect(made.internal_address)
        server = await world.accept(upstream)
        await client.send(b"x")
        client.half_close()
        assert await server.read_all() == b"ehnx"


@pytest.mark.parametrize(
    "kind", [BindTcp, Listen, EstablishedConnection, ConnectionTerminating, int]
)
async def test_only_four_events_have_factories(kind):
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(InvalidArgumentError):
            primary.session.set_data_filter_factory(kind, None, fault)


async def test_only_two_flags_are_taken():
    async with open_world() as world:
        primary = await world.primary()
        for flag in F:
            flags = flag | F.ALLOW_MULTIPLE | F.TIMEOUT
            if flag not in (F.ALLOW_MULTIPLE, F.TIMEOUT):
                with pytest.raises(InvalidArgumentError, match=str(flag.name)):
                    primary.session.set_data_filter_factory(ConnectTcp, None, fault, flags=flags)


async def test_a_session_has_a_bounded_number_of_factories():
    async with open_world(limits=Limits(max_factories_per_session=2)) as world:
        primary = await world.primary()
        made = [primary.session.set_data_filter_factory(ConnectTcp, None, fault) for _ in range(2)]
        with pytest.raises(QuotaError, match="max_factories_per_session"):
            primary.session.set_data_filter_factory(ConnectTcp, None, fault)
        assert made[0].cancel()
        assert not made[0].cancel()
        assert primary.session.set_data_filter_factory(ConnectTcp, None, fault).is_active


async def test_with_a_time_out_it_expires():
    async with open_world(limits=LONG, secondary=SecondaryConfig(timeout=5)) as world:
        primary = await world.primary()
        expiring = primary.session.set_data_filter_factory(ConnectTcp, None, fault, flags=F.TIMEOUT)
        lasting = primary.session.set_data_filter_factory(ConnectTcp, None, fault)
        world.advance(4)
        assert expiring.is_active
        world.advance(2)
        assert (expiring.is_active, lasting.is_active) == (False, True)
        assert expiring.close_reason == "expired"


async def test_the_end_of_the_session_cancels_it():
    async with open_world() as world:
        primary = await world.primary()
        session = primary.session
        action = session.set_data_filter_factory(ConnectTcp, None, fault, flags=F.TIMEOUT)
        primary.client.reset()
        await world.ended(session)
        assert action.close_reason == "its session has ended"
        with pytest.raises(TerminatingError):
            session.set_data_filter_factory(ConnectTcp, None, fault)


async def test_a_denial_by_a_filter_comes_before_the_factories():
    witness = make_filter("deny", lambda event: Verdict.DENY, associated=[ConnectTcp])
    async with open_world(witness) as world:
        primary = await world.primary()
        action = primary.session.set_data_filter_factory(ConnectTcp, None, fault)
        made = await redirect(primary, Endpoint(HOST, 9), protocol=PROBE_DATA)
        assert await is_refused(world, made.internal_address)
        assert action.is_active
