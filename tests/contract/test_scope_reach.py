"""Whom a scope binds: rule and listener together, other sessions, and permissions that pass on."""

import contextlib

import pytest
from calls import F, bind, carries, own
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    Primary,
    Upstream,
    closing,
    eventually,
    free_ports,
    make_filter,
    open_world,
)
from scopes import SHARED, every_call, nothing_is_open, scoped

from fwproxy import DataFilter, Endpoint, IpFilter, ListenerConfig, ListenerKind, Transport
from fwproxy.config.config import PortRange, SecondaryConfig
from fwproxy.errors import AddressNotAllowedError, DeniedError, PolicyRulesDeniedError
from fwproxy.events import AcceptedConnection
from fwproxy.flags import Verdict
from fwproxy.policy.policy import Network, Rule
from fwproxy.policy.scope import Scope


async def test_rule_and_listener_hold_at_once():
    rule = Rule(allow=True, secondary=Scope(calls=("bind", "redirect"), peers=("127.0.0.0/30",)))
    listener = {"secondary": Scope(calls=("bind", "allow"), peers=("server", "127.0.0.2"))}
    async with open_world(rules=(rule,), listener=listener) as world:
        primary = await world.primary()
        (made,) = await bind(primary)
        assert made.ip_filter == IpFilter.only(HOST, OTHER_HOST)
        for name, call in every_call(primary).items():
            if name != "bind":
                with pytest.raises(DeniedError):
                    await call()


async def test_ports_of_rule_and_listener_must_meet():
    pool = free_ports(64, align=64)
    low, high = PortRange(pool.first, pool.first + 7), PortRange(pool.first + 8, pool.last)
    rule = Rule(allow=True, secondary=Scope(ports=low))
    async with open_world(
        rules=(rule,),
        listener={"secondary": Scope(ports=high)},
        secondary=SecondaryConfig(ports=pool),
    ) as world:
        primary = await world.primary()
        with pytest.raises(
            PolicyRulesDeniedError, match=f"grants the ports {low}, and none of {high}"
        ):
            await bind(primary)
        nothing_is_open(world, primary)


async def test_another_session_is_not_bound_by_it():
    rules = (
        Rule(allow=True, sources=("near",), secondary=Scope(calls=())),
        Rule(allow=True),
    )
    networks = (Network("near", ("127.0.0.1",)), Network("far", ("127.0.0.2",)))
    async with open_world(networks=networks, rules=rules) as world:
        near, far = await world.primary(HOST), await world.primary(OTHER_HOST)
        with pytest.raises(PolicyRulesDeniedError, match="rule 1 does not grant bind_for_client"):
            await bind(near)
        assert await far.session.bind_for_client([Endpoint(OTHER_HOST, 5000)], protocol=PROBE_DATA)
        assert near.session.rule == "rule 1"
        assert far.session.rule == "rule 2"


async def test_before_a_rule_has_let_the_client_in_nothing_can_be_opened():
    """A filter may hear of a client whose server, and so whose rule, is not known yet."""
    refused = []

    async def hear(event):
        session = event.connection.session
        assert not session.rule
        calls = every_call(Primary(session, None, None), server=Endpoint(HOST, 50125))
        for name, call in calls.items():
            with pytest.raises(PolicyRulesDeniedError, match=r"until one has let 127\.0\.0\.1 in"):
                await call()
            refused.append(name)
        return Verdict.DENY

    rules = (Rule(allow=True, secondary=Scope(timeout=5.0)),)
    probe = make_filter("probe", hear, AcceptedConnection)
    async with open_world(probe, kind=ListenerKind.GATEWAY, rules=rules, shared=SHARED) as world:
        client = await world.connect()
        with contextlib.suppress(ConnectionError):
            await client.receive()
        assert refused == ["bind", "redirect", "connect", "allow", "emulate", "share"]
        await world.ended()


@pytest.mark.parametrize("granted", [True, False])
async def test_a_permission_passes_only_to_a_session_that_is_granted_as_much(granted):
    scope = Scope(calls=("allow",) if granted else ("bind",))
    networks = (Network("one", ("127.0.0.1",)), Network("two", ("127.0.0.2",)))
    rules = (
        Rule(allow=True, targets=("one",)),
        Rule(allow=True, targets=("two",), secondary=scope),
    )
    other = ListenerConfig(
        "other", Endpoint(HOST), "probe", upstream=(far := Upstream(OTHER_HOST)).address
    )
    with closing(far):
        async with open_world(networks=networks, rules=rules, more=(other,)) as world:
            first = await world.primary()
            await world.connect(world.firewall.listeners["other"].address)
            await world.accept(far)
            (second,) = set(world.sessions) - {first.session}
            await eventually(lambda: second.rule == "rule 2")
            action = await first.session.allow_future_connect(
                Endpoint(HOST, 50123), protocol=PROBE_DATA, flags=F.ADDRESS_BASED
            )
            first.session.end("over", at_once=True)
            assert action.is_active is granted
            assert (action in second.permissions) is granted


async def test_an_emulated_connection_comes_from_granted_peers():
    async with scoped(Scope(peers=("server",))) as (_, primary):
        made = await primary.session.emulate_client_bind(own(), Endpoint(HOST, 50124), PROBE_DATA)
        with pytest.raises(AddressNotAllowedError):
            made.emulate_connection(Endpoint(OTHER_HOST, 4000), data_filter=DataFilter())


async def test_what_is_granted_works_from_end_to_end():
    pool = free_ports(64, align=64)
    part = PortRange(pool.first, pool.first + 1)
    scope = Scope(
        max_permissions=1, transports=(Transport.TCP,), peers=("server",), ports=part,
        timeout=30.0, calls=("bind",),
    )  # fmt: skip
    async with scoped(scope, secondary=SecondaryConfig(ports=pool)) as (world, primary):
        for _ in range(3):
            client = world.listen()
            (made,) = await bind(primary, client.address, flags=F.TIMEOUT)
            assert made.proxy_address.port in part
            server = await world.connect(made.proxy_address)
            assert await carries(server, await world.accept(client))
            made.kill()
        await eventually(lambda: not world.engine.ports.in_use)
