"""S67 and S68 of the filter API: what may be shared, and who comes to a shared port."""

import socket

import pytest
from calls import carries, is_refused
from clusters import open_cluster, resolve_to, share, shared
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    THIRD_HOST,
    eventually,
    make_filter,
    open_world,
    unused_endpoint,
)

from fwproxy import Endpoint, HostName, Verdict
from fwproxy.config.config import Limits
from fwproxy.config.shared import SharedAllow
from fwproxy.errors import PolicyRulesDeniedError
from fwproxy.events import ConnectTcp
from fwproxy.policy.policy import Network, Rule


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
