"""The kernel carries connections by itself only where nothing is lost by it, at any time."""

import asyncio

import pytest
from calls import carries
from kernel_world import (
    FORWARDING_OFF,
    add_chain,
    auto_world,
    come,
    near,
    path,
    reason,
    tables,
)
from own_network import NEAR, in_own_network, shell
from rig import eventually

from fwproxy.config.config import DatapathConfig

MARK = "0x6677"


@in_own_network
async def test_by_default_the_kernel_carries_what_nothing_keeps_it_from(logged):
    async with auto_world() as here:
        _, connection, client = await near(here)
        assert connection.choice.path.value == "kernel"
        assert await carries(*await come(here, connection, client, NEAR))
        assert len(tables()) == 1
    assert not tables()
    assert "the kernel carries connections without filters" in [line["event"] for line in logged]


HINDRANCES = {
    "ipv4.ip_forward is off": FORWARDING_OFF,
    "ipv4.conf.mgmt.forwarding is off": (
        "ip link add mgmt type veth peer other; echo 0 >/proc/sys/net/ipv4/conf/mgmt/forwarding"
    ),
    "nf_conntrack_acct is 0": "echo 0 >/proc/sys/net/netfilter/nf_conntrack_acct",
    "conntrack forgets connections after 60 s": (
        "echo 60 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established"
    ),
    "there is policy routing": "ip rule add fwmark 1 lookup 100",
    "there is policy routing (ip rule)": "ip -6 rule add from 2001:db8::1 lookup 100",
}


@in_own_network
@pytest.mark.parametrize("words", HINDRANCES)
async def test_a_host_where_splicing_is_better_is_left_as_it_is(logged, words):
    world = auto_world()
    shell(HINDRANCES[words])
    async with world as here:
        assert not tables()
        assert path(here) is None
        _, connection, client = await near(here)
        assert connection.choice.path.value == "splice"
        assert words in connection.choice.reason
        assert await carries(*await come(here, connection, client, NEAR))
        assert not tables()
    assert any(words in str(line.get("reason")) for line in logged)


CHAINS = [
    ("forward", ["ct mark 1 accept"], {"policy": "drop"}, "may drop what is forwarded"),
    ("forward", ["reject"], {}, "may drop what is forwarded"),
    ("forward", ["iifname eth7 drop"], {}, "may drop what is forwarded"),
    ("forward", ["tcp dport vmap { 25 : drop }"], {}, "may drop what is forwarded"),
    ("forward", [f"meta l4proto tcp ct mark {MARK} accept", "drop"], {}, "may drop what is"),
    ("prerouting", ["ip saddr 203.0.113.1 drop"], {}, "may drop what is forwarded"),
    (
        "postrouting",
        ["ip daddr 203.0.113.1 drop"],
        {"priority": "300"},
        "may drop what is forwarded",
    ),
    ("input", ["ip saddr 203.0.113.0/24 drop"], {}, "may drop what comes to the proxy"),
    ("output", ["meta skuid 1000 reject"], {}, "may drop what comes to the proxy"),
    ("prerouting", ["ct mark set 7"], {"priority": "-150"}, "may change what conntrack"),
    ("output", ["udp dport 53 notrack"], {"priority": "-300"}, "may change what conntrack"),
]


@in_own_network
@pytest.mark.parametrize(("hook", "rules", "settings", "words"), CHAINS)
async def test_chains_of_others_that_may_be_in_the_way(hook, rules, settings, words):
    world = auto_world()
    add_chain(hook, *rules, **settings)
    async with world as here:
        _, connection, client = await near(here)
        assert connection.choice.path.value == "splice"
        assert f"the chain inet strict at_{hook} {words}" in connection.choice.reason
        assert await carries(*await come(here, connection, client, NEAR))
        assert tables() == ["strict"]


@in_own_network
@pytest.mark.parametrize(
    ("hook", "rules", "settings"),
    [
        ("forward", ['counter accept comment "no drop"', 'log prefix "drop " accept'], {}),
        ("forward", ["ip saddr 192.0.2.7 jump one"], {}),
        ("prerouting", ["iif lo ip saddr 203.0.113.1 drop"], {"priority": "raw"}),
        ("postrouting", ["masquerade"], {"kind": "nat", "priority": "srcnat"}),
        ("prerouting", ["tcp dport 21 redirect to :7000"], {"kind": "nat", "priority": "dstnat"}),
        ("forward", [f"ct mark {MARK} counter accept", "drop"], {}),
        ("forward", [f"ct mark {MARK} accept"], {"policy": "drop"}),
    ],
)
async def test_chains_of_others_that_are_not_in_the_way(hook, rules, settings):
    world = auto_world()
    add_chain(hook, *rules, **settings)
    async with world as here:
        _, connection, client = await near(here)
        assert connection.choice.path.value == "kernel"
        assert await carries(*await come(here, connection, client, NEAR))


@in_own_network
async def test_an_asked_chain_is_looked_into():
    world = auto_world()
    add_chain("forward", "jump one")
    shell("nft 'add chain inet strict two; add rule inet strict one goto two'")
    async with world as here:
        assert reason(here) == ""
        shell("nft 'add rule inet strict two drop'")
        await eventually(lambda: reason(here))
        assert "inet strict at_forward may drop what is forwarded" in reason(here)


@in_own_network
async def test_where_forwarding_is_arranged_for_the_hosts_own_chains_do_not_count():
    world = auto_world()
    add_chain("input", "tcp dport 22 accept", policy="drop")
    add_chain("forward", f"ct mark {MARK} accept", policy="drop")
    async with world as here:
        assert reason(here) == ""
        shell("nft flush chain inet strict at_forward")
        await eventually(lambda: "at_forward may drop" in reason(here))


@in_own_network
async def test_what_is_required_is_done_and_warned_of(logged):
    world = auto_world(datapath=DatapathConfig(kernel="require"))
    add_chain("forward", "reject")
    async with world as here:
        _, connection, _ = await near(here)
        assert connection.choice.path.value == "kernel"
        warned = [line for line in logged if line["event"] == "connections may be dropped"]
        assert len(warned) == 1
        shell("nft delete table inet strict")
        await asyncio.sleep(0.3)
        add_chain("forward", "drop")
        await eventually(lambda: [e["event"] for e in logged].count(warned[0]["event"]) == 2)
