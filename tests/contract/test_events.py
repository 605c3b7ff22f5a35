"""S27-S33 of the filter API: who hears what, and which data path results."""

import asyncio

import attrs
import pytest
from calls import F, bind, bind_udp, carries, is_refused, own, proxy_address, redirect
from rig import HOST, Hearing, eventually, make_filter, open_world, turns

from fwproxy import DataFilter, Endpoint, Hooks, IpFilter, Transport, Verdict, events
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import (
    BadContextError,
    InvalidArgumentError,
    PolicyRulesDeniedError,
    TerminatingError,
)
from fwproxy.events import (
    AcceptedConnection,
    BindTcp,
    BindUdp,
    ConnectionTerminating,
    ConnectTcp,
    EstablishedConnection,
    Event,
    Listen,
)

ALL = tuple(
    kind
    for kind in vars(events).values()
    if isinstance(kind, type)
    and issubclass(kind, Event)
    and kind not in {Event, EstablishedConnection}
)
"""Every event that can be registered for."""

BOTH = pytest.mark.parametrize("transport", list(Transport))


@attrs.define
class Witness:
    """Hears events and answers as told, by event class."""

    answers: dict = attrs.field(factory=dict)
    heard: list = attrs.field(factory=list)

    def __call__(self, event):
        self.heard.append(event)
        answer = self.answers.get(type(event))
        return answer(event) if callable(answer) else answer

    def kinds(self):
        return [type(event) for event in self.heard]

    def filter(self, *events, name="witness", associated=()):
        return make_filter(name, self, *events, associated=associated)


@BOTH
async def test_s27_other_filters_hear_of_the_bind(transport):
    witness = Witness()
    async with open_world(witness.filter(BindTcp, BindUdp, Listen)) as world:
        primary = await world.primary()
        asked = Endpoint(HOST)
        made = await bind(
            primary, own(5000), own(5001), proxy_address=asked, transport=transport, backlog=3
        )
        if transport is Transport.TCP:
            assert witness.kinds() == [BindTcp, Listen] * 2
            assert witness.heard[1].backlog == 3
        else:
            assert witness.kinds() == [BindUdp] * 2
        assert [event.connection for event in witness.heard if type(event) is not Listen] == made
        assert {event.proxy_address for event in witness.heard} == {asked}


async def test_s27_the_caller_does_not_hear_of_its_own_bind():
    witness = Witness()
    async with open_world(witness.filter(BindTcp, BindUdp, Listen)) as world:
        primary = await world.primary()
        caller = primary.session.attach_filter("witness")
        await bind(primary, session_filter=caller)
        assert not witness.heard
        await bind(primary, session_filter=Hearing(primary.session))
        assert witness.kinds() == [BindTcp, Listen]


def deny_by_verdict(event):
    return Verdict.DENY


def deny_by_call(event):
    event.connection.deny()


async def deny_later(event):
    await asyncio.sleep(0)
    return Verdict.DENY


async def deny_by_call_later(event):
    await asyncio.sleep(0)
    event.connection.deny()


def fail(event):
    raise ValueError("a fault")


async def fail_later(event):
    await asyncio.sleep(0)
    raise ValueError("a fault")


DENIALS = [deny_by_verdict, deny_by_call, deny_later, deny_by_call_later, fail, fail_later]


@BOTH
@pytest.mark.parametrize("deny", DENIALS)
async def test_s27_a_filter_can_deny_the_bind_and_nothing_is_bound(transport, deny):
    kind = BindTcp if transport is Transport.TCP else BindUdp
    witness = Witness({kind: lambda event: deny(event) if len(witness.heard) == 2 else None})
    async with open_world(witness.filter(kind)) as world:
        primary = await world.primary()
        with pytest.raises(PolicyRulesDeniedError, match="denied by a filter"):
            await bind(primary, own(5000), own(5001), own(5002), transport=transport)
        assert len(witness.heard) == 2
        assert world.engine.ports.in_use == len(world.engine.ledger) == 0
        assert len(primary.session.connections) == 1


async def test_s27_listen_cannot_be_failed():
    for answer in (deny_by_verdict, fail, deny_later, fail_later):
        witness = Witness({Listen: answer})
        async with open_world(witness.filter(Listen)) as world:
            primary = await world.primary()
            (connection,) = await bind(primary)
            assert connection.state is ConnectionState.BOUND


async def test_s27_listen_is_no_place_to_deny():
    witness = Witness({Listen: deny_by_call})
    async with open_world(witness.filter(Listen)) as world:
        primary = await world.primary()
        (connection,) = await bind(primary)
        assert not connection.is_denied


