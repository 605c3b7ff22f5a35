"""Rules, grants, quotas, times and ledger in a configuration file: right, wrong, and in words."""

import pytest

from fwproxy.address import Transport
from fwproxy.bounds import PortRange
from fwproxy.config.config import LedgerConfig, TimesConfig
from fwproxy.config.file import parse
from fwproxy.errors import ConfigError
from fwproxy.policy.rules import Rule, RuleKind, RuleLimits
from fwproxy.policy.scope import Scope
from fwproxy.policy.times import WeekTime
from fwproxy.service.overview import overview, warnings

FULL = """\
[[listeners]]
name = "a"
bind = "127.0.0.1:2121"
upstream = "192.0.2.1:21"
protocol = "ftp"
use_filters = ["ftp"]
[listeners.secondary]
calls = ["bind", "redirect"]
peers = ["server", "inner"]

[networks.inner]
prefixes = ["10.0.0.0/8"]

[networks.outer]
prefixes = ["0.0.0.0/0"]

[[relations]]
from = "inner"
to = "outer"
kind = "nat"

[[rules]]
name = "inward"
action = "allow"
kind = "publish"
proxy_mode = "client-address"
protocols = ["ftp"]
from = ["outer"]
to = ["inner"]
times = ["Mon-Fri 08:00-18:00", "Sun"]
use_filters = []
[rules.secondary]
max_permissions = 4
transports = ["tcp"]
peers = ["client", "192.0.2.0/24"]
ports = "40000-40099"
timeout = 30
[rules.limits]
max_connections = 5
max_permissions = 6
connection_rate = 2.5
connection_burst = 7

[[rules]]
action = "deny"
kind = "publish"

[times]
zone = "Europe/Berlin"

[ledger]
history = 5
file = "ledger.jsonl"
queue = 10
"""


def test_a_file_becomes_the_same_rules_as_in_python():
    config = parse(FULL)
    assert config.listeners[0].use_filters == ("ftp",)
    assert config.listeners[0].secondary == Scope(
        calls=("bind", "redirect"), peers=("server", "inner")
    )
    assert config.rules == (
        Rule(
            allow=True,
            name="inward",
            kind=RuleKind.PUBLISH,
            proxy_mode="client-address",
            protocols=("ftp",),
            sources=("outer",),
            targets=("inner",),
            times=(WeekTime.parse("Mon-Fri 08:00-18:00"), WeekTime.parse("Sun")),
            use_filters=(),
            secondary=Scope(
                4, (Transport.TCP,), ("client", "192.0.2.0/24"), PortRange(40000, 40099), 30.0
            ),
            limits=RuleLimits(5, 6, 2.5, 7),
        ),
        Rule(allow=False, kind=RuleKind.PUBLISH),
    )
    assert config.times == TimesConfig("Europe/Berlin")
    assert config.ledger == LedgerConfig(5, "ledger.jsonl", 10)


def test_check_says_all_of_it_in_words():
    lines = list(overview(parse(FULL)))
    for line in [
        "  a: forward, ftp, on 127.0.0.1:2121 to 192.0.2.1:21",
        "    filters: ftp, instead of those of the protocol",
        (
            "    filters may open secondary connections: with server, inner; by bind_for_client, "
            "redirect_connections"
        ),
        "  inner to outer: nat",
        "  inward: publish, allow ftp from outer to inner at Mon-Fri 08:00-18:00 and Sun",
        "    the server sees the address of the client",
        "    filters: none, instead of those of the protocol",
        (
            "    filters may open secondary connections: at most 4 permissions at a time; only "
            "tcp; with client, 192.0.2.0/24; on ports 40000-40099; unused for at most 30 seconds"
        ),
        "    at most 5 connections; 6 permissions; 2.5 new connections per second, 7 at once",
        "  2: publishing, deny every protocol",
        "  zone Europe/Berlin",
        "  written to ledger.jsonl, while at most 10 lines wait for the disk",
        "  the last 5 permissions that have ended are remembered",
    ]:
        assert line in lines


