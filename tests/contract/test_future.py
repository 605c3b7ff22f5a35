"""S41 of the filter API, and S44-S49: `allow_future_connect`."""

import socket

import attrs
import pytest
from calls import F, carries, is_refused, own, redirect
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    THIRD_HOST,
    Hearing,
    eventually,
    make_filter,
    open_world,
    unused_endpoint,
)

from fwproxy import Endpoint, ListenerConfig, ListenerKind, Transport, Verdict
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.errors import (
    AddressNotAllowedError,
    InvalidArgumentError,
    PolicyRulesDeniedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import ConnectTcp
from fwproxy.listeners import redirect as redirect_listener
from fwproxy.policy.policy import Network, Rule

BOTH = pytest.mark.parametrize("transport", list(Transport))
HOSTS = pytest.mark.parametrize("host", [HOST, "::1"])
LONG = Limits(idle_timeout=1e6)
ONLY_PROBE = (Rule(allow=True, protocols=("probe",)),)
"""Under which nobody gets through the transparent listener by himself."""


@pytest.fixture
def destination(monkeypatch):
    """What the kernel would say of every redirected connection."""

    @attrs.define
    class Told:
        server: Endpoint | None = None

    told = Told()
    monkeypatch.setattr(redirect_listener, "original_destination", lambda _: told.server)
    return told


def open_transparent(*filters, host=HOST, rules=ONLY_PROBE, **settings):
    """Run a firewall with a transparent listener for any destination beside the usual one."""
    transparent = ListenerConfig("transparent", Endpoint(host), "tcp", ListenerKind.REDIRECT)
    return open_world(*filters, host=host, more=[transparent], rules=rules, **settings)


async def allow(primary, server, **settings):
    settings.setdefault("protocol", PROBE_DATA)
    return await primary.session.allow_future_connect(server, **settings)


async def come(world, destination, server, source=None):
    """Connect as a client whose packets to *server* are redirected to the proxy."""
    destination.server = server
    return await world.connect(world.firewall.listeners["transparent"].address, source)


async def is_turned_away(world, destination, server, source=None):
    try:
        client = await come(world, destination, server, source)
        return not await client.receive()
    except ConnectionError:
        return True


@HOSTS
async def test_s41_the_clients_own_connection_becomes_a_secondary_of_the_session(destination, host):
    async with open_transparent(host=host) as world:
        primary = await world.primary()
        hearing, context = Hearing(primary.session), object()
        server = world.listen(host)
        action = await allow(primary, server.address, session_filter=hearing, context=context)
        client = await come(world, destination, server.address)
        assert await carries(client, await world.accept(server))
        assert world.sessions == [primary.session]
        (secondary,) = primary.session.connections - {primary.connection}
        assert secondary.is_secondary
        assert secondary.protocol == PROBE_DATA
        assert secondary.permission is action
        assert secondary.client_address == client.address
        (event,) = hearing.heard
        assert event.connection is secondary
        assert event.context is context
        assert event.server == server.address
        assert action.close_reason == "used"


async def test_s41_nothing_is_opened_and_nothing_advertised_unlike_a_redirection(destination):
    async with open_transparent() as world:
        primary = await world.primary()
        server = world.listen()
        action = await allow(primary, server.address)
        assert action.proxy_address is None
        assert world.engine.ports.in_use == 0
        made = await redirect(primary, server.address)
        assert made.internal_address != server.address
        assert world.engine.ports.in_use == 1


@BOTH
async def test_s41_the_ledger_says_who_may_go_where(transport):
    async with open_world() as world:
        primary = await world.primary()
        hearing = Hearing(primary.session)
        flags = F.TIMEOUT
        await allow(primary, own(), transport=transport, session_filter=hearing, flags=flags)
        (entry,) = world.firewall.ledger
        assert entry.target == f"{HOST}:5000"
        assert entry.peers == HOST
        assert entry.proxy_address is None
        assert entry.transport == transport.value
        assert entry.session == primary.session.id
        assert entry.filter == "Hearing"
        assert entry.expires_in == pytest.approx(60, abs=1)


@HOSTS
async def test_s44_it_goes_where_the_rules_would_not_let_the_client_go_by_itself(destination, host):
    async with open_transparent(host=host) as world:
        primary = await world.primary()
        server = world.listen(host)
        assert await is_turned_away(world, destination, server.address)
        await allow(primary, server.address)
        client = await come(world, destination, server.address)
        assert await carries(client, await world.accept(server))
        assert await is_turned_away(world, destination, server.address)


async def test_s44_another_client_and_another_destination_are_not_what_was_permitted(destination):
    async with open_transparent() as world:
        primary = await world.primary()
        server, neighbour = world.listen(), world.listen()
        action = await allow(primary, server.address)
        assert await is_turned_away(world, destination, server.address, OTHER_HOST)
        assert await is_turned_away(world, destination, neighbour.address)
        assert action.is_active
        client = await come(world, destination, server.address)
        assert await carries(client, await world.accept(server))


async def test_s44_where_the_rules_allow_it_the_session_still_gets_its_secondary(destination):
    async with open_transparent(rules=()) as world:
        primary = await world.primary()
        server = world.listen()
        client = await come(world, destination, server.address)
        assert await carries(client, await world.accept(server))
        assert len(world.sessions) == 2
        await allow(primary, server.address)
        client = await come(world, destination, server.address)
        assert await carries(client, await world.accept(server))
        assert len(world.sessions) == 2
        assert len(primary.session.connections) == 2


@BOTH
@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        (F.NONE, [OTHER_HOST]),
        (F.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK, [OTHER_HOST, "127.0.0.77"]),
        (F.ALLOW_ADDRESSES_IN_NETWORK, [OTHER_HOST, "127.0.0.77", "127.0.200.1"]),
        (F.ALLOW_ADDRESSES_ALL, [OTHER_HOST, "127.0.0.77", "127.0.200.1", "127.9.0.1"]),
    ],
)
async def test_s45_addresses_are_compared_with_the_external_peer(transport, flags, allowed):
    networks = (Network("servers", ("127.0.0.0/16",)), Network("all", ("127.0.0.0/8",)))
    async with open_world(host=OTHER_HOST, networks=networks, rules=ONLY_PROBE) as world:
        primary = await world.primary(source="127.9.0.1")  # the client is no reference
        for host in (OTHER_HOST, "127.0.0.77", "127.0.200.1", "127.9.0.1"):
            server = Endpoint(host, 5000)
            if host in allowed:
                assert await allow(primary, server, flags=flags, transport=transport)
            else:
                with pytest.raises(AddressNotAllowedError, match="not an address of the server"):
                    await allow(primary, server, flags=flags, transport=transport)


