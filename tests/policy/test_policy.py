"""Networks, relations and rules: pure decisions."""

import ipaddress
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.address import IpFilter
from fwproxy.errors import (
    InvalidArgumentError,
    NetworkRulesDeniedError,
    NotAuthenticatedError,
    PolicyRulesDeniedError,
)
from fwproxy.policy.policy import (
    ANY_NETWORK,
    AccessRequest,
    Network,
    NetworkRelation,
    Policy,
    Relation,
    Rule,
)
from fwproxy.policy.rules import RuleKind
from fwproxy.policy.times import WeekTime
from fwproxy.protocol import FTP, TCP, UDP

INSIDE = Network("inside", ("10.0.0.0/8", "fd00::/8"))
LAB = Network("lab", ("10.77.0.0/16",))
OUTSIDE = Network("outside", ("0.0.0.0/0", "::/0"))
NETWORKS = (OUTSIDE, INSIDE, LAB)
NAT, ROUTE = NetworkRelation.NAT, NetworkRelation.ROUTE


def decide(policy, protocol=FTP, client="10.0.0.8", server="198.51.100.9", user=None):
    return policy.decide(AccessRequest(protocol, client, server, user))


def test_without_any_configuration_everything_is_one_network_and_allowed():
    policy = Policy()
    assert policy.network_of("198.51.100.9") == policy.network_of("::1") == ANY_NETWORK
    assert policy.hosts_of(ANY_NETWORK) == IpFilter.everyone()
    assert policy.relation("10.0.0.8", "198.51.100.9") is ROUTE
    assert decide(policy).allowed


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.8", "inside"), ("10.77.1.2", "lab"), ("192.0.2.1", "outside"),
        ("fd00::1", "inside"), ("2001:db8::1", "outside"),
    ],
)  # fmt: skip
def test_the_longest_prefix_names_the_network(host, network):
    assert Policy(NETWORKS).network_of(host) == network


def test_a_host_may_be_in_no_network():
    policy = Policy((INSIDE,))
    assert policy.network_of("192.0.2.1") is None
    assert policy.relation("10.0.0.1", "192.0.2.1") is NetworkRelation.NONE
    assert policy.hosts_of(None) == IpFilter()
    assert policy.hosts_of("inside") == IpFilter.only("10.0.0.0/8", "fd00::/8")


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_networks_against_a_plain_search(prefixes, number):
    made = {
        str(ipaddress.ip_network((n, length), strict=False)): f"n{i}"
        for i, (n, length) in enumerate(prefixes)
    }
    policy = Policy([Network(name, (prefix,)) for prefix, name in made.items()])
    host = ipaddress.IPv4Address(number)
    holding = [ipaddress.ip_network(p) for p in made if host in ipaddress.ip_network(p)]
    best = max(holding, key=lambda prefix: prefix.prefixlen, default=None)
    expected = (made[str(best)] if best else None) if made else ANY_NETWORK
    assert policy.network_of(str(host)) == expected


def test_relations_hold_in_their_direction_and_back():
    policy = Policy(
        NETWORKS, [Relation("inside", "outside", NAT), Relation("inside", "lab", ROUTE)]
    )
    assert policy.relation("10.0.0.8", "192.0.2.1") is NAT
    assert policy.relation("192.0.2.1", "10.0.0.8") is NetworkRelation.REVERSE_NAT
    assert policy.relation("10.0.0.8", "10.77.0.1") is ROUTE
    assert policy.relation("10.77.0.1", "10.0.0.8") is ROUTE
    assert policy.relation("10.0.0.8", "10.1.0.8") is NetworkRelation.SAME
    assert policy.relation("10.77.0.1", "192.0.2.1") is NetworkRelation.NONE


def test_the_first_matching_rule_decides_and_names_itself():
    policy = Policy(
        NETWORKS,
        rules=[
            Rule(allow=False, sources=("lab",)),
            Rule(allow=True, protocols=("ftp",), sources=("lab", "inside"), name="ftp out"),
            Rule(allow=False, protocols=("ftp",)),
            Rule(allow=True, targets=("lab",), users=("ann",)),
        ],
    )
    assert decide(policy).allowed
    assert decide(policy).rule == "ftp out"
    assert decide(policy, client="10.77.0.1").rule == "rule 1"
    assert decide(policy, client="192.0.2.1").rule == "rule 3"
    assert not decide(policy, TCP, server="10.77.0.1").allowed
    assert decide(policy, TCP, server="10.77.0.1", user="ann").rule == "rule 4"


@pytest.mark.parametrize("networks", [(), NETWORKS])
def test_no_match_denies(networks):
    policy = Policy(networks, rules=[Rule(allow=True, protocols=("tcp",))])
    answer = decide(policy)
    assert not answer.allowed
    assert answer.rule == "no rule matches"


def test_networks_without_rules_allow_nothing():
    assert not decide(Policy(NETWORKS)).allowed


@pytest.mark.parametrize(
    ("relations", "rules"),
    [
        ([Relation("inside", "moon", NAT)], []),
        ([Relation("moon", "inside", NAT)], []),
        ([], [Rule(allow=True, sources=("moon",))]),
        ([], [Rule(allow=True, targets=("moon",))]),
    ],
)
def test_an_unknown_network_is_an_error_that_names_it(relations, rules):
    with pytest.raises(InvalidArgumentError, match="'moon'"):
        Policy(NETWORKS, relations, rules)


