"""Configurations are checked when they are made; the file they come from is another test's."""

import math

import attrs
import pytest

from fwproxy import (
    Config,
    Endpoint,
    HostName,
    ListenerConfig,
    ListenerKind,
    ProtocolDefinition,
    Transport,
)
from fwproxy.config.config import DatapathConfig, Limits, PortRange, SecondaryConfig
from fwproxy.config.resolver import ResolverConfig
from fwproxy.errors import ConfigError, InvalidArgumentError
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule
from fwproxy.protocol import BUILT_IN

HERE, THERE = Endpoint("127.0.0.1", 2121), Endpoint("127.0.0.1", 2100)
FORWARD = ListenerConfig("ftp", HERE, "ftp", upstream=THERE)


def test_a_listener_with_an_upstream_is_enough():
    config = Config([FORWARD])
    assert config.listeners == (FORWARD,)
    assert config.policy().is_default


@pytest.mark.parametrize(
    ("listeners", "key", "problem"),
    [
        ([FORWARD, FORWARD], "name", "another listener has this name"),
        ([attrs.evolve(FORWARD, upstream=None)], "upstream", "needs an upstream"),
        ([attrs.evolve(FORWARD, kind=ListenerKind.GATEWAY)], "upstream", "has no upstream"),
        ([attrs.evolve(FORWARD, kind=ListenerKind.REDIRECT)], "upstream", "has no upstream"),
        ([attrs.evolve(FORWARD, protocol="ftq")], "protocol", "ftp"),
        ([attrs.evolve(FORWARD, protocol=None)], "protocol", "a forward listener needs a protocol"),
        ([attrs.evolve(FORWARD, source="client")], "source", "cannot keep the client's address"),
        ([attrs.evolve(FORWARD, users="users")], "users", "nobody can log in"),
        ([attrs.evolve(FORWARD, proxy_protocol="accept")], "trusted", "must be said"),
        ([attrs.evolve(FORWARD, protocol="udp", send_proxy=2)], "protocol", "have no PROXY header"),
        ([attrs.evolve(FORWARD, advertise="::1")], "advertise", "must be an IPv4 address"),
    ],
)
def test_a_listener_that_does_not_fit_is_named_with_its_place(listeners, key, problem):
    with pytest.raises(ConfigError, match="listener 'ftp'") as caught:
        Config(listeners)
    (place, text), *others = caught.value.problems
    assert place == ("listeners", len(listeners) - 1, key)
    assert problem in text
    assert not others


@pytest.mark.parametrize(
    ("host", "rules", "open_relay"),
    [
        ("127.0.0.1", (), False),
        ("::1", (), False),
        ("0.0.0.0", (), True),
        ("192.0.2.1", (), True),
        ("192.0.2.1", (Rule(allow=True, protocols=("ftp",)),), False),
    ],
)
def test_a_gateway_without_rules_stays_on_loopback(host, rules, open_relay):
    gateway = ListenerConfig("gate", Endpoint(host, 21), "ftp", ListenerKind.GATEWAY)
    if not open_relay:
        assert Config([gateway], rules=rules).listeners == (gateway,)
        return
    with pytest.raises(ConfigError, match="open relay") as caught:
        Config([gateway], rules=rules)
    assert 'protocols = ["ftp"]' in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"rules": [Rule(allow=True, protocols=("ftq",))]}, ("rules", 0, "protocols")),
        ({"rules": [Rule(allow=True, sources=("moon",))]}, ("rules", 0, "from")),
        ({"rules": [Rule(allow=True, targets=("moon",))]}, ("rules", 0, "to")),
        ({"relations": [Relation("in", "moon", NetworkRelation.NAT)]}, ("relations", 0, "to")),
        ({"relations": [Relation("moon", "in", NetworkRelation.NAT)]}, ("relations", 0, "from")),
    ],
)
def test_rules_and_relations_name_what_is_there(settings, place):
    with pytest.raises(ConfigError) as caught:
        Config([FORWARD], networks=[Network("in", ("10.0.0.0/8",))], **settings)
    assert [found for found, _ in caught.value.problems] == [place]


@pytest.mark.parametrize("kind", ListenerKind)
def test_datagrams_of_one_protocol_come_to_forward_and_tproxy(kind):
    upstream = THERE if kind is ListenerKind.FORWARD else None
    listener = ListenerConfig("own", HERE, "own", kind, upstream)
    protocols = [ProtocolDefinition("own", Transport.UDP)]
    if kind in {ListenerKind.FORWARD, ListenerKind.TPROXY}:
        config = Config([listener], protocols=protocols, rules=[Rule(allow=True)])
        assert config.listeners == (listener,)
        return
    with pytest.raises(ConfigError, match=f"a {kind.value} listener cannot take datagrams"):
        Config([listener], protocols=protocols)


OPEN = (ListenerKind.SOCKS, ListenerKind.HTTP, ListenerKind.MIXED, ListenerKind.TPROXY)
ANY_PORT = (*OPEN, ListenerKind.REDIRECT)


@pytest.mark.parametrize("kind", ANY_PORT)
def test_a_listener_for_every_port_needs_no_protocol(kind):
    listener = ListenerConfig("all", HERE, kind=kind)
    rules = [Rule(allow=True)]
    own = ProtocolDefinition("own", ports=(7000,), filters=("own",))
    config = Config([listener], protocols=[*BUILT_IN, own], rules=rules)
    assert [each.name for each in config.protocols_of(listener)] == ["ftp", "own", "tcp", "udp"]
    assert config.filters_of(listener) == ("ftp", "own")


