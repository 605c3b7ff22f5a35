"""Section 1 of the filter API, the connection: what may be called when, names, flags, counters."""

import asyncio

import pytest
from calls import UNKNOWN, F, bind, bind_udp, is_refused, own, proxy_address, redirect
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    Hearing,
    Mute,
    eventually,
    make_filter,
    open_world,
    turns,
)

from fwproxy import (
    ConnectionFlags,
    DataFilter,
    Endpoint,
    IpFilter,
    SessionFlags,
    Transport,
    Verdict,
    events,
)
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import (
    AddressNotAllowedError,
    BadContextError,
    CallError,
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
    GetHostByAddr,
    Listen,
    UdpDestination,
)
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule

BOTH = pytest.mark.parametrize("transport", list(Transport))
LATER = pytest.mark.parametrize("later", [False, True])
KINDS = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
]


async def trigger_everything(world, hear):
    """Make every event happen once for secondaries, and ConnectTcp for the primary."""
    primary = await world.primary()
    session = primary.session
    hearing = Hearing(session)
    hearing.firewall_event_handler = hear
    listener, client, server = world.listen(), world.datagrams(), world.datagrams()
    settings = {"session_filter": hearing}
    (bound,) = await bind(primary, listener.address, **settings)
    await bind_udp(primary, client.address)
    sources = [await world.connect(proxy_address(bound))]
    await world.accept(listener)
    made = await redirect(primary, listener.address, flags=F.NO_KERNEL_MODE)
    sources.append(await world.connect(made.internal_address))
    await world.accept(listener)
    made = await redirect(primary, server.address, transport=Transport.UDP, flags=F.NO_KERNEL_MODE)
    client.send(b"x", made.internal_address)
    await server.receive()
    await session.get_host_by_name("localhost")
    for source in sources:
        source.reset()
    await eventually(lambda: len(session.connections) == 3)


def try_out(call):
    """Return a filter that makes a call in every handler, and what came of it by event."""
    outcomes = {}

    def hear(event):
        try:
            call(event.connection)
        except CallError as error:
            outcomes.setdefault(type(event), set()).add(type(error))
        else:
            outcomes.setdefault(type(event), set()).add(None)

    async def hear_later(event):
        await asyncio.sleep(0)
        hear(event)

    return outcomes, hear, hear_later


ATTACH = {AcceptedConnection, BindUdp, ConnectTcp, UdpDestination}
DENY = {AcceptedConnection, BindTcp, BindUdp, ConnectTcp}
REGISTRABLE = [kind for kind in KINDS if kind is not EstablishedConnection]


@LATER
async def test_a_data_filter_is_attached_only_in_four_handlers(monkeypatch, later):
    outcomes, at_once, afterwards = try_out(lambda each: each.attach_data_filter(DataFilter()))
    hear = afterwards if later else at_once
    hooked = make_filter("all", hear, *REGISTRABLE, associated=REGISTRABLE)
    async with open_world(hooked) as world:
        await trigger_everything(world, hear)
        await turns()
    assert set(outcomes) == set(KINDS) - {GetHostByAddr}
    for kind, found in outcomes.items():
        assert found == ({None} if kind in ATTACH else {BadContextError}), kind


@LATER
async def test_deny_is_for_four_handlers(later):
    """Where it is not allowed, nothing changes; where it is, other tests see it work."""
    outcomes, at_once, afterwards = try_out(lambda each: each.deny())
    hear = afterwards if later else at_once
    others = [kind for kind in REGISTRABLE if kind not in DENY]
    hooked = make_filter("all", hear, *others, associated=others)
    async with open_world(hooked) as world:
        await trigger_everything(world, hear)
        await turns()
    assert set(outcomes) == set(others) - {GetHostByAddr} | {EstablishedConnection}
    assert all(found == {BadContextError} for found in outcomes.values())


