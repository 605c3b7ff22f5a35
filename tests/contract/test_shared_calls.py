"""S63-S69 of the filter API: `share_redirection`, for the protocols of clusters."""

import socket

import attrs
import pytest
from calls import carries, is_refused
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    THIRD_HOST,
    eventually,
    free_ports,
    make_filter,
    open_world,
    unused_endpoint,
)

from fwproxy import Endpoint, HostName, ListenerConfig, ListenerKind, Transport, Verdict
from fwproxy.config import Limits
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAvailableError,
    InvalidArgumentError,
    NoServerReplyError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import ConnectTcp
from fwproxy.listeners import redirect as redirect_listener
from fwproxy.policy import Network, Rule
from fwproxy.shared_config import SharedAllow, SharedConfig, SharedTarget

HOSTS = pytest.mark.parametrize("host", [HOST, "::1"])
LONG = Limits(idle_timeout=1e6)
LOOPBACK = SharedAllow(names=("*.cluster",), prefixes=("127.0.0.0/8", "::1/128"))
NAME = HostName("one.cluster", 9092)


def shared(count=8, *, linger=0.0, **settings):
    """Settings under which everything on loopback may be shared."""
    settings.setdefault("allow", (LOOPBACK,))
    return SharedConfig(ports=free_ports(count), linger=linger, **settings)


def open_cluster(*filters, settings=None, **rest):
    return open_world(*filters, shared=settings or shared(), **rest)


async def share(primary, target, **settings):
    settings.setdefault("protocol", PROBE_DATA)
    return await primary.session.share_redirection(target, **settings)


async def end(world, *primaries):
    for primary in primaries:
        primary.client.close()
        primary.server.close()
        await world.ended(primary.session)


def resolve_to(world, monkeypatch, names):
    """Let names resolve as the table says at that moment; return who was asked for."""
    asked = []

    async def resolve(destination):
        asked.append(destination.host)
        if destination.host not in names:
            raise NoServerReplyError(f"{destination.host} does not resolve")
        return [Endpoint(host, destination.port) for host in names[destination.host]]

    monkeypatch.setattr(world.engine.resolver, "resolve", resolve)
    return asked


@HOSTS
async def test_s63_every_client_gets_the_same_address_for_a_target(host):
    async with open_cluster(host=host) as world:
        primaries = [await world.primary() for _ in range(3)]
        server, other = world.listen(host), world.listen(host)
        made = [await share(primary, server.address) for primary in primaries]
        assert len({each.internal_address for each in made}) == 1
        assert len({each.action for each in made}) == 1
        assert made[0].proxy_address == made[0].internal_address
        assert made[0].proxy_address.port in range(
            world.engine.config.shared.ports.first, world.engine.config.shared.ports.last + 1
        )
        another = await share(primaries[0], other.address)
        assert another.internal_address != made[0].internal_address
        assert await share(primaries[0], server.address) == made[0]
        assert len(world.engine.shared) == 2


@HOSTS
async def test_s63_as_many_as_like_to_may_come_and_each_has_a_session_of_its_own(host):
    async with open_cluster(host=host) as world:
        primary = await world.primary()
        server = world.listen(host)
        made = await share(primary, server.address)
        for number in range(3):
            client = await world.connect(made.proxy_address)
            assert await carries(client, await world.accept(server))
            assert len(world.sessions) == number + 2
        for session in world.sessions[1:]:
            assert session.listener_name == "probe"
            assert session.primary.protocol == PROBE_DATA
            assert not session.primary.is_secondary
            assert session.primary.server_address == server.address
        assert primary.session.connections == {primary.connection}
        assert made.action.uses == 3


async def test_s63_listener_protocol_and_target_make_it_the_same():
    more = ListenerConfig("other", Endpoint(OTHER_HOST), "probe", upstream=Endpoint(HOST, 1))
    async with open_cluster(more=[more]) as world:
        primary = await world.primary()
        server = world.listen()
        first = await share(primary, server.address)
        probe = world.engine.protocols["probe"]
        assert (await share(primary, server.address, protocol=probe)).action is not first.action
        listener = world.firewall.listeners["other"]
        session = world.firewall.sessions.open(listener, Endpoint(HOST, 5000))
        elsewhere = await session.share_redirection(server.address, protocol=PROBE_DATA)
        assert elsewhere.action is not first.action
        assert elsewhere.proxy_address.host == OTHER_HOST
        session.end("the test is over")
        session.primary = object()
        session._finish()


