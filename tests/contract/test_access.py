"""S55 of the filter API: `host_access_check` asks the policy, and connects to nobody."""

import asyncio

import pytest
from rig import HOST, OTHER_HOST, PROBE_DATA, THIRD_HOST, open_world

from fwproxy import Endpoint, ListenerKind
from fwproxy.config.config import Limits
from fwproxy.errors import InvalidArgumentError, NoServerReplyError, TerminatingError
from fwproxy.policy.policy import Network, Rule

NETWORKS = (
    Network("near", ("127.0.0.1/32", "::1/128")),
    Network("far", ("127.0.0.2/32", "2001:db8::/32")),
)
TO_FAR = (
    Rule(allow=True, protocols=("probe",), targets=("far",), name="to far"),
    Rule(allow=True, protocols=("probe",), sources=("near",), targets=("near",)),
)


def resolves(world, monkeypatch, names):
    """Let names resolve as told."""

    async def resolve(name):
        if name.host not in names:
            raise NoServerReplyError(f"{name.host} does not resolve")
        return [Endpoint(host, name.port) for host in names[name.host]]

    monkeypatch.setattr(world.engine.resolver, "resolve", resolve)


def protocol(world, name):
    return world.engine.protocols[name]


@pytest.mark.parametrize(
    ("host", "allowed", "rule"),
    [
        (OTHER_HOST, True, "to far"),
        ("2001:db8::9", True, "to far"),
        ("::ffff:127.0.0.2", True, "to far"),
        (THIRD_HOST, False, "no rule matches"),
        ("2001:db9::9", False, "no rule matches"),
        ("0.0.0.0", False, "no address to connect to"),
        ("ff02::1", False, "no address to connect to"),
    ],
)
async def test_s55_an_address_is_judged_by_the_rules(host, allowed, rule):
    async with open_world(networks=NETWORKS, rules=TO_FAR) as world:
        session = (await world.primary()).session
        found = await session.host_access_check(protocol(world, "probe"), host)
        assert found.is_allowed is allowed
        ((address, decision),) = found.decisions
        assert decision.rule == rule
        assert found.allowed_addresses == ((address,) if allowed else ())
        assert session.connections == {session.primary}


async def test_s55_the_protocol_counts_and_secondaries_are_allowed_as_theirs_is():
    async with open_world(networks=NETWORKS, rules=TO_FAR) as world:
        session = (await world.primary()).session
        for asked, allowed in (("probe", True), ("probe-data", True), ("tcp", False)):
            found = await session.host_access_check(protocol(world, asked), OTHER_HOST)
            assert found.is_allowed is allowed


async def test_s55_each_address_of_a_name_is_judged(monkeypatch):
    async with open_world(networks=NETWORKS, rules=TO_FAR) as world:
        session = (await world.primary()).session
        names = {"both.example": [THIRD_HOST, OTHER_HOST, OTHER_HOST], "none.example": [THIRD_HOST]}
        resolves(world, monkeypatch, names)
        both = await session.host_access_check(PROBE_DATA, "both.example")
        assert [(host, d.allowed) for host, d in both.decisions] == [
            (THIRD_HOST, False),
            (OTHER_HOST, True),
        ]
        assert both.is_allowed
        assert both.allowed_addresses == (OTHER_HOST,)
        none = await session.host_access_check(PROBE_DATA, "none.example")
        assert not none.is_allowed
        with pytest.raises(NoServerReplyError, match=r"gone\.example"):
            await session.host_access_check(PROBE_DATA, "gone.example")


async def test_s55_a_name_that_takes_too_long(monkeypatch):
    async with open_world(limits=Limits(connect_timeout=0.01)) as world:
        session = (await world.primary()).session

        async def resolve(name):
            await asyncio.Event().wait()

        monkeypatch.setattr(world.engine.resolver, "resolve", resolve)
        with pytest.raises(NoServerReplyError, match="took too long"):
            await session.host_access_check(PROBE_DATA, "slow.example")


async def test_s55_a_real_name_is_resolved():
    async with open_world() as world:
        session = (await world.primary()).session
        found = await session.host_access_check(PROBE_DATA, "localhost", 5000, "/path")
        assert HOST in found.allowed_addresses


async def test_s55_what_only_the_proxys_host_can_reach_is_not_for_clients_elsewhere():
    kind = ListenerKind.GATEWAY
    async with open_world(kind=kind) as world:
        session = world.firewall.sessions.open(
            world.firewall.listeners["probe"], Endpoint("198.51.100.9", 5000)
        )
        found = await session.host_access_check(PROBE_DATA, HOST)
        assert not found.is_allowed
        assert (await session.host_access_check(PROBE_DATA, "198.51.100.1")).is_allowed
        session.primary = object()
        session._finish()


@pytest.mark.parametrize("host", ["", "no name at all", "a/b"])
async def test_s55_what_is_no_host_is_an_invalid_argument(host):
    async with open_world() as world:
        session = (await world.primary()).session
        with pytest.raises(InvalidArgumentError):
            await session.host_access_check(PROBE_DATA, host)


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_s55_what_is_no_port_is_an_invalid_argument(port):
    async with open_world() as world:
        session = (await world.primary()).session
        with pytest.raises(InvalidArgumentError, match="source port"):
            await session.host_access_check(PROBE_DATA, HOST, port)


async def test_s55_a_session_that_has_ended_asks_nothing():
    async with open_world() as world:
        primary = await world.primary()
        primary.client.close()
        primary.server.close()
        await world.ended()
        with pytest.raises(TerminatingError):
            await primary.session.host_access_check(PROBE_DATA, HOST)