async def test_s45_ports_of_services_are_restricted_for_servers_too():
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(AddressNotAllowedError, match=r"port 25 .* is restricted"):
            await allow(primary, own(25))
        assert await allow(primary, own(25), flags=F.IGNORE_RESTRICTED_PORTS)


@BOTH
@pytest.mark.parametrize("server", [Endpoint(HOST, 0), Endpoint("0.0.0.0", 5000)])
async def test_s45_an_address_that_cannot_be_connected_to_is_an_invalid_argument(transport, server):
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(InvalidArgumentError, match="no address to connect to"):
            await allow(primary, server, flags=F.ALLOW_ADDRESSES_ALL, transport=transport)


async def test_s45_a_protocol_that_the_rules_do_not_allow():
    async with open_world(rules=ONLY_PROBE) as world:
        primary = await world.primary()
        with pytest.raises(PolicyRulesDeniedError, match="tcp"):
            await allow(primary, own(), protocol=world.engine.protocols["tcp"])
        assert not len(world.engine.ledger)


async def test_s46_allow_multiple_serves_as_many_as_the_session_may_have(destination):
    limits = Limits(max_connections_per_session=3)
    async with open_transparent(limits=limits) as world:
        primary = await world.primary()
        server = world.listen()
        action = await allow(primary, server.address, flags=F.ALLOW_MULTIPLE)
        for _ in range(2):
            client = await come(world, destination, server.address)
            assert await carries(client, await world.accept(server))
        assert await is_turned_away(world, destination, server.address)
        assert action.is_active
        assert action.uses == 3


