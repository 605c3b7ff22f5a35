"""S30-S33: the data path is decided at the call; data filter factories before and after it."""

import pytest
from calls import F, bind, bind_udp, proxy_address
from four_ways import EACH_WAY
from rig import make_filter, open_world, tagger

from fwproxy import Hooks
from fwproxy.engine.kernel import ONLY_LOOPBACK
from fwproxy.errors import BadContextError
from fwproxy.events import AcceptedConnection, BindUdp, ConnectTcp, UdpDestination


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