@BOTH
async def test_a_filter_may_kill_what_is_being_bound(transport):
    kind = BindTcp if transport is Transport.TCP else BindUdp
    witness = Witness({kind: lambda event: event.connection.kill()})
    async with open_world(witness.filter(kind)) as world:
        primary = await world.primary()
        with pytest.raises(TerminatingError):
            await bind(primary, own(5000), own(5001), transport=transport)
        assert world.engine.ports.in_use == len(world.engine.ledger) == 0
        assert len(primary.session.connections) == 1


async def test_the_session_may_end_while_a_filter_thinks_about_the_bind():
    thinking, go = asyncio.Event(), asyncio.Event()

    async def think(event):
        thinking.set()
        await go.wait()

    witness = Witness({BindTcp: think})
    async with open_world(witness.filter(BindTcp)) as world:
        primary = await world.primary()
        binding = asyncio.ensure_future(bind(primary))
        await thinking.wait()
        primary.client.reset()
        await eventually(lambda: primary.session.end_reason)
        go.set()
        with pytest.raises(TerminatingError):
            await binding
        await world.ended()


async def test_a_caller_may_lose_patience_while_a_filter_thinks_about_the_bind():
    async def think(event):
        await asyncio.Event().wait()

    witness = Witness({BindTcp: think})
    async with open_world(witness.filter(BindTcp)) as world:
        primary = await world.primary()
        binding = asyncio.ensure_future(bind(primary))
        await eventually(lambda: witness.heard)
        binding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await binding
        assert len(primary.session.connections) == 1
        assert world.engine.ports.in_use == 0


async def established(world, primary, way, **settings):
    """Open a secondary connection and return it with its two ends."""
    if way == "bind":
        listener = world.listen()
        (connection,) = await bind(primary, listener.address, **settings)
        server = await world.connect(proxy_address(connection))
        client = await world.accept(listener)
    else:
        listener = world.listen()
        made = await redirect(primary, listener.address, **settings)
        client = await world.connect(made.internal_address)
        server = await world.accept(listener)
    assert await carries(client, server)
    return client, server


@pytest.mark.parametrize("way", ["bind", "redirect"])
async def test_s28_without_a_session_filter_nobody_hears_of_the_establishment(way):
    witness = Witness()
    async with open_world(witness.filter(*ALL, associated=ALL)) as world:
        primary = await world.primary()
        await established(world, primary, way, context=object())
        assert EstablishedConnection not in witness.kinds()


def test_the_establishment_cannot_be_registered_for():
    for hooks in ({"events": [EstablishedConnection]}, {"associated": [EstablishedConnection]}):
        with pytest.raises(InvalidArgumentError, match="cannot be registered for"):
            Hooks(**{name: frozenset(kinds) for name, kinds in hooks.items()})
    with pytest.raises(InvalidArgumentError, match="is no event"):
        Hooks.on(int)


async def test_a_filter_that_registers_for_it_hears_nothing_and_that_is_said(logged):
    witness = Witness()
    async with open_world(witness.filter(ConnectTcp, EstablishedConnection)) as world:
        await world.primary()
        assert not witness.heard
        assert "filter failed to start" in [line["event"] for line in logged]


@pytest.mark.parametrize("way", ["bind", "redirect"])
async def test_s28_without_a_context_it_is_heard_all_the_same(way):
    async with open_world() as world:
        primary = await world.primary()
        hearing = Hearing(primary.session)
        await established(world, primary, way, session_filter=hearing)
        (event,) = hearing.heard
        assert event.context is None


@pytest.mark.parametrize("way", ["bind", "redirect"])
async def test_s29_it_goes_to_that_filter_only_with_the_identical_context(way):
    witness = Witness()
    async with open_world(witness.filter(*ALL, associated=ALL)) as world:
        primary = await world.primary()
        hearing, context = Hearing(primary.session), {"equal": "but not identical"}
        ends = await established(world, primary, way, session_filter=hearing, context=context)
        (event,) = hearing.heard
        assert type(event) is EstablishedConnection
        assert event.context is event.connection.context is context
        assert event.client.host == ends[0].address.host
        assert event.client == event.connection.client_address
        assert event.server == event.connection.server_address
        assert EstablishedConnection not in witness.kinds()


async def test_s29_datagrams_are_heard_of_once():
    async with open_world() as world:
        primary = await world.primary()
        hearing, context = Hearing(primary.session), object()
        client, server = world.datagrams(), world.datagrams()
        (connection,) = await bind_udp(
            primary, client.address, session_filter=hearing, context=context
        )
        for data in (b"one", b"two"):
            server.send(data, proxy_address(connection))
            assert (await client.receive())[0] == data
        (event,) = hearing.heard
        assert event.context is context
        assert (event.client, event.server) == (client.address, server.address)