async def test_s46_two_permissions_are_for_two_connections(destination):
    async with open_transparent() as world:
        primary = await world.primary()
        server = world.listen()
        for _ in range(2):
            await allow(primary, server.address)
        for left in (1, 0):
            client = await come(world, destination, server.address)
            assert await carries(client, await world.accept(server))
            assert len(world.engine.ledger) == left
        assert await is_turned_away(world, destination, server.address)


@BOTH
async def test_s46_the_time_out_withdraws_what_nobody_has_used(destination, transport):
    async with open_transparent(limits=LONG, secondary=SecondaryConfig(timeout=30)) as world:
        primary = await world.primary()
        server = world.listen()
        action = await allow(primary, server.address, flags=F.TIMEOUT, transport=transport)
        world.advance(29)
        assert action.is_active
        world.advance(2)
        assert action.close_reason == "expired"
        assert not world.engine.expected
        assert await is_turned_away(world, destination, server.address)


@BOTH
async def test_s46_cancelling_withdraws_it_and_so_does_the_end_of_the_session(
    destination, transport
):
    async with open_transparent() as world:
        primary = await world.primary()
        server = world.listen()
        cancelled = await allow(primary, server.address, transport=transport)
        assert cancelled.cancel()
        assert not cancelled.cancel()
        assert await is_turned_away(world, destination, server.address)
        ended = await allow(primary, server.address, transport=transport)
        primary.client.close()
        primary.server.close()
        await world.ended()
        assert ended.close_reason == "its session has ended"
        assert not world.engine.expected
        assert await is_turned_away(world, destination, server.address)
        with pytest.raises(TerminatingError):
            await allow(primary, server.address, transport=transport)


async def test_s46_the_quota_holds():
    async with open_world(limits=Limits(max_permissions_per_session=2)) as world:
        primary = await world.primary()
        for _ in range(2):
            await allow(primary, own())
        with pytest.raises(QuotaError, match="max_permissions_per_session"):
            await allow(primary, own())


async def test_s46_a_server_that_does_not_answer_cuts_the_client_off(destination):
    async with open_transparent() as world:
        primary = await world.primary()
        server = unused_endpoint()
        await allow(primary, server)
        assert await is_turned_away(world, destination, server)
        await eventually(lambda: primary.session.connections == {primary.connection})


async def test_s46_filters_hear_of_it_as_a_secondary_connect_and_can_deny(destination):
    heard = []

    def hear(event):
        heard.append(event)
        return Verdict.DENY if event.is_secondary else None

    witness = make_filter("witness", hear, ConnectTcp, associated=[ConnectTcp])
    async with open_transparent(witness) as world:
        primary = await world.primary()
        server = world.listen()
        await allow(primary, server.address)
        assert await is_turned_away(world, destination, server.address)
        assert heard[-1].server == server.address
        assert heard[-1].protocol == PROBE_DATA


async def test_s47_the_secondary_leaves_from_the_address_given(destination):
    async with open_transparent() as world:
        primary = await world.primary()
        server = world.listen()
        await allow(primary, server.address, proxy_external=Endpoint(THIRD_HOST))
        await come(world, destination, server.address)
        assert (await world.accept(server)).remote.host == THIRD_HOST


async def end(world, primary):
    primary.client.close()
    primary.server.close()
    await world.ended(primary.session)


async def test_s48_address_based_outlives_the_session_while_its_client_has_another(destination):
    async with open_transparent() as world:
        primary, other = await world.primary(), await world.primary()
        server = world.listen()
        hearing = Hearing(primary.session)
        flags = F.ADDRESS_BASED
        action = await allow(primary, server.address, flags=flags, session_filter=hearing)
        await end(world, primary)
        (entry,) = world.firewall.ledger
        assert entry.session == other.session.id
        assert action in other.session.permissions
        client = await come(world, destination, server.address)
        assert await carries(client, await world.accept(server))
        assert len(other.session.connections) == 2
        assert not hearing.heard


