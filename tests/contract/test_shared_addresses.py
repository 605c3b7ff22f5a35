"""S63, S65 and S66 of the filter API: at which addresses `share_redirection` shares a port."""

import pytest
from calls import carries
from clusters import LOOPBACK, NAME, open_cluster, share, shared
from rig import HOST, OTHER_HOST, PROBE_DATA, free_ports

from fwproxy import Endpoint, HostName, ListenerConfig, ListenerKind
from fwproxy.config.shared import SharedConfig, SharedTarget
from fwproxy.errors import InvalidArgumentError
from fwproxy.listeners import redirect as redirect_listener

HOSTS = pytest.mark.parametrize("host", [HOST, "::1"])


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


async def test_s63_a_range_of_one_port_is_a_range():
    settings = shared(1)
    assert len(settings.ports) == 1
    async with open_cluster(settings=settings) as world:
        made = await share(await world.primary(), NAME)
        assert made.proxy_address.port == settings.ports.first