def test_no_loopback_address_keeps_anybody_from_a_tproxy_listener():
    """The rules of nftables lead packets to it, wherever it is bound."""
    listener = ListenerConfig("all", Endpoint("127.0.0.1", 1080), kind=ListenerKind.TPROXY)
    with pytest.raises(ConfigError, match="open relay") as caught:
        Config([listener])
    assert "loopback" not in str(caught.value)
    assert Config([listener], rules=[Rule(allow=True)])


@pytest.mark.parametrize("kind", OPEN)
def test_whoever_may_go_anywhere_needs_rules(kind):
    listener = ListenerConfig("all", Endpoint("0.0.0.0", 1080), kind=kind)
    with pytest.raises(ConfigError, match="open relay"):
        Config([listener])
    assert Config([listener], rules=[Rule(allow=False)]).listeners == (listener,)


@pytest.mark.parametrize(
    ("definition", "key", "problem"),
    [
        (ProtocolDefinition("tcp"), "name", "another protocol has this name"),
        (ProtocolDefinition("own", secondary=("own-dat",)), "secondary", "there is no protocol"),
    ],
)
def test_a_protocol_that_does_not_fit_is_named_with_its_place(definition, key, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        Config([FORWARD], protocols=[*BUILT_IN, definition])
    assert [place for place, _ in caught.value.problems] == [("protocols", len(BUILT_IN), key)]


def test_a_protocol_may_have_itself_and_others_as_secondary_ones():
    own = ProtocolDefinition("own", secondary=("own", "own-data", "udp"), ports=(1, 65535))
    data = ProtocolDefinition("own-data")
    assert Config([FORWARD], protocols=[own, data, *BUILT_IN]).protocols[0] is own


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_protocol_has_ports_that_there_are(port):
    with pytest.raises(InvalidArgumentError, match=f"port {port} is outside 1-65535"):
        ProtocolDefinition("own", ports=(21, port))


@pytest.mark.parametrize("host", ["here", "", "10.0.0.1:21", "0.0.0.0", "::", "224.0.0.1"])
def test_what_is_advertised_can_be_connected_to(host):
    with pytest.raises(ConfigError, match="advertise"):
        attrs.evolve(FORWARD, advertise=host)


def test_all_problems_are_told_at_once():
    wrong = attrs.evolve(FORWARD, protocol="x", upstream=None)
    with pytest.raises(ConfigError) as caught:
        Config([wrong], rules=[Rule(allow=True, protocols=("y",))])
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("first", "last", "problem"),
    [(0, 10, "1-65535"), (1, 65536, "1-65535"), (10, 9, "ends before it starts")],
)
def test_a_port_range_is_within_the_ports_and_goes_up(first, last, problem):
    with pytest.raises(ConfigError, match=problem):
        PortRange(first, last)


def test_a_port_range_has_both_its_ends():
    assert len(PortRange(7, 7)) == 1
    assert len(PortRange(1, 65535)) == 65535
    assert str(PortRange(7, 9)) == "7-9"


POSITIVE = [
    *((Limits, field.name) for field in attrs.fields(Limits)
      if field.name not in {"drain_timeout", "stop_timeout", "login_memory", "name_memory"}),
    (SecondaryConfig, "timeout"), (SecondaryConfig, "backlog"), (DatapathConfig, "pipe_size"),
    (ResolverConfig, "timeout"), (ResolverConfig, "attempt_timeout"),
]  # fmt: skip
NOT_NEGATIVE = [
    (Limits, "drain_timeout"), (Limits, "stop_timeout"), (Limits, "login_memory"),
    (Limits, "name_memory"),
    (DatapathConfig, "max_pipes"), (DatapathConfig, "bulk_threshold"), (ResolverConfig, "max_ttl"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), POSITIVE)
@pytest.mark.parametrize("value", [0, -1])
def test_a_bound_of_nothing_is_no_bound(kind, name, value):
    with pytest.raises(ConfigError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), NOT_NEGATIVE)
def test_a_bound_that_may_be_nothing_is_not_negative(kind, name):
    assert getattr(kind(**{name: 0}), name) == 0
    with pytest.raises(ConfigError, match=name):
        kind(**{name: -1})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_time_out_comes_some_day(value):
    with pytest.raises(ConfigError, match="idle_timeout"):
        Limits(idle_timeout=value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel": "perhaps"},
        {"kernel_table": "9 lives"},
        {"kernel_table": "x" * 33},
        {"kernel_mark": 0},
        {"kernel_mark": 1 << 32},
        {"kernel_lease": 1},
        {"max_pinholes": 0},
    ],
)
def test_the_kernel_path_has_sound_settings(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DatapathConfig(**wrong)


def test_a_configuration_cannot_be_changed():
    config = Config([FORWARD], filters={"ftp": {"read_only": True}})
    with pytest.raises(TypeError):
        config.filters["ftp"]["read_only"] = False
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.listeners = ()


def test_an_upstream_may_be_a_name():
    config = Config([attrs.evolve(FORWARD, upstream=HostName("ftp.example", 21))])
    assert str(config.listeners[0].upstream) == "ftp.example:21"
