"""S30-S33: the data path is decided at the call; data filter factories before and after it."""

import pytest
from calls import F, bind, bind_udp, is_refused, proxy_address, redirect
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    eventually,
    make_filter,
    open_world,
    tagger,
)

from fwproxy import Endpoint, Hooks, Priority, Transport, Verdict
from fwproxy.config import Limits, SecondaryConfig
from fwproxy.errors import (
    BadContextError,
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
from fwproxy.kernel_mode import ONLY_LOOPBACK

LONG = Limits(idle_timeout=1e6)
UDP = Transport.UDP


class Way:
    """One way to open a secondary connection, and what its parts are called."""

    def __init__(self, name):
        self.name = name
        self.is_tcp = not name.endswith("udp")
        self.is_bind = name.startswith("bind")
        self.event = {
            "bind": AcceptedConnection,
            "redirect": ConnectTcp,
            "bind-udp": BindUdp,
            "redirect-udp": UdpDestination,
        }[name]

    def __repr__(self):
        return self.name

    async def call(self, world, primary, **settings):
        """Open it; return the permission with the client's and the server's place."""
        if self.is_tcp:
            far = world.listen()
        else:
            far = world.datagrams()
            settings["transport"] = UDP
        if self.is_bind:
            (connection,) = await bind(primary, far.address, **settings)
            return Opened(self, world, connection.permission, far)
        made = await redirect(primary, far.address, **settings)
        return Opened(self, world, made.actions[0], far)


class Opened:
    def __init__(self, way, world, permission, far):
        self.way, self.world, self.permission, self.far = way, world, permission, far

    async def carries(self, data):
        """Send from the side that comes first; return what arrives at the other."""
        address = self.permission.proxy_address
        if not self.way.is_tcp:
            self.world.datagrams().send(data, address)
            return (await self.far.receive())[0]
        comer = await self.world.connect(address)
        peer = await self.world.accept(self.far)
        await comer.send(data)
        comer.half_close()
        return await peer.read_all()


WAYS = [Way(name) for name in ("bind", "redirect", "bind-udp", "redirect-udp")]
EACH_WAY = pytest.mark.parametrize("way", WAYS, ids=repr)


@EACH_WAY
async def test_s32_a_factory_before_the_call_forces_user_mode_without_the_flag(way):
    async with open_world() as world:
        primary = await world.primary()
        made = []

        def factory(connection, context):
            made.append((connection, context))
            return tagger(b"<%b>")

        context = object()
        action = primary.session.set_data_filter_factory(way.event, None, factory, context=context)
        opened = await way.call(world, primary)
        choice = opened.permission.choice
        assert choice.takes_filters
        assert "factory" in choice.reason
        assert await opened.carries(b"x") == b"<x>"
        ((connection, given),) = made
        assert given is context
        assert connection.data_path == "user"
        assert "factory" in connection.path_reason
        assert connection.has_data_filters
        assert not action.is_active
        assert action.close_reason == "used"


@EACH_WAY
async def test_s31_a_factory_after_the_call_comes_too_late_and_says_so(way, logged):
    async with open_world() as world:
        primary = await world.primary()
        opened = await way.call(world, primary)
        assert not opened.permission.choice.takes_filters
        assert opened.permission.choice.reason == ONLY_LOOPBACK
        action = primary.session.set_data_filter_factory(
            way.event, None, lambda connection, context: pytest.fail("too late")
        )
        assert action.missed == (opened.permission,)
        assert "data filter factory comes too late" in [line["event"] for line in logged]
        assert await opened.carries(b"x") == b"x"
        assert action.is_active  # for those that are opened from now on


@EACH_WAY
async def test_s33_no_kernel_mode_leaves_room_for_a_factory_after_the_call(way, logged):
    async with open_world() as world:
        primary = await world.primary()
        opened = await way.call(world, primary, flags=F.NO_KERNEL_MODE)
        assert opened.permission.choice.reason == "NO_KERNEL_MODE"
        action = primary.session.set_data_filter_factory(
            way.event, None, lambda connection, context: tagger(b"<%b>")
        )
        if way.event is BindUdp:  # that was part of the call
            assert action.missed == (opened.permission,)
        else:
            assert not action.missed
            assert "data filter factory comes too late" not in [line["event"] for line in logged]
            assert await opened.carries(b"x") == b"<x>"


@EACH_WAY
async def test_s30_a_filter_that_hears_the_resulting_event_keeps_it_in_user_space(way):
    hooked = make_filter("witness", lambda event: None, BindUdp, associated=[way.event])
    async with open_world(hooked) as world:
        primary = await world.primary()
        opened = await way.call(world, primary)
        choice = opened.permission.choice
        if way.event is BindUdp:  # it has had its chance
            assert (choice.reason, choice.takes_filters) == (ONLY_LOOPBACK, False)
        else:
            assert choice.reason == f"a filter hears {way.event.__name__}"
            assert choice.takes_filters
        assert await opened.carries(b"x") == b"x"


async def test_s30_replies_to_a_bidirectional_bind_are_a_resulting_event_too():
    hooked = make_filter("witness", lambda event: None, associated=[UdpDestination])
    async with open_world(hooked) as world:
        primary = await world.primary()
        (one_way,) = await bind_udp(primary)
        (both_ways,) = await bind_udp(primary, flags=F.BIDIRECTIONAL)
        assert one_way.path_reason == ONLY_LOOPBACK
        assert both_ways.path_reason == "a filter hears UdpDestination"


async def test_s30_the_session_filters_own_hooks_count():
    quiet = make_filter("quiet", lambda event: None, ConnectTcp, associated=[AcceptedConnection])
    async with open_world(quiet) as world:
        primary = await world.primary()
        attached = primary.session.session_filters["quiet"]
        (before,) = await bind(primary)
        assert before.path_reason == "a filter hears AcceptedConnection"
        attached.hooks = Hooks.on(ConnectTcp)
        (after,) = await bind(primary)
        assert after.path_reason == ONLY_LOOPBACK
        primary.session.session_filters["quiet"] = None  # it has no interest
        (last,) = await bind(primary)
        assert last.path_reason == ONLY_LOOPBACK


async def test_s30_an_attached_data_filter_is_named_by_who_has_attached_it():
    def attach(event):
        event.connection.attach_data_filter(tagger(b"<%b>"))

    async with open_world(make_filter("ftp", attach, ConnectTcp, BindUdp)) as world:
        primary = await world.primary()
        assert primary.connection.data_path == "user"
        assert primary.connection.path_reason == "data filter attached by ftp"
        (connection,) = await bind_udp(primary)
        assert connection.path_reason == "data filter attached by ftp"
        assert connection.permission.choice.reason == "data filter attached by ftp"


async def test_s31_what_was_decided_without_a_data_filter_takes_none_from_a_handler_either():
    """A session filter may change its mind about what it hears; the decision stands."""
    refusals = []

    def attach(event):
        if event.connection.is_secondary:
            with pytest.raises(BadContextError, match="is final") as caught:
                event.connection.attach_data_filter(tagger(b"<%b>"))
            refusals.append(caught.value)

    async with open_world(make_filter("late", attach, ConnectTcp)) as world:
        primary = await world.primary()
        listener = world.listen()
        (connection,) = await bind(primary, listener.address)
        attached = primary.session.session_filters["late"]
        attached.hooks = Hooks.on(ConnectTcp, associated=[AcceptedConnection])
        server = await world.connect(proxy_address(connection))
        client = await world.accept(listener)
        await server.send(b"x")
        assert await client.read(1) == b"x"
        assert len(refusals) == 1


# The factories themselves.


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