@LATER
@pytest.mark.parametrize("how", ["verdict", "call", "fault"])
async def test_what_a_denial_does_to_each_call(how, later):
    denied = set()

    def answer(event):
        if type(event) not in denied or not event.connection.is_secondary:
            return None
        if how == "fault":
            raise ValueError("a fault")
        if how == "call" and type(event) in DENY:
            event.connection.deny()
            return Verdict.ALLOW
        return Verdict.DENY

    async def answer_later(event):
        await asyncio.sleep(0)
        return answer(event)

    hear = answer_later if later else answer
    hooked = make_filter("deny", hear, *REGISTRABLE, associated=REGISTRABLE)
    async with open_world(hooked) as world:
        primary = await world.primary()
        listener, server = world.listen(), world.datagrams()
        for kind, transport in ((BindTcp, Transport.TCP), (BindUdp, Transport.UDP)):
            denied.add(kind)
            with pytest.raises(PolicyRulesDeniedError, match="denied by a filter"):
                await bind(primary, own(5000), own(5001), transport=transport)
            denied.clear()
        denied.add(AcceptedConnection)
        (bound,) = await bind(primary, listener.address)
        assert await is_refused(world, proxy_address(bound))
        await eventually(lambda: bound.is_closed)
        assert "denied by a filter" in bound.close_reason
        denied.add(ConnectTcp)
        made = await redirect(primary, listener.address)
        assert await is_refused(world, made.internal_address)
        joined = await primary.session.connect_for_client(
            listener.address, listener.address, protocol=PROBE_DATA
        )
        await eventually(lambda: joined.is_closed)
        assert "denied by a filter" in joined.close_reason
        denied.add(UdpDestination)
        made = await redirect(primary, server.address, transport=Transport.UDP)
        (connection,) = primary.session.connections - {primary.connection}
        client = world.datagrams()
        client.send(b"x", made.internal_address)
        await eventually(lambda: connection.dropped == 1)
        connection.kill()
        # What cannot be failed goes on.
        denied.clear()
        denied.update({Listen, ConnectionTerminating})
        (bound,) = await bind(primary, listener.address)
        await world.connect(proxy_address(bound))
        await world.accept(listener)
        await eventually(lambda: bound.state is ConnectionState.ESTABLISHED)
        bound.kill()
        assert bound.close_reason == "killed"
        assert len(world.engine.ledger) == world.engine.ports.in_use == 0


async def test_a_denied_primary_is_cut_off_and_its_session_ends():
    async with open_world(make_filter("deny", lambda _: Verdict.DENY, ConnectTcp)) as world:
        assert await is_refused(world, world.address)
        await world.ended()
        with pytest.raises(BlockingIOError):
            world.upstream.sock.accept()


# kill.


@BOTH
async def test_kill_always_succeeds_and_may_be_repeated(transport):
    async with open_world() as world:
        primary = await world.primary()
        (bound,) = await bind(primary, transport=transport)
        for reason in ("first", "second"):
            bound.kill(reason)
        assert bound.close_reason == "first"
        assert bound.is_closed
        assert len(world.engine.ledger) == world.engine.ports.in_use == 0


async def test_kill_while_the_client_is_being_connected_to():
    async with open_world() as world:
        primary = await world.primary()
        mute = world.add(Mute())
        (bound,) = await bind(primary, mute.address)
        server = await world.connect(proxy_address(bound))
        await eventually(lambda: bound.state is ConnectionState.CONNECTING)
        bound.kill()
        bound.kill()
        assert await server.is_cut_off()


@pytest.mark.parametrize("kind", [ConnectTcp, BindTcp, BindUdp, AcceptedConnection, UdpDestination])
@LATER
async def test_kill_inside_of_any_handler(kind, later):
    def hear(event):
        if event.connection.is_secondary:
            event.connection.kill("inside")
            event.connection.kill("again")

    async def hear_later(event):
        await asyncio.sleep(0)
        hear(event)

    hooked = make_filter("kills", hear_later if later else hear, kind, associated=[kind])
    async with open_world(hooked) as world:
        primary = await world.primary()
        session = primary.session
        listener, client = world.listen(), world.datagrams()
        if kind in (BindTcp, BindUdp):
            transport = Transport.TCP if kind is BindTcp else Transport.UDP
            with pytest.raises(TerminatingError):
                await bind(primary, transport=transport)
        elif kind is AcceptedConnection:
            (bound,) = await bind(primary, listener.address)
            assert await is_refused(world, proxy_address(bound))
        elif kind is ConnectTcp:
            made = await redirect(primary, listener.address)
            assert await is_refused(world, made.internal_address)
        else:
            made = await redirect(primary, own(), transport=Transport.UDP)
            client.send(b"x", made.internal_address)
        await eventually(lambda: len(session.connections) == 1)
        assert len(world.engine.ledger) == world.engine.ports.in_use == 0


async def test_killing_the_primary_ends_the_session():
    async with open_world() as world:
        primary = await world.primary()
        session = primary.session
        await bind(primary)
        primary.connection.kill("enough")
        assert session.end_reason == "enough"
        await world.ended()
        assert await primary.client.is_cut_off()
        assert await primary.server.is_cut_off()


# The client's address, and who may be at the other end.


@BOTH
async def test_the_client_address_is_supplied_once(transport):
    async with open_world() as world:
        primary = await world.primary()
        (bound,) = await bind(primary, UNKNOWN, transport=transport)
        (known,) = await bind(primary, transport=transport)
        with pytest.raises(InvalidArgumentError, match="is known"):
            known.set_client_address(own(5001))
        with pytest.raises(InvalidArgumentError, match="all zeros"):
            bound.set_client_address(UNKNOWN)
        with pytest.raises(AddressNotAllowedError):
            bound.set_client_address(Endpoint(OTHER_HOST, 5000))
        with pytest.raises(AddressNotAllowedError):
            bound.set_client_address(own(21))
        bound.set_client_address(own(5002))
        assert bound.client_address == own(5002)
        assert bound.permission.target == own(5002)
        with pytest.raises(InvalidArgumentError, match="is known"):
            bound.set_client_address(own(5002))
        bound.kill()
        with pytest.raises(TerminatingError):
            bound.set_client_address(own(5002))


