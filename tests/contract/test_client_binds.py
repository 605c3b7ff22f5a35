"""S53-S54 of the filter API: `retroactive_allow_bind`."""

import pytest
from calls import F, carries, is_refused, own
from rig import HOST, OTHER_HOST, PROBE_DATA, THIRD_HOST, Hearing, Peer, eventually, open_world

from fwproxy import BindAnswer, Endpoint, IpFilter, Transport
from fwproxy.config.config import Limits
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.errors import (
    AddressInUseError,
    PolicyRulesDeniedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.filter import Ends
from fwproxy.policy.policy import Rule
from fwproxy.secondary.call import carry_datagrams, connected_udp
from fwproxy.secondary.client_binds import ClientBind, hold_port
from fwproxy.secondary.datagrams import Welcome, datagram_limits

HOSTS = pytest.mark.parametrize("host", [HOST, "::1"])
BOTH = pytest.mark.parametrize("transport", list(Transport))


def hold(world, primary, host=HOST, accepted=None, **settings):
    """Hold a TCP port for the client, as the listener of a SOCKS client does for its BIND."""
    (sock,) = world.engine.ports.allocate(Endpoint(host), Transport.TCP, backlog=None)
    taken = [] if accepted is None else accepted
    return hold_port(
        primary.session, sock, lambda sock, peer: taken.append((sock, peer)), **settings
    )


def hold_udp(world, primary, host=HOST):
    """Hold a UDP port for the client: what comes goes to its port 5000 once that is allowed."""
    ports, session = world.engine.ports, primary.session
    (sock,) = ports.allocate(Endpoint(host), Transport.UDP)
    address = Endpoint.from_sockaddr(sock.getsockname())
    client = world.datagrams(host)

    def admit(call):
        connection = call.connection(client.address)
        relay = DatagramRelay(
            world.engine.poller,
            world.engine.deadlines,
            connection,
            sock,
            open_far=lambda _: connected_udp(world.engine.poller, client.address, None),
            ends_of=lambda server: Ends(client.address, server),
            allowed=lambda host: True,
            welcome=Welcome(connection),
            replies=True,
            from_client=False,
            limits=datagram_limits(world.engine.limits, max_peers=1),
            on_done=connection.relay_done,
        )
        carry_datagrams(call, connection, relay, address, client.address, call.ip_filter)
        return connection.permission

    def give_up():
        sock.close()
        ports.release(address, Transport.UDP)

    held = ClientBind(address, Transport.UDP, admit, give_up)
    session.client_binds.hold(held)
    return held, client


async def approve(primary, address, **settings):
    settings.setdefault("protocol", PROBE_DATA)
    return await primary.session.retroactive_allow_bind(address, **settings)


@HOSTS
async def test_s53_nobody_can_come_to_a_bind_before_it_is_approved(host):
    async with open_world(host=host) as world:
        primary = await world.primary()
        accepted = []
        held = hold(world, primary, host, accepted)
        with pytest.raises(ConnectionRefusedError):
            await world.connect(held.address)
        assert await approve(primary, held.address) is BindAnswer.ALLOWED
        server = await world.connect(held.address)
        await eventually(lambda: accepted)
        sock, peer = accepted[0]
        world.add(sock)
        assert peer == server.address
        assert await is_refused(world, held.address)
        assert held.action.close_reason == "used"


@HOSTS
async def test_s53_datagrams_are_dropped_before_and_carried_after(host):
    async with open_world(host=host) as world:
        primary = await world.primary()
        held, client = hold_udp(world, primary, host)
        udp = Transport.UDP
        assert await approve(primary, held.address) is BindAnswer.NO_SUCH_BIND  # not over TCP
        assert await approve(primary, held.address, transport=udp) is BindAnswer.ALLOWED
        assert await approve(primary, held.address, transport=udp) is BindAnswer.ALREADY_ALLOWED
        world.datagrams(host).send(b"for you", held.address)
        assert (await client.receive())[0] == b"for you"


async def test_s53_an_approved_bind_is_already_allowed():
    async with open_world() as world:
        primary = await world.primary()
        held = hold(world, primary)
        assert await approve(primary, held.address) is BindAnswer.ALLOWED
        assert await approve(primary, held.address) is BindAnswer.ALREADY_ALLOWED
        assert len(world.engine.ledger) == 1


@BOTH
async def test_s53_a_bind_that_nobody_holds_is_no_such_bind(transport):
    async with open_world() as world:
        primary, other = await world.primary(), await world.primary()
        held = hold(world, other)
        for address in (own(), held.address, held.address.with_port(1024)):
            answer = await approve(primary, address, transport=transport)
            assert answer is BindAnswer.NO_SUCH_BIND
        assert not held.is_allowed
        assert not len(world.engine.ledger)


async def test_s53_the_bind_is_known_by_what_the_client_was_told():
    async with open_world() as world:
        primary = await world.primary()
        told = Endpoint("198.51.100.1", 40000)
        held = hold(world, primary, told=told)
        assert held.address == told
        assert await approve(primary, told) is BindAnswer.ALLOWED


async def test_s53_the_rules_may_deny_it():
    rules = (Rule(allow=True, protocols=("probe",)),)
    async with open_world(rules=rules) as world:
        primary = await world.primary()
        held = hold(world, primary)
        with pytest.raises(PolicyRulesDeniedError, match="tcp"):
            await approve(primary, held.address, protocol=world.engine.protocols["tcp"])
        assert not held.is_allowed


async def test_s53_a_session_that_ends_approves_nothing_and_gives_its_binds_up():
    async with open_world() as world:
        primary = await world.primary()
        held, allowed = hold(world, primary), hold(world, primary)
        await approve(primary, allowed.address)
        primary.client.close()
        primary.server.close()
        await world.ended()
        assert world.engine.ports.in_use == len(world.engine.ledger) == 0
        for bind in (held, allowed):
            with pytest.raises(ConnectionRefusedError):
                await world.connect(bind.address)
            with pytest.raises(TerminatingError):
                await approve(primary, bind.address)
        with pytest.raises(TerminatingError):
            primary.session.client_binds.hold(held)


async def test_s54_the_permission_is_one_like_any_other():
    async with open_world() as world:
        primary = await world.primary()
        held = hold(world, primary)
        only = IpFilter.only(THIRD_HOST)
        hearing = Hearing(primary.session)
        flags = F.TIMEOUT
        await approve(primary, held.address, flags=flags, ip_filter=only, session_filter=hearing)
        (entry,) = world.firewall.ledger
        assert entry.proxy_address == str(held.address)
        assert entry.peers == THIRD_HOST
        assert entry.filter == "Hearing"
        assert entry.expires_in == pytest.approx(60, abs=1)
        assert await is_refused(world, held.address, OTHER_HOST)
        world.advance(61)
        assert held.action.close_reason == "expired"
        assert len(primary.session.client_binds) == 0
        assert world.engine.ports.in_use == 0


async def test_s54_allow_multiple_lets_many_come():
    async with open_world() as world:
        primary = await world.primary()
        accepted = []
        held = hold(world, primary, accepted=accepted)
        await approve(primary, held.address, flags=F.ALLOW_MULTIPLE)
        for number in range(3):
            server = await world.connect(held.address)
            await eventually(lambda number=number: len(accepted) > number)
            world.add(accepted[number][0])
            assert accepted[number][1] == server.address
        assert held.is_allowed


async def test_s54_quotas_hold_for_binds_and_for_approvals():
    async with open_world(limits=Limits(max_permissions_per_session=2)) as world:
        primary = await world.primary()
        binds = [hold(world, primary) for _ in range(2)]
        (extra,) = world.engine.ports.allocate(Endpoint(HOST), Transport.TCP, backlog=None)
        address = Endpoint.from_sockaddr(extra.getsockname())
        with extra, pytest.raises(QuotaError, match="max_permissions_per_session"):
            hold_port(primary.session, extra, lambda *_: None)
        world.engine.ports.release(address, Transport.TCP)
        await primary.session.allow_future_connect(own(), protocol=PROBE_DATA)
        assert await approve(primary, binds[0].address) is BindAnswer.ALLOWED
        with pytest.raises(QuotaError):
            await approve(primary, binds[1].address)


async def test_s54_a_port_that_somebody_else_listens_on_is_in_use(monkeypatch):
    async with open_world() as world:
        primary = await world.primary()
        held = hold(world, primary)

        def taken(*_):
            raise AddressInUseError("taken")

        monkeypatch.setattr("fwproxy.secondary.client_binds.start_listening", taken)
        with pytest.raises(AddressInUseError):
            await approve(primary, held.address)
        assert not held.is_allowed
        assert not len(world.engine.ledger)


async def test_s54_who_gives_a_bind_up_gives_its_port_back():
    async with open_world() as world:
        primary = await world.primary()
        for approved in (False, True):
            held = hold(world, primary)
            if approved:
                await approve(primary, held.address)
            held.close("the client is gone")
            held.close("the client is gone")
            assert await approve(primary, held.address) is BindAnswer.NO_SUCH_BIND
            assert world.engine.ports.in_use == len(world.engine.ledger) == 0


async def test_s53_the_bind_carries_bytes_for_its_holder():
    """The whole way of a SOCKS BIND, with the listener's part played here."""
    async with open_world() as world:
        primary = await world.primary()
        accepted = []
        held = hold(world, primary, accepted=accepted)
        await approve(primary, held.address)
        server = await world.connect(held.address)
        await eventually(lambda: accepted)
        client = world.add(Peer(accepted[0][0]))
        assert await carries(client, server)
