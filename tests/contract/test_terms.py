"""Which filters read a connection: the protocol's, or those of the listener or the rule."""

import pytest
from rig import HOST, OTHER_HOST, THIRD_HOST, make_filter, open_world, probe_config

from fwproxy import Endpoint, Firewall
from fwproxy.errors import ConfigError, NotRegisteredError
from fwproxy.events import ConnectTcp
from fwproxy.policy.policy import Network, Rule

HOSTS = {"one": HOST, "two": OTHER_HOST, "three": THIRD_HOST}
NETWORKS = tuple(Network(name, (host,)) for name, host in HOSTS.items())


def filters():
    """Return filters `a` and `b`, and a list of who has heard of which client."""
    heard = []

    def hearing(name):
        def hear(event):
            heard.append((name, event.connection.client_address.host))

        return make_filter(name, hear, ConnectTcp)

    return hearing("a"), hearing("b"), heard


async def test_a_rule_chooses_other_filters_for_its_connections_only():
    a, b, heard = filters()
    rules = (
        Rule(allow=True, sources=("one",), use_filters=("b",)),
        Rule(allow=True, sources=("two",), use_filters=()),
        Rule(allow=True),
    )
    async with open_world(a, b, networks=NETWORKS, rules=rules) as world:
        for host in HOSTS.values():
            await world.primary(host)
    assert heard == [("b", HOST), ("a", THIRD_HOST), ("b", THIRD_HOST)]


@pytest.mark.parametrize("chosen", [("b",), ("b", "a"), ()])
async def test_a_listener_chooses_other_filters_than_its_protocol(chosen):
    a, b, heard = filters()
    async with open_world(a, b, listener={"use_filters": chosen}) as world:
        primary = await world.primary()
        for name in {"a", "b"} - set(chosen):
            with pytest.raises(NotRegisteredError, match=f"no filter '{name}'"):
                primary.session.attach_filter(name)
    assert heard == [(name, HOST) for name in chosen]


async def test_a_rule_chooses_before_the_listener():
    a, b, heard = filters()
    rules = (Rule(allow=True, sources=("one",), use_filters=("a",)), Rule(allow=True))
    listener = {"use_filters": ("b",)}
    async with open_world(a, b, networks=NETWORKS, rules=rules, listener=listener) as world:
        await world.primary(HOST)
        await world.primary(OTHER_HOST)
    assert heard == [("a", HOST), ("b", OTHER_HOST)]


async def test_the_filters_of_a_rule_for_another_protocol_are_not_needed():
    a, _, heard = filters()
    rules = (Rule(allow=True, protocols=("tcp",), use_filters=("nowhere",)), Rule(allow=True))
    async with open_world(a, rules=rules) as world:
        await world.primary()
    assert heard == [("a", HOST)]


def test_a_filter_that_is_not_installed_is_named():
    rule = Rule(allow=True, use_filters=("nowhere",))
    with pytest.raises(ConfigError, match="nowhere"):
        Firewall(probe_config(upstream=Endpoint(HOST, 1), rules=(rule,)))