@BOTH
async def test_the_ip_filter_that_one_gets_is_a_copy(transport):
    async with open_world() as world:
        primary = await world.primary()
        asked = IpFilter.only("192.0.2.1")
        (bound,) = await bind(primary, ip_filter=asked, transport=transport)
        gotten = bound.ip_filter
        assert gotten == asked
        wider = gotten.include(HOST)
        asked.include(HOST)
        assert not bound.ip_filter.is_included(HOST)
        bound.set_ip_filter(wider)
        wider.exclude(HOST)
        assert bound.ip_filter.is_included(HOST)
        assert bound.permission.peers.is_included(HOST)
        bound.set_ip_filter(None)
        assert bound.ip_filter is bound.permission.peers is None
        bound.set_ip_filter(IpFilter())
        assert bound.ip_filter == IpFilter()  # an empty one is not none at all
        assert not bound.ip_filter.is_included(HOST)


# Names, flags and counters.


async def test_the_names_of_both_ends_of_a_stream():
    async with open_world() as world:
        primary = await world.primary()
        connection = primary.connection
        assert connection.session is primary.session
        assert connection.external_peer_name == primary.server.address
        assert connection.external_socket_name == primary.server.remote
        assert connection.internal_peer_name == primary.client.address
        assert connection.internal_socket_name == primary.client.remote
        listener = world.listen()
        (bound,) = await bind(primary, listener.address)
        assert bound.external_socket_name is bound.internal_socket_name is None
        assert bound.external_peer_name is None
        server = await world.connect(proxy_address(bound))
        client = await world.accept(listener)
        await eventually(lambda: bound.state is ConnectionState.ESTABLISHED)
        assert bound.external_peer_name == server.address
        assert bound.external_socket_name == proxy_address(bound)
        assert bound.internal_peer_name == listener.address
        assert bound.internal_socket_name == client.remote
        bound.kill()
        assert bound.external_socket_name is bound.internal_socket_name is None
        assert bound.external_peer_name == server.address


async def test_the_flags_of_a_session():
    async with open_world() as world:
        session = (await world.primary()).session
        assert session.session_flags == SessionFlags.NONE
        session.authenticated_user = "alice"
        assert session.session_flags == SessionFlags.AUTHENTICATED
        session.primary.kill()
        await world.ended()
        assert session.session_flags == SessionFlags.AUTHENTICATED | SessionFlags.TERMINATED


@pytest.mark.parametrize("kind", [NetworkRelation.NAT, NetworkRelation.ROUTE])
async def test_a_session_whose_server_is_across_nat_says_so(kind):
    networks = (Network("near", (f"{OTHER_HOST}/32",)), Network("far", (f"{HOST}/32",)))
    relations, rules = (Relation("near", "far", kind),), (Rule(allow=True),)
    async with open_world(networks=networks, relations=relations, rules=rules) as world:
        session = (await world.primary(OTHER_HOST)).session
        expected = SessionFlags.NAT if kind is NetworkRelation.NAT else SessionFlags.NONE
        assert session.session_flags == expected


async def test_the_flags_of_a_connection():
    async with open_world() as world:
        primary = await world.primary()
        full = ConnectionFlags.INTERNAL_ADDRESS_TRANSLATION
        assert primary.connection.connection_flags == full
        (bound,) = await bind(primary)
        assert bound.connection_flags == ConnectionFlags.SECONDARY
        bound.kill()
        assert bound.connection_flags == ConnectionFlags.SECONDARY | ConnectionFlags.TERMINATED
        assert bound.is_secondary
        assert not primary.connection.is_secondary


@pytest.mark.parametrize("filters", [[], [DataFilter]])
async def test_the_counters_of_a_stream(filters):
    def hear(event):
        for kind in filters:
            event.connection.attach_data_filter(kind())

    async with open_world(make_filter("probe", hear, ConnectTcp)) as world:
        primary = await world.primary()
        connection = primary.connection
        assert connection.has_data_filters is bool(filters)
        before = connection.last_active
        await asyncio.sleep(0.002)
        await primary.client.send(b"x" * 1000)
        assert len(await primary.server.read(1000)) == 1000
        await primary.server.send(b"y" * 300)
        assert len(await primary.client.read(300)) == 300
        assert (connection.client_bytes, connection.server_bytes) == (1000, 300)
        assert connection.dropped == 0
        assert connection.last_active > before
        primary.client.reset()
        await world.ended()
        assert (connection.client_bytes, connection.server_bytes) == (1000, 300)


async def test_a_connection_without_bytes_has_no_path_and_no_counters():
    async with open_world() as world:
        primary = await world.primary()
        (bound,) = await bind(primary)
        assert (bound.data_path, bound.client_bytes, bound.server_bytes) == ("", 0, 0)
        assert bound.last_active == bound.started
