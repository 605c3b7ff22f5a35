"""Quotas of clients and of rules, as a running proxy holds them."""

import pytest
from calls import F, bind, carries, is_refused, own, redirect
from rig import HOST, OTHER_HOST, PROBE_DATA, Hearing, eventually, open_world

from fwproxy import Endpoint
from fwproxy.config.config import Limits
from fwproxy.errors import QuotaError
from fwproxy.policy.policy import Network, Rule
from fwproxy.policy.rules import RuleLimits


def limited(**limits):
    """Return the settings of a world with one rule that has these quotas."""
    return {"rules": (Rule(allow=True, limits=RuleLimits(**limits), name="few"),)}


PERMISSIONS = pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limits": Limits(max_permissions_per_client=2)}, "max_permissions_per_client"),
        (limited(max_permissions=2), r"the rule 'few' \(rules\.limits\.max_permissions\)"),
    ],
)
CONNECTIONS = pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limits": Limits(max_connections_per_client=2)}, "max_connections_per_client"),
        (limited(max_connections=2), r"the rule 'few' \(rules\.limits\.max_connections\)"),
    ],
)


@PERMISSIONS
async def test_permissions_of_all_sessions_count_together(settings, said):
    async with open_world(**settings) as world:
        one, other = await world.primary(), await world.primary()
        (first,) = await bind(one)
        await redirect(other, Endpoint(HOST, 50123))
        for primary in (one, other):
            with pytest.raises(QuotaError, match=said):
                await bind(primary)
        assert world.engine.ports.in_use == len(world.engine.ledger) == 2
        first.kill()
        assert await bind(other)
        other.session.end("over", at_once=True)
        await world.ended(other.session)
        assert await bind(one, own(5000), own(5001))


@CONNECTIONS
async def test_connections_of_all_sessions_count_together(settings, said, logged):
    async with open_world(**settings) as world:
        one, _ = await world.primary(), await world.primary()
        with pytest.raises(QuotaError, match=said):
            await bind(one)
        assert await is_refused(world, world.address)
        one.session.end("over", at_once=True)
        await world.ended(one.session)
        assert await world.primary()
    reasons = [line.get("reason") for line in logged]
    assert any("more than 2 connections" in str(reason) for reason in reasons)


async def test_another_client_has_quotas_of_its_own():
    limits = Limits(max_connections_per_client=1, max_permissions_per_client=1)
    async with open_world(limits=limits) as world:
        await world.primary()
        assert await is_refused(world, world.address)
        other = await world.primary(OTHER_HOST)
        assert other.session.client_address.host == OTHER_HOST


async def test_another_rule_has_quotas_of_its_own():
    networks = (Network("near", (HOST,)), Network("far", (OTHER_HOST,)))
    rules = tuple(
        Rule(allow=True, sources=(name,), limits=RuleLimits(max_connections=1))
        for name in ("near", "far")
    )
    async with open_world(networks=networks, rules=rules) as world:
        await world.primary()
        await world.primary(OTHER_HOST)
        assert await is_refused(world, world.address)
        assert await is_refused(world, world.address, OTHER_HOST)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"limits": Limits(connection_rate_per_client=1.0, connection_burst_per_client=2)},
            "connection_rate_per_client",
        ),
        (limited(connection_rate=1.0, connection_burst=2), "rules.limits.connection_rate"),
    ],
)
async def test_new_connections_come_at_a_rate(settings, said, logged):
    async with open_world(**settings) as world:
        for _ in range(2):
            await world.primary()
        for _ in range(3):
            assert await is_refused(world, world.address)
        world.advance(1)
        assert await world.primary()
        assert await is_refused(world, world.address)
    lines = [line for line in logged if line["event"] in {"client refused", "quota reached"}]
    assert len([line for line in lines if said in line["reason"]]) == 1  # for the whole burst


async def test_secondary_connections_do_not_count_against_the_rate():
    limits = Limits(connection_rate_per_client=0.001, connection_burst_per_client=1)
    async with open_world(limits=limits) as world:
        primary = await world.primary()
        target = world.listen()
        for _ in range(5):
            redirection = await redirect(primary, target.address)
            client = await world.connect(redirection.internal_address)
            assert await carries(client, await world.accept(target))


async def test_a_permission_that_is_used_up_counts_no_longer():
    async with open_world(**limited(max_permissions=1)) as world:
        primary = await world.primary()
        for _ in range(3):
            client = world.listen()
            (made,) = await bind(primary, client.address, session_filter=Hearing(primary.session))
            server = await world.connect(made.proxy_address)
            assert await carries(server, await world.accept(client))


async def test_one_for_many_makes_no_more_connections_than_there_may_be(logged):
    async with open_world(**limited(max_connections=2)) as world:
        primary = await world.primary()
        target = world.listen()
        redirection = await redirect(primary, target.address, flags=F.ALLOW_MULTIPLE)
        client = await world.connect(redirection.internal_address)
        assert await carries(client, await world.accept(target))
        assert await is_refused(world, redirection.internal_address)
    (line,) = [line for line in logged if line["event"] == "quota reached"]
    assert (line["rule"], line["client"]) == ("few", HOST)


async def test_what_is_counted_is_back_at_nothing():
    settings = {
        **limited(max_connections=50, max_permissions=50),
        "limits": Limits(max_connections_per_client=50, max_permissions_per_client=50),
    }
    async with open_world(**settings) as world:
        usages = set()
        for _ in range(3):
            primary = await world.primary()
            usages.update(primary.session.usages)
            await bind(primary, own(5000), own(5001), flags=F.TIMEOUT)
            await redirect(primary, Endpoint(HOST, 50123))
            await primary.session.allow_future_connect(
                Endpoint(HOST, 50123), protocol=PROBE_DATA, flags=F.ADDRESS_BASED
            )
        assert {(u.sessions, u.connections, u.permissions) for u in usages} == {(3, 9, 12)}
        world.advance(61)
        assert {u.permissions for u in usages} == {6}
        for session in world.sessions:
            session.end("over", at_once=True)
        await eventually(lambda: not world.sessions)
        assert {(u.sessions, u.connections, u.permissions) for u in usages} == {(0, 0, 0)}


async def test_without_quotas_nothing_is_counted():
    async with open_world() as world:
        primary = await world.primary()
        assert primary.session.usages == ()
        assert len(world.engine.quotas) == 0