@pytest.mark.parametrize(
    "values", [{"prefixes": ("10.0.0.1/8",)}, {"prefixes": ("x",)}, {"addresses": ("10.0.0.0/8",)}]
)
def test_a_network_is_made_of_prefixes_and_addresses(values):
    with pytest.raises(InvalidArgumentError):
        Network("wrong", **values)


RELATIONS = (Relation("inside", "outside", NAT), Relation("inside", "lab", ROUTE))
ANYTHING = Rule(allow=True, name="anything")


@pytest.mark.parametrize(
    ("client", "server", "allowed"),
    [
        ("10.0.0.8", "192.0.2.1", True),
        ("10.0.0.8", "10.0.0.9", True),
        ("10.77.0.8", "10.0.0.8", True),
        ("10.77.0.8", "192.0.2.1", False),
        ("192.0.2.1", "10.77.0.8", False),
    ],
)
def test_networks_without_a_relation_are_kept_apart(client, server, allowed):
    answer = decide(Policy(NETWORKS, RELATIONS, [ANYTHING]), client=client, server=server)
    assert answer.allowed is allowed
    if not allowed:
        assert answer.error is NetworkRulesDeniedError
        error = answer.denial(f"{server}:21")
        assert isinstance(error, NetworkRulesDeniedError)
        assert f"no relation between {client} in" in str(error)
    assert decide(Policy(NETWORKS, (), [ANYTHING]), client=client, server=server).allowed


def test_a_host_in_no_network_has_no_relation():
    policy = Policy((INSIDE, LAB), RELATIONS[1:], [ANYTHING])
    answer = decide(policy, server="192.0.2.1")
    assert not answer.allowed
    assert "192.0.2.1 in no network" in answer.rule
    assert decide(Policy((INSIDE, LAB), (), [ANYTHING]), server="192.0.2.1").allowed


def test_against_the_direction_of_nat_only_publishing_rules_allow():
    inwards = {"client": "192.0.2.1", "server": "10.0.0.8"}
    publish = Rule(allow=True, protocols=("ftp",), kind=RuleKind.PUBLISH, name="publish ftp")
    answer = decide(Policy(NETWORKS, RELATIONS, [ANYTHING]), **inwards)
    assert not answer.allowed
    assert answer.error is NetworkRulesDeniedError
    assert (
        answer.rule == "anything does not publish, and outside is outside of the NAT before inside"
    )
    assert decide(Policy(NETWORKS, RELATIONS, [ANYTHING, publish]), **inwards).rule == "publish ftp"
    deny = Rule(allow=False, name="not him")
    assert decide(Policy(NETWORKS, RELATIONS, [deny, publish]), **inwards).rule == "not him"
    assert not decide(Policy(NETWORKS, RELATIONS, [ANYTHING, publish]), TCP, **inwards).allowed
    # Where nothing is translated it allows as any other rule does.
    assert decide(Policy(NETWORKS, (), [publish]), **inwards).allowed


def test_a_rule_holds_at_its_times():
    now = [datetime(2026, 3, 6, 17, 59, tzinfo=UTC)]
    office = Rule(allow=True, times=(WeekTime.parse("Mon-Fri 08:00-18:00"),), name="office")
    night = Rule(allow=True, times=(WeekTime.parse("Sat 02:00-04:00"),), name="night")
    policy = Policy(rules=[office, night], clock=lambda: now[0])
    assert decide(policy).rule == "office"
    now[0] += timedelta(minutes=1)
    assert not decide(policy).allowed
    now[0] += timedelta(hours=8)
    assert decide(policy).rule == "night"


def test_the_clock_is_asked_only_for_rules_with_times_that_match_otherwise():
    def never():
        raise AssertionError("nobody needs to know the time")

    timed = Rule(allow=False, protocols=("tcp",), times=(WeekTime.parse("Mon"),))
    assert decide(Policy(rules=[timed, ANYTHING], clock=never)).allowed


def test_who_has_not_authenticated_is_told_so():
    ann = Rule(allow=True, users=("ann",), name="ann's")
    policy = Policy(rules=[ann])
    answer = decide(policy)
    assert answer.error is NotAuthenticatedError
    assert "ann's is for users" in answer.rule
    assert decide(policy, user="bob").rule == "no rule matches"
    assert decide(policy, user="ann").allowed
    assert decide(Policy(rules=[ann, ANYTHING])).rule == "anything"
    assert decide(Policy(rules=[attrs.evolve(ann, allow=False)])).error is PolicyRulesDeniedError


def test_only_a_rule_that_says_more_than_yes_has_terms():
    rules = [
        Rule(allow=False, protocols=("tcp",)),
        Rule(allow=True, protocols=("udp",)),
        Rule(allow=True, use_filters=()),
    ]
    policy = Policy(rules=rules)
    assert decide(policy, TCP).number is None
    assert decide(policy, UDP).number is None
    assert decide(policy).number == 2