async def test_s63_one_spelling_of_a_name_is_as_good_as_another():
    async with open_cluster() as world:
        primary = await world.primary()
        one = await share(primary, HostName("One.CLUSTER.", 9092))
        assert await share(primary, NAME) == one
        assert one.action.target == NAME


async def test_s64_it_stays_while_anybody_who_asked_for_it_lives_and_a_while_longer():
    async with open_cluster(settings=shared(linger=30.0), limits=LONG) as world:
        first, second = await world.primary(), await world.primary()
        server = world.listen()
        made = await share(first, server.address)
        await share(second, server.address)
        await end(world, first)
        world.advance(1000)
        assert made.action.is_active
        await end(world, second)
        world.advance(29)
        assert made.action.is_active
        world.advance(2)
        assert made.action.close_reason == "expired"


async def test_s64_after_that_it_is_closed_and_opened_anew_at_the_same_port():
    async with open_cluster(settings=shared(linger=30.0), limits=LONG) as world:
        first = await world.primary()
        server = world.listen()
        made = await share(first, server.address)
        await end(world, first)
        world.advance(31)
        assert made.action.close_reason == "expired"
        assert not len(world.engine.ledger)
        assert not len(world.engine.shared)
        with pytest.raises(ConnectionRefusedError):
            await world.connect(made.proxy_address)
        again = await share(await world.primary(), server.address)
        assert again.proxy_address == made.proxy_address
        assert again.action is not made.action
        again.action.cancel()


async def test_s64_a_connection_through_it_keeps_it_and_a_new_user_saves_it():
    async with open_cluster(settings=shared(linger=30.0), limits=LONG) as world:
        first = await world.primary()
        server = world.listen()
        made = await share(first, server.address)
        client = await world.connect(made.proxy_address)
        far = await world.accept(server)
        assert await carries(client, far)
        await end(world, first)
        world.advance(1000)
        assert made.action.is_active
        client.close()
        far.close()
        await world.ended()
        world.advance(20)
        late = await world.connect(made.proxy_address)
        other = await world.accept(server)
        assert await carries(late, other)
        world.advance(20)
        assert made.action.is_active
        late.close()
        other.close()
        await world.ended()
        world.advance(31)
        assert not made.action.is_active


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
async def test_s65_ports_are_the_same_after_a_restart_whatever_comes_first(order, tmp_path):
    settings = shared(4, memory=str(tmp_path / "shared.json"))
    targets = [HostName(f"n{number}.cluster", 9092) for number in range(4)]
    before = {}
    for run in (range(4), order):
        async with open_cluster(settings=settings) as world:
            primary = await world.primary()
            for number in run:
                made = await share(primary, targets[number])
                port = before.setdefault(number, made.proxy_address.port)
                assert made.proxy_address.port == port
    assert len(set(before.values())) == 4


async def test_s65_a_configured_target_has_its_own_port():
    block = free_ports(4)
    target = SharedTarget(NAME, block.last, "198.51.100.1")
    settings = SharedConfig(ports=block, linger=0.0, targets=(target,))
    async with open_cluster(settings=settings) as world:
        made = await share(await world.primary(), NAME)
        assert made.proxy_address == Endpoint(HOST, block.last)
        assert made.internal_address == Endpoint("198.51.100.1", block.last)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, "127.0.0.1:{port}"),
        ("198.51.100.1", "198.51.100.1:{port}"),
        ("2001:db8::1", "[2001:db8::1]:{port}"),
        ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
        ("kafka.example", "kafka.example:{port}"),
        ("kafka.example:9000", "kafka.example:9000"),
    ],
)
async def test_s66_what_is_advertised_is_not_what_is_bound(said, told):
    async with open_cluster() as world:
        primary = await world.primary()
        server = world.listen()
        plain = await share(primary, server.address)
        made = await share(primary, server.address, advertise=said)
        assert str(made.internal_address) == told.format(port=made.proxy_address.port)
        assert made.proxy_address == plain.proxy_address
        assert made.action is plain.action
        client = await world.connect(made.proxy_address)
        assert await carries(client, await world.accept(server))