async def test_s48_address_based_ends_with_the_last_session_of_its_client(destination):
    async with open_transparent() as world:
        primary, other = await world.primary(), await world.primary()
        await world.primary(source=OTHER_HOST)  # somebody else's
        action = await allow(primary, own(), flags=F.ADDRESS_BASED)
        for each in (primary, other):
            assert action.is_active
            await end(world, each)
        assert action.close_reason == "its session has ended"
        assert not world.engine.expected


async def test_s48_address_based_keeps_its_time_out_and_can_be_cancelled():
    async with open_world(limits=LONG) as world:
        primary, _ = await world.primary(), await world.primary()
        flags = F.ADDRESS_BASED
        expiring = await allow(primary, own(), flags=flags | F.TIMEOUT)
        cancelled = await allow(primary, own(), flags=flags)
        await end(world, primary)
        assert cancelled.cancel()
        world.advance(61)
        assert expiring.close_reason == "expired"
        assert not len(world.engine.ledger)


async def test_s48_nobody_inherits_more_than_he_may_have():
    async with open_world(limits=Limits(max_permissions_per_session=2)) as world:
        primary, other = await world.primary(), await world.primary()
        await allow(other, own())
        mine = [await allow(primary, own(6000 + n), flags=F.ADDRESS_BASED) for n in range(2)]
        await end(world, primary)
        assert [action.is_active for action in mine] == [True, False]
        assert len(other.session.permissions) == 2


async def test_s48_without_address_based_another_users_connection_is_not_meant():
    async with open_world() as world:
        primary = await world.primary()
        primary.session.authenticated_user = "alice"
        expected, tcp = world.engine.expected, Transport.TCP
        bound = await allow(primary, own())
        for user in (None, "bob"):
            assert expected.claim(HOST, tcp, own(), user) is None
        assert expected.claim(HOST, tcp, own(), "alice").action is bound
        shared = await allow(primary, own(), flags=F.ADDRESS_BASED)
        assert expected.claim(HOST, tcp, own(), "bob").action is shared


async def test_s49_datagrams_are_claimed_by_transport_and_carried_by_the_listener():
    """As a listener of datagrams does it: claim, make the connection, carry."""
    async with open_world() as world:
        primary = await world.primary()
        server = world.datagrams()
        action = await allow(primary, server.address, transport=Transport.UDP)
        expected = world.engine.expected
        assert expected.claim(HOST, Transport.TCP, server.address) is None
        claimed = expected.claim(HOST, Transport.UDP, server.address)
        connection = claimed.connection(own(7000))
        assert connection.transport is Transport.UDP
        assert connection.is_secondary
        assert connection.server_address == server.address
        assert connection.permission is action
        assert action.close_reason == "used"
        assert expected.claim(HOST, Transport.UDP, server.address) is None


async def test_s46_the_stop_of_the_firewall_ends_everything(destination):
    async with open_transparent() as world:
        primaries = [await world.primary() for _ in range(3)]
        actions = [await allow(each, own(), flags=F.ADDRESS_BASED) for each in primaries]
        await world.firewall.stop(0)
        assert not any(action.is_active for action in actions)


async def test_a_connection_to_the_listener_itself_is_never_a_permitted_one():
    """Without a redirection by the kernel there is no original destination."""
    async with open_transparent() as world:
        primary = await world.primary()
        address = world.firewall.listeners["transparent"].address
        action = await allow(primary, address)
        destination.server = address
        assert await is_refused(world, address)
        assert action.is_active


async def test_s22_the_receive_buffer_of_tcp_ports_is_64_kib_at_least():
    async with open_world() as world:
        primary = await world.primary()
        heard = []
        getter = world.engine.ports.allocate

        def watched(*arguments, **keywords):
            sockets = getter(*arguments, **keywords)
            heard.extend(sockets)
            for sock in sockets:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            return sockets

        world.engine.ports.allocate = watched
        await redirect(primary, own(), flags=F.INCREASE_RECEIVE_BUFFER)
        size = heard[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert size == 2 * 64 * 1024  # socket(7): doubled