@pytest.mark.parametrize("answer", DENIALS)
@pytest.mark.parametrize("way", ["bind", "redirect"])
async def test_s29_the_one_who_hears_may_refuse(answer, way):
    if answer in (deny_by_call, deny_by_call_later):
        answer = fail  # deny() is for earlier events, and says so by raising
    async with open_world() as world:
        primary = await world.primary()
        hearing = Hearing(primary.session)
        hearing.firewall_event_handler = answer
        with pytest.raises((ConnectionError, AssertionError)):
            await established(world, primary, way, session_filter=hearing)
        await eventually(lambda: len(primary.session.connections) == 1)
        assert len(world.engine.ledger) == 0


async def test_s29_datagrams_may_be_refused_too():
    async with open_world() as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        hearing = Hearing(primary.session, Verdict.DENY)
        (connection,) = await bind_udp(primary, client.address, session_filter=hearing)
        server.send(b"x", proxy_address(connection))
        await eventually(lambda: connection.is_closed)
        await turns()
        assert client.take() is None
        assert world.engine.ports.in_use == 0


@pytest.mark.parametrize("way", ["bind", "redirect"])
@pytest.mark.parametrize("flags", [F.NONE, F.NO_KERNEL_MODE])
async def test_s33_no_kernel_mode_means_user_space_also_without_a_data_filter(way, flags):
    async with open_world() as world:
        primary = await world.primary()
        await established(world, primary, way, flags=flags)
        (secondary,) = primary.session.connections - {primary.connection}
        assert secondary.data_path == "splice"
        assert secondary.is_secondary


async def test_a_filter_sees_secondaries_only_where_it_asks_for_them():
    ofprimary, ofall = Witness(), Witness()
    events = (ConnectTcp, AcceptedConnection, ConnectionTerminating)
    filters = [
        ofprimary.filter(*events, name="of primaries"),
        ofall.filter(*events, name="of all", associated=events),
    ]
    async with open_world(*filters) as world:
        primary = await world.primary()
        client, server = await established(world, primary, "bind")
        for peer in (client, server):
            peer.close()
        await eventually(lambda: len(primary.session.connections) == 1)
        assert ofprimary.kinds() == [ConnectTcp]
        assert ofall.kinds() == [ConnectTcp, AcceptedConnection, ConnectionTerminating]
        assert ofall.heard[1].connection is ofall.heard[2].connection
        assert ofall.heard[1].remote.host == HOST
        assert ofall.heard[2].reason == "closed"


async def test_a_denied_accept_is_cut_off():
    witness = Witness({AcceptedConnection: Verdict.DENY})
    async with open_world(witness.filter(associated=[AcceptedConnection])) as world:
        primary = await world.primary()
        listener = world.listen()
        (connection,) = await bind(primary, listener.address)
        assert await is_refused(world, proxy_address(connection))
        await eventually(lambda: connection.is_closed)
        assert "denied by a filter" in connection.close_reason


class Reverse(DataFilter):
    def data_from_client(self, data):
        self.to_server.send(data[::-1])


async def test_a_data_filter_can_be_attached_to_a_secondary_connection():
    witness = Witness({
        AcceptedConnection: lambda event: event.connection.attach_data_filter(Reverse()),
        ConnectTcp: lambda event: event.is_secondary
        and event.connection.attach_data_filter(Reverse()),
    })  # fmt: skip
    hooked = witness.filter(associated=[AcceptedConnection, ConnectTcp])
    async with open_world(hooked) as world:
        primary = await world.primary()
        for way in ("bind", "redirect"):
            listener = world.listen()
            if way == "bind":
                (connection,) = await bind(primary, listener.address)
                server = await world.connect(proxy_address(connection))
                client = await world.accept(listener)
            else:
                made = await redirect(primary, listener.address)
                client = await world.connect(made.internal_address)
                server = await world.accept(listener)
            await client.send(b"abc")
            assert await server.read(3) == b"cba"


@pytest.mark.parametrize("kind", [BindTcp, Listen, ConnectionTerminating, EstablishedConnection])
async def test_other_handlers_are_no_place_to_attach(kind):
    refusals = []

    def attach(event):
        if isinstance(event, kind):
            with pytest.raises(BadContextError) as caught:
                event.connection.attach_data_filter(DataFilter())
            refusals.append(caught.value)

    witness = Witness(dict.fromkeys([kind], attach))
    async with open_world(witness.filter(BindTcp, Listen, associated=[kind])) as world:
        primary = await world.primary()
        primary.session.attach_filter("witness")
        hearing = Hearing(primary.session)
        hearing.firewall_event_handler = attach
        client, server = await established(world, primary, "bind", session_filter=hearing)
        for peer in (client, server):
            peer.close()
        await eventually(lambda: refusals)


async def test_outside_of_handlers_is_no_place_at_all():
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary, ip_filter=IpFilter())
        for each in (connection, primary.connection):
            with pytest.raises(BadContextError):
                each.attach_data_filter(DataFilter())
            with pytest.raises(BadContextError):
                each.deny()