async def test_s66_the_call_the_target_and_the_listener_say_what_is_advertised_in_this_order():
    block = free_ports(4)
    targets = (SharedTarget(NAME, block.first, "two.example:2"),)
    settings = SharedConfig(ports=block, linger=0.0, targets=targets, allow=(LOOPBACK,))
    async with open_cluster(settings=settings) as world:
        primary = await world.primary()
        primary.session.advertised_host = "198.51.100.1"
        plain = HostName("two.cluster", 9092)
        assert (await share(primary, plain)).internal_address.host == "198.51.100.1"
        assert str((await share(primary, NAME)).internal_address) == "two.example:2"
        said = await share(primary, NAME, advertise="three.example:3")
        assert str(said.internal_address) == "three.example:3"
        with pytest.raises(InvalidArgumentError):
            await share(primary, NAME, advertise="no host")


async def test_s66_a_transparent_client_is_told_what_it_believes_in_there_too(monkeypatch):
    """Also by the session of one who has come to a shared port."""
    believed = Endpoint("198.51.100.9", 9092)
    async with open_cluster(host=OTHER_HOST, kind=ListenerKind.REDIRECT) as world:
        told = [world.upstream.address]
        monkeypatch.setattr(redirect_listener, "original_destination", lambda _: told[0])
        primary = await world.primary()
        server = world.listen()
        made = await share(primary, server.address)
        assert made.internal_address.host == world.upstream.address.host
        told[0] = believed
        client = await world.connect(made.proxy_address)
        assert await carries(client, await world.accept(server))
        assert world.sessions[-1].advertised_host == believed.host


@pytest.mark.parametrize(
    "target",
    [
        HostName("one.elsewhere", 9092),
        HostName("cluster", 9092),
        Endpoint("192.0.2.1", 9092),
        Endpoint("2001:db8::1", 9092),
    ],
)
async def test_s67_what_is_not_on_the_list_is_not_shared(target):
    async with open_cluster() as world:
        primary = await world.primary()
        with pytest.raises(PolicyRulesDeniedError, match="nothing to share"):
            await share(primary, target)
        assert not len(world.engine.ledger)


async def test_s67_without_a_list_nothing_is_shared():
    async with open_world() as world:
        with pytest.raises(PolicyRulesDeniedError, match=r"\[\[shared.allow\]\]"):
            await share(await world.primary(), world.upstream.address)


@pytest.mark.parametrize(
    ("resolved", "reached"),
    [([HOST], HOST), ([OTHER_HOST, HOST], HOST), ([OTHER_HOST], None), ([], None)],
)
async def test_s67_what_the_name_resolves_to_is_looked_at_again(resolved, reached, monkeypatch):
    """Somebody else's server is at the other address, and waits there."""
    allow = SharedAllow(names=("*.cluster",), prefixes=(f"{HOST}/32",))
    async with open_cluster(settings=shared(allow=(allow,))) as world:
        server, wrong = listen_both(world)
        resolve_to(world, monkeypatch, {"one.cluster": resolved} if resolved else {})
        made = await share(await world.primary(), HostName("one.cluster", server.address.port))
        if reached:
            client = await world.connect(made.proxy_address)
            assert await carries(client, await world.accept(server))
        else:
            assert await is_refused(world, made.proxy_address)
            await eventually(lambda: len(world.sessions) == 1)
        with pytest.raises(BlockingIOError):
            wrong.sock.accept()


def listen_both(world):
    """Listen on the same port of two addresses."""
    first, second = world.listen(), world.listen(OTHER_HOST)
    second.sock.close()
    second.sock = socket.create_server((OTHER_HOST, first.address.port))
    second.sock.settimeout(0)
    return first, second


async def test_s67_a_name_without_prefixes_does_not_lead_to_the_proxys_own_host(monkeypatch):
    settings = shared(allow=(SharedAllow(names=("*.cluster",)),))
    async with open_cluster(settings=settings) as world:
        server = world.listen()
        resolve_to(world, monkeypatch, {"one.cluster": [HOST]})
        made = await share(await world.primary(), HostName("one.cluster", server.address.port))
        assert await is_refused(world, made.proxy_address)
        with pytest.raises(PolicyRulesDeniedError):
            await share(await world.primary(), server.address)


