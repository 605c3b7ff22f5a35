"""Which network a host is in, how two of them are related, and which addresses face them."""

import ipaddress
import random

import pytest

from fwproxy.address import IpFilter
from fwproxy.errors import InvalidArgumentError
from fwproxy.policy.networks import Network, NetworkRelation, Networks, Relation

NAT, ROUTE, NONE = NetworkRelation.NAT, NetworkRelation.ROUTE, NetworkRelation.NONE
INSIDE = Network("inside", ("10.0.0.0/8", "fd00::/8"), ("10.0.0.1", "10.0.0.2", "fd00::1"))
LAB = Network("lab", ("10.77.0.0/16",))
OUTSIDE = Network("outside", ("0.0.0.0/0",), ("198.51.100.1",))
NETWORKS = (OUTSIDE, INSIDE, LAB)
RELATIONS = (Relation("inside", "outside", NAT), Relation("inside", "lab", ROUTE))


def test_a_network_has_not_the_hosts_that_a_longer_prefix_gives_to_another():
    made = Networks(NETWORKS)
    assert made.hosts_of("outside") == IpFilter.only("0.0.0.0/0").exclude("10.0.0.0/8")
    assert made.hosts_of("inside") == IpFilter.only("10.0.0.0/8", "fd00::/8").exclude(
        "10.77.0.0/16"
    )


def test_ten_thousand_prefixes_name_the_right_network():
    rng = random.Random(3)
    inner = sorted({(rng.getrandbits(24) << 8, 24) for _ in range(6000)})
    outer = sorted({(rng.getrandbits(12) << 20, 12) for _ in range(2000)})
    wide = [(n << 24, 8) for n in range(256)]
    names = {prefix: f"n{number}" for number, prefix in enumerate([*inner, *outer, *wide])}
    made = Networks(
        Network(name, (f"{ipaddress.IPv4Address(low)}/{length}",))
        for (low, length), name in names.items()
    )
    for _ in range(2000):
        number = rng.getrandbits(32)
        longest = next(
            names[low, length]
            for length in (24, 12, 8)
            if (low := number >> (32 - length) << (32 - length), length) in names
        )
        assert made.of(str(ipaddress.IPv4Address(number))) == longest


def test_the_proxys_own_host_is_routed_to_every_network():
    made = Networks(NETWORKS[1:], RELATIONS[1:])
    assert made.relation("127.0.0.1", "10.0.0.8") is ROUTE
    assert made.relation("10.0.0.8", "::1") is ROUTE
    assert made.relation("127.0.0.1", "127.0.0.2") is ROUTE
    assert made.relation("127.0.0.1", "192.0.2.1") is NONE
    named = Networks([Network("loop", ("127.0.0.0/8",)), LAB], [Relation("lab", "loop", NAT)])
    assert named.relation("127.0.0.1", "10.77.0.8") is NetworkRelation.REVERSE_NAT


def test_the_address_that_faces_a_network_is_of_the_wanted_version():
    made = Networks(NETWORKS)
    assert made.facing("inside", 4) == "10.0.0.1"
    assert made.facing("inside", 6) == "fd00::1"
    assert made.facing("inside", 4, prefer="10.0.0.2") == "10.0.0.2"
    assert made.facing("inside", 4, prefer="10.0.0.3") == "10.0.0.1"
    assert made.facing("outside", 6) is None
    assert made.facing("lab", 4) is made.facing(None, 4) is None


def test_beyond_a_network_are_those_that_it_reaches_nat_first():
    made = Networks(NETWORKS, (RELATIONS[1], RELATIONS[0]))
    assert made.beyond("inside") == ["outside", "lab"]
    assert made.beyond("lab") == ["inside"]
    assert made.beyond("outside") == made.beyond(None) == []


@pytest.mark.parametrize(
    ("networks", "relations", "translates"),
    [
        (NETWORKS, RELATIONS, True),
        (NETWORKS, RELATIONS[1:], False),
        (NETWORKS, (), False),
        ((INSIDE, LAB), (Relation("inside", "lab", NAT),), True),
        ((OUTSIDE, LAB), (Relation("outside", "lab", ROUTE),), False),
        ((LAB, Network("bare", ("192.0.2.0/24",))), (Relation("lab", "bare", NAT),), False),
    ],
)
def test_own_addresses_matter_across_nat(networks, relations, translates):
    assert Networks(networks, relations).translates is translates


def test_one_prefix_is_in_one_network():
    twice = [Network("a", ("10.0.0.0/8",)), Network("b", ("10.0.0.0/8",))]
    with pytest.raises(
        InvalidArgumentError, match=r"'a' and 'b' both have the prefix 10\.0\.0\.0/8"
    ):
        Networks(twice)
    assert Networks([Network("a", ("10.0.0.0/8", "10.0.0.0/8"))]).of("10.0.0.1") == "a"