MISTAKES = [
    ('["bind", "redirect"]', '["bnd"]', "calls, item 1: must be one of bind, redirect, connect, "),
    ('"inner"]\n\n', '"iner"]\n\n', "'iner' is no prefix, and none of client, server, inner, o"),
    ('["tcp"]\npeers', '["sctp"]\npeers', "transports, item 1: must be one of tcp, udp"),
    ("max_permissions = 4", "max_permissions = 0", "max_permissions: must be more than 0"),
    ("timeout = 30", "timeout = -1", "timeout: must be more than 0, not -1"),
    ('"40000-40099"', '"39999-40099"', "ports: 39999-40099 is not within 40000-49999"),
    ("max_connections = 5", "max_conections = 5", 'unknown key; did you mean "max_connections"?'),
    ("connection_rate = 2.5", "connection_rate = 0", "connection_rate: must be more than 0"),
    ('"Sun"]', '"Sum"]', "'Sum' is no day"),
    ('"Sun"]', '"25:00-26:00"]', "times, item 2: must be like"),
    ('"publish"\nproxy', '"publsh"\nproxy', "kind: must be one of access, publish"),
    ('"client-address"', '"client"', "proxy_mode: must be "),
    ('kind = "publish"\nproxy', "proxy", 'proxy_mode: is for rules with kind = "publish"'),
    ('action = "allow"', 'action = "deny"', "secondary: is for rules that allow something"),
    ('"Europe/Berlin"', '"Europe/Berln"', "zone: there is no time zone 'Europe/Berln'"),
    ("history = 5", "history = -1", "history: must not be negative"),
    ("queue = 10", "queue = 0", "queue: must be more than 0"),
    ('"0.0.0.0/0"', '"10.0.0.0/8"', "the network inner has the prefix 10.0.0.0/8 too"),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES, ids=[said for *_, said in MISTAKES])
def test_a_mistake_is_named_with_its_place(old, new, said):
    assert FULL.count(old) >= 1
    with pytest.raises(ConfigError) as caught:
        parse(FULL.replace(old, new, 1))
    assert said in str(caught.value)


def of_rule(text):
    """Return the warnings about the file with another rule."""
    begin, end = FULL.index("[[rules]]"), FULL.index("[times]")
    return list(warnings(parse(FULL[:begin] + f"[[rules]]\n{text}\n" + FULL[end:])))


@pytest.mark.parametrize(
    ("rule", "warning"),
    [
        ('action = "allow"\nfrom = ["outer"]\nto = ["inner"]', 'it needs kind = "publish"'),
        ('action = "allow"\nfrom = ["inner"]\nto = ["outer"]', None),
        ('action = "allow"\nkind = "publish"\nfrom = ["outer"]\nto = ["inner"]', None),
        ('action = "allow"', None),
    ],
)
def test_a_rule_that_the_relations_make_void_is_a_warning(rule, warning):
    found = [each for each in of_rule(rule) if each.startswith("rule ")]
    assert bool(found) is (warning is not None)
    assert all(warning in each for each in found)


def test_networks_without_a_relation_make_a_rule_void():
    begin = FULL.index("[[relations]]")
    apart = '[networks.apart]\nprefixes = ["192.0.2.0/24"]\n\n'
    text = (FULL[:begin] + apart + FULL[begin:]).replace('["outer"]', '["apart"]')
    (found,) = [each for each in warnings(parse(text)) if each.startswith("rule ")]
    assert found == "rule inward allows nothing: its networks have no relation ([[relations]])"


def test_an_own_address_outside_of_its_network_is_a_warning():
    prefix = 'prefixes = ["10.0.0.0/8"]'
    text = FULL.replace(prefix, f'{prefix}\naddresses = ["192.0.2.9"]')
    (found,) = [each for each in warnings(parse(text)) if "proxy's address" in each]
    assert found == "the proxy's address 192.0.2.9 of the network inner is in outer"