async def test_s67_a_name_is_resolved_whenever_somebody_comes_and_not_before(monkeypatch):
    async with open_cluster() as world:
        first, second = listen_both(world)
        port = first.address.port
        names = {"one.cluster": [HOST]}
        asked = resolve_to(world, monkeypatch, names)
        made = await share(await world.primary(), HostName("one.cluster", port))
        assert not asked
        for host, server in ((HOST, first), (OTHER_HOST, second)):
            names["one.cluster"] = [host]
            client = await world.connect(made.proxy_address)
            assert await carries(client, await world.accept(server))
        assert asked == ["one.cluster"] * 2


async def test_s67_the_rules_apply_to_who_asks_and_to_who_comes():
    networks = (
        Network("good", (f"{HOST}/32",)),
        Network("bad", (f"{OTHER_HOST}/32",)),
        Network("servers", (f"{THIRD_HOST}/32",)),
    )
    rules = (
        Rule(allow=True, sources=("good",)),
        Rule(allow=True, sources=("bad",), targets=("good",)),
    )
    async with open_cluster(networks=networks, rules=rules) as world:
        server = world.listen(THIRD_HOST)
        good, bad = await world.primary(), await world.primary(source=OTHER_HOST)
        with pytest.raises(PolicyRulesDeniedError, match="not allowed"):
            await share(bad, server.address)
        made = await share(good, server.address)
        client = await world.connect(made.proxy_address)
        assert await carries(client, await world.accept(server))
        assert await is_refused(world, made.proxy_address, OTHER_HOST)


async def test_s68_the_same_filter_runs_on_what_comes():
    heard, answer = [], [None]

    def hear(event):
        heard.append(event)
        return answer[0]

    async with open_cluster(make_filter("witness", hear, ConnectTcp)) as world:
        primary = await world.primary()
        server = world.listen()
        made = await share(primary, server.address)
        client = await world.connect(made.proxy_address)
        assert await carries(client, await world.accept(server))
        assert [event.is_secondary for event in heard] == [False, False]
        assert heard[1].server == server.address
        assert heard[1].protocol == PROBE_DATA
        assert heard[1].connection.session is not primary.session
        answer[0] = Verdict.DENY
        assert await is_refused(world, made.proxy_address)


async def test_s68_who_comes_may_share_in_turn():
    """Every broker of a cluster names the others."""
    async with open_cluster() as world:
        one, two = world.listen(), world.listen()
        primary = await world.primary()
        first = await share(primary, one.address)
        client = await world.connect(first.proxy_address)
        assert await carries(client, await world.accept(one))
        session = world.sessions[-1]
        assert session is not primary.session
        second = await session.share_redirection(two.address, protocol=PROBE_DATA)
        assert second == await share(primary, two.address)
        assert await session.share_redirection(one.address, protocol=PROBE_DATA) == first


async def test_s68_the_limits_for_clients_hold_there_too():
    async with open_cluster(limits=Limits(max_sessions_per_client=2)) as world:
        primary = await world.primary()
        server = world.listen()
        made = await share(primary, server.address)
        client = await world.connect(made.proxy_address)
        assert await carries(client, await world.accept(server))
        assert await is_refused(world, made.proxy_address)
        assert made.action.refused == 1
        other = await world.connect(made.proxy_address, OTHER_HOST)
        assert await carries(other, await world.accept(server))


async def test_s68_a_server_that_is_not_there_cuts_the_client_off_and_nobody_else():
    async with open_cluster() as world:
        primary = await world.primary()
        made = await share(primary, unused_endpoint())
        for _ in range(2):
            assert await is_refused(world, made.proxy_address)
        await eventually(lambda: world.sessions == [primary.session])
        assert made.action.is_active


async def test_s69_the_ledger_has_one_entry_for_all():
    async with open_cluster() as world:
        primaries = [await world.primary() for _ in range(2)]
        for primary in primaries:
            made = await share(primary, NAME)
        (entry,) = world.firewall.ledger
        assert entry.session == primaries[0].session.id
        assert entry.listener == "probe"
        assert entry.protocol == PROBE_DATA.name
        assert entry.target == "one.cluster:9092"
        assert entry.proxy_address == str(made.proxy_address)
        assert entry.peers is None
        assert entry.expires_in is None
        assert not primaries[0].session.permissions


async def test_s69_cancelling_it_closes_the_port_and_leaves_who_has_come():
    async with open_cluster() as world:
        primary = await world.primary()
        server = world.listen()
        made = await share(primary, server.address)
        client = await world.connect(made.proxy_address)
        far = await world.accept(server)
        assert made.action.cancel()
        with pytest.raises(ConnectionRefusedError):
            await world.connect(made.proxy_address)
        assert await carries(client, far)
        again = await share(primary, server.address)
        assert again.proxy_address == made.proxy_address


async def test_s69_the_number_is_bounded_and_what_nobody_uses_makes_room():
    limits = Limits(max_shared_redirections=2, idle_timeout=1e6)
    async with open_cluster(settings=shared(linger=1e6), limits=limits) as world:
        leaving = await world.primary()
        old, older = [await share(leaving, HostName(f"{n}.cluster", 1)) for n in "ab"]
        staying = await world.primary()
        with pytest.raises(QuotaError, match="max_shared_redirections"):
            await share(staying, HostName("c.cluster", 1))
        await share(staying, HostName("a.cluster", 1))
        await end(world, leaving)
        await share(staying, HostName("c.cluster", 1))
        assert old.action.is_active
        assert older.action.close_reason == "another one needs its place"
        with pytest.raises(QuotaError):
            await share(staying, HostName("d.cluster", 1))
        for port in world.engine.shared:
            port.close("the test is over")


async def test_s69_a_range_that_is_used_up():
    async with open_cluster(settings=shared(2)) as world:
        primary = await world.primary()
        made = [await share(primary, HostName(f"{n}.cluster", 1)) for n in "ab"]
        with pytest.raises(PortsExhaustedError, match=r"shared\.ports"):
            await share(primary, HostName("c.cluster", 1))
        made[0].action.cancel()
        assert await share(primary, HostName("c.cluster", 1))


async def test_s69_another_program_has_the_port():
    block = free_ports(2)
    settings = SharedConfig(
        ports=block, linger=0.0, allow=(LOOPBACK,), targets=(SharedTarget(NAME, block.first),)
    )
    async with open_cluster(settings=settings) as world:
        primary = await world.primary()
        world.add(socket.create_server((HOST, block.first)))
        with pytest.raises(AddressInUseError):  # a configured port has no substitute
            await share(primary, NAME)
        made = await share(primary, HostName("two.cluster", 1))
        assert made.proxy_address.port == block.last
        made.action.cancel()
        world.add(socket.create_server((HOST, block.last)))
        with pytest.raises(PortsExhaustedError):
            await share(primary, HostName("two.cluster", 1))
        assert not len(world.engine.ledger)


async def test_s69_want_of_descriptors_shares_nothing(monkeypatch):
    async with open_cluster() as world:
        primary = await world.primary()

        def exhausted(*_, **__):
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(world.engine.poller, "open_socket", exhausted)
            with pytest.raises(AddressNotAvailableError, match="Too many open files"):
                await share(primary, NAME)
        watch = world.engine.poller.watch

        with monkeypatch.context() as patch:
            patch.setattr(world.engine.poller, "watch", exhausted)
            with pytest.raises(OSError, match="Too many open files"):
                await share(primary, NAME)
        assert world.engine.poller.watch == watch
        assert not len(world.engine.ledger)
        assert not len(world.engine.shared)
        assert await share(primary, NAME)


async def test_s69_the_stop_of_the_firewall_closes_them():
    async with open_cluster(settings=shared(linger=1e6)) as world:
        made = await share(await world.primary(), NAME)
        await world.firewall.stop(0)
        assert made.action.close_reason == "the proxy is stopped"
        with pytest.raises(ConnectionRefusedError):
            await world.connect(made.proxy_address)


async def test_s69_arguments_that_make_no_sense():
    async with open_cluster() as world:
        primary = await world.primary()
        with pytest.raises(InvalidArgumentError, match="needs a port"):
            await share(primary, HostName("one.cluster", 0))
        udp = attrs.evolve(PROBE_DATA, transport=Transport.UDP)
        with pytest.raises(InvalidArgumentError, match="for TCP"):
            await share(primary, NAME, protocol=udp)
        await end(world, primary)
        with pytest.raises(TerminatingError):
            await share(primary, NAME)


async def test_s63_a_range_of_one_port_is_a_range():
    settings = shared(1)
    assert len(settings.ports) == 1
    async with open_cluster(settings=settings) as world:
        made = await share(await world.primary(), NAME)
        assert made.proxy_address.port == settings.ports.first
