"""Shared redirections without sockets: what may be shared, and which port it gets."""

import json
import random
import stat

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from fwproxy import Config, Endpoint, HostName, ListenerConfig
from fwproxy.address import parse_destination
from fwproxy.bounds import PortRange
from fwproxy.config.config import SecondaryConfig
from fwproxy.config.file import parse
from fwproxy.config.shared import SharedAllow, SharedConfig, SharedTarget
from fwproxy.errors import ConfigError
from fwproxy.shared.memory import PortMemory
from fwproxy.shared.ports import AllowList, PortRule, SharedKey, canonical

KAFKA = PortRange(9092, 9094)


@pytest.fixture
def log():
    """Every line that is logged."""
    before = structlog.get_config()
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        yield lines
    structlog.configure(**before)


def key(target, listener="cluster", protocol="kafka"):
    return SharedKey(listener, protocol, canonical(parse_destination(target)))


@pytest.mark.parametrize(
    ("target", "spelled"),
    [
        (HostName("Broker-1.Example.", 9092), HostName("broker-1.example", 9092)),
        (HostName("10.0.0.1", 9092), Endpoint("10.0.0.1", 9092)),
        (HostName("10.0.0.1.", 9092), Endpoint("10.0.0.1", 9092)),
        (Endpoint("::ffff:10.0.0.1", 9092), Endpoint("10.0.0.1", 9092)),
        (Endpoint("2001:DB8::1", 9092), Endpoint("2001:db8::1", 9092)),
    ],
)
def test_one_target_has_one_spelling(target, spelled):
    assert canonical(target) == spelled
    assert canonical(spelled) == spelled


ALLOW = AllowList(
    SharedConfig(
        allow=(
            SharedAllow(names=("*.kafka.internal", "Node"), ports=(KAFKA,)),
            SharedAllow(names=("*.in.prefix",), prefixes=("10.0.0.0/8",), ports=(KAFKA,)),
            SharedAllow(prefixes=("192.0.2.0/24", "2001:db8::/32"), ports=(KAFKA,)),
            SharedAllow(prefixes=("198.51.100.7/32",)),
        ),
        targets=(SharedTarget(HostName("One.Example", 1234), 50001),),
    )
)


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("b1.kafka.internal:9092", True),
        ("B1.KAFKA.internal:9094", True),
        ("b1.kafka.internal:9095", False),
        ("b1.kafka.internal:22", False),
        ("kafka.internal:9092", False),
        ("b1.kafka.internal.evil.example:9092", False),
        ("evilkafka.internal:9092", False),
        ("node:9092", True),
        ("nodes:9092", False),
        ("x.in.prefix:9092", True),
        ("192.0.2.9:9092", True),
        ("192.0.3.9:9092", False),
        ("10.1.2.3:9092", True),
        ("[2001:db8::9]:9093", True),
        ("[2001:db9::9]:9093", False),
        ("198.51.100.7:1", True),
        ("198.51.100.7:65535", True),
        ("198.51.100.8:9092", False),
        ("one.example:1234", True),
        ("one.example:1235", False),
        ("127.0.0.1:9092", False),
    ],
)
def test_only_what_is_listed_may_be_shared(target, allowed):
    assert ALLOW.is_allowed(canonical(parse_destination(target))) is allowed


@pytest.mark.parametrize(
    ("target", "address", "admitted"),
    [
        ("b1.kafka.internal:9092", "10.20.0.1", True),
        ("b1.kafka.internal:9092", "2001:db8::1", True),
        ("b1.kafka.internal:9092", "127.0.0.1", False),
        ("b1.kafka.internal:9092", "::1", False),
        ("b1.kafka.internal:9092", "169.254.169.254", False),
        ("b1.kafka.internal:9092", "fe80::1", False),
        ("b1.kafka.internal:9092", "0.0.0.0", False),
        ("b1.kafka.internal:9092", "224.0.0.1", False),
        ("x.in.prefix:9092", "10.1.1.1", True),
        ("x.in.prefix:9092", "11.1.1.1", False),
        ("x.in.prefix:9092", "127.0.0.1", False),
        ("192.0.2.9:9092", "192.0.2.9", True),
        ("192.0.2.9:9092", "127.0.0.1", False),
        ("one.example:1234", "127.0.0.1", True),
        ("nobody.example:9092", "10.20.0.1", False),
    ],
)
def test_what_a_name_resolves_to_is_looked_at_again(target, address, admitted):
    target = canonical(parse_destination(target))
    assert ALLOW.admits(target, Endpoint(address, target.port)) is admitted


def test_without_a_list_nothing_may_be_shared():
    nothing = AllowList(SharedConfig())
    for target in ("b1.kafka.internal:9092", "192.0.2.9:9092"):
        assert not nothing.is_allowed(canonical(parse_destination(target)))
    empty = AllowList(SharedConfig(allow=(SharedAllow(),)))
    assert not empty.is_allowed(HostName("b1.kafka.internal", 9092))


# Ports.


def rule(config=None, memory=None):
    return PortRule(config or SharedConfig(), memory or PortMemory(None, 100))


def first(ports, target, taken=()):
    return next(iter(ports.candidates(key(target), taken)))


def test_a_target_has_the_same_port_after_a_restart():
    ports = {first(rule(), "b1.kafka.internal:9092") for _ in range(3)}
    assert len(ports) == 1
    assert ports < {*range(50000, 51000)}
    assert ports == {50077}, "another version of the program gives another port"


def test_what_makes_it_another_target_makes_it_another_port():
    made = [
        rule().usual(each)
        for each in (
            key("b1.example:9092"), key("b2.example:9092"), key("b1.example:9093"),
            key("b1.example:9092", listener="other"), key("b1.example:9092", protocol="other"),
        )
    ]  # fmt: skip
    assert len(set(made)) == 5


@given(st.permutations([f"b{n}.example:9092" for n in range(12)]))
@settings(max_examples=30)
def test_the_order_of_discovery_does_not_matter(targets):
    """As long as no two of them hash to the same port."""
    ports = rule()
    given, taken = {}, []
    for target in targets:
        given[target] = first(ports, target, taken)
        taken.append(given[target])
    assert given == {target: rule().usual(key(target)) for target in targets}


def crowded():
    """More targets than a small range has places for without collisions."""
    return [f"b{n}.example:9092" for n in range(20)], SharedConfig(ports=PortRange(50000, 50019))


@given(st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_in_a_crowded_range_everybody_gets_a_port_and_memory_keeps_it(shuffle):
    targets, config = crowded()
    memory = PortMemory(None, 100)
    given = {}
    for again in range(2):  # the second time as after a restart, in another order
        ports = PortRule(config, memory)
        shuffle.shuffle(targets)
        taken = []
        for target in targets:
            port = first(ports, target, taken)
            assert given.setdefault(target, port) == port, again
            taken.append(port)
            ports.remember(key(target), port)
    assert sorted(given.values()) == list(range(50000, 50020))


def test_what_is_remembered_of_others_is_used_when_nothing_else_is_left():
    config = SharedConfig(ports=PortRange(50000, 50001))
    memory = PortMemory(None, 100)
    ports = PortRule(config, memory)
    for target, port in (("a.example:1", 50000), ("b.example:1", 50001)):
        ports.remember(key(target), port)
    assert first(ports, "c.example:1") in {50000, 50001}
    assert list(ports.candidates(key("c.example:1"), [50000])) == [50001]
    assert list(ports.candidates(key("c.example:1"), [50000, 50001])) == []


def test_a_remembered_port_outside_of_the_range_is_forgotten():
    memory = PortMemory(None, 100)
    memory.remember(str(key("a.example:1")), 60000)
    assert first(rule(memory=memory), "a.example:1") in range(50000, 51000)


def test_configured_ports_are_their_targets_and_nobody_elses():
    hashed = rule().usual(key("b.example:1"))
    config = SharedConfig(
        targets=(
            SharedTarget(HostName("A.example", 1), 50002),
            SharedTarget(HostName("a.example", 1), hashed, listener="cluster"),
        )
    )
    ports = rule(config)
    assert list(ports.candidates(key("a.example:1"), [hashed])) == [hashed]
    assert list(ports.candidates(key("a.example:1", listener="other"), [])) == [50002]
    others = list(ports.candidates(key("b.example:1"), []))
    assert not {50002, hashed} & {*others}
    assert others[0] == hashed + 1
    assert len(others) == 998


# The memory.


def test_the_memory_is_kept_in_a_file(tmp_path):
    path = tmp_path / "shared.json"
    memory = PortMemory(str(path), 100)
    memory.remember("a", 50000)
    memory.remember("b", 50001)
    memory.remember("a", 50002)
    assert json.loads(path.read_text()) == {"b": 50001, "a": 50002}
    assert [entry.name for entry in tmp_path.iterdir()] == ["shared.json"]
    again = PortMemory(str(path), 100)
    assert [again.port_of(name) for name in "abc"] == [50002, 50001, None]
    assert again.ports == {50001, 50002}


def test_a_port_is_one_targets_only_and_the_oldest_is_forgotten():
    memory = PortMemory(None, 3)
    for name, port in (("a", 1), ("b", 2), ("c", 2), ("d", 3), ("e", 4)):
        memory.remember(name, port)
    assert [memory.port_of(name) for name in "abcde"] == [None, None, 2, 3, 4]


@pytest.mark.parametrize("text", ["", "[]", '{"a": "50000"}', '{"a": true}', "{", "null", "\xff"])
def test_a_file_that_makes_no_sense_is_said_and_ignored(tmp_path, text, log):
    path = tmp_path / "shared.json"
    path.write_bytes(text.encode("latin-1"))
    memory = PortMemory(str(path), 100)
    assert memory.ports == set()
    assert [line["event"] for line in log] == ["memory of shared ports not read"]
    memory.remember("a", 50000)
    assert PortMemory(str(path), 100).port_of("a") == 50000


def test_a_file_that_cannot_be_written_is_said_and_the_memory_goes_on(tmp_path, log):
    path = tmp_path / "nowhere" / "shared.json"
    memory = PortMemory(str(path), 100)
    memory.remember("a", 50000)
    assert memory.port_of("a") == 50000
    assert [line["event"] for line in log] == ["memory of shared ports not written"]


def test_the_memory_is_nobody_elses_to_write(tmp_path):
    path = tmp_path / "shared.json"
    PortMemory(str(path), 100).remember("a", 50000)
    assert not stat.S_IMODE(path.stat().st_mode) & stat.S_IWOTH


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 5))))
@settings(max_examples=50)
def test_no_two_targets_ever_have_the_same_port(told):
    memory = PortMemory(None, 4)
    for name, port in told:
        memory.remember(name, port)
        known = [memory.port_of(each) for each in "abcdef"]
        ports = [each for each in known if each is not None]
        assert len(ports) == len(set(ports)) <= 4
        assert memory.port_of(name) == port


# The configuration.

LISTENER = '[[listeners]]\nname = "a"\nbind = "127.0.0.1:0"\nprotocol = "tcp"\nupstream = "b:1"\n'


def test_a_configuration_is_read():
    config = parse(
        LISTENER
        + """
        [shared]
        ports = "50100-50199"
        linger = 5.0
        memory = "shared.json"
        [[shared.allow]]
        names = ["*.kafka.internal"]
        prefixes = ["10.0.0.0/8"]
        ports = ["9092", "30000-32767"]
        [[shared.targets]]
        target = "kafka-1.internal:9092"
        port = 50101
        advertise = "kafka.example:19092"
        listener = "a"
        """
    )
    assert config.shared == SharedConfig(
        PortRange(50100, 50199),
        5.0,
        "shared.json",
        (
            SharedAllow(
                ("*.kafka.internal",),
                ("10.0.0.0/8",),
                (PortRange(9092, 9092), PortRange(30000, 32767)),
            ),
        ),
        (SharedTarget(HostName("kafka-1.internal", 9092), 50101, "kafka.example:19092", "a"),),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[shared.allow]]\nnames = ["10.0.0.1"]', "addresses are for prefixes"),
        ('[[shared.allow]]\nnames = ["a b"]', "no host name"),
        ('[[shared.allow]]\nprefixes = ["10.0.0.1/8"]', "not an IP prefix"),
        ('[[shared.allow]]\nports = ["0"]', "not within 1-65535"),
        ('[[shared.allow]]\nport = ["1"]', 'did you mean "ports"'),
        ('[[shared.targets]]\ntarget = "a:1"\nport = 1', "1 is not in 50000-50999"),
        ('[[shared.targets]]\ntarget = "a"\nport = 50001', "host:port"),
        ('[[shared.targets]]\ntarget = "a:0"\nport = 50001', "needs a port"),
        ('[[shared.targets]]\ntarget = "a:1"\nport = 50001\nadvertise = "a b"', "no"),
        ('[[shared.targets]]\ntarget = "a:1"\nport = 50001\nlistener = "x"', "no listener 'x'"),
        ("[shared]\nlinger = -1.0", "must not be negative"),
        (
            '[shared]\nports = "49999-50100"\n[[shared.allow]]\nnames = ["a"]',
            "overlaps the pool 40000-49999",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(text, problem):
    with pytest.raises(ConfigError, match=problem):
        parse(LISTENER + text)


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [(None, None, True), (None, "a", True), ("a", None, True), ("a", "a", True), ("a", "b", False)],
)
def test_two_targets_cannot_have_one_port_at_one_listener(one, other, collide):
    listeners = [
        ListenerConfig(name, Endpoint("127.0.0.1"), "tcp", upstream=Endpoint("127.0.0.1", 1))
        for name in "ab"
    ]
    targets = [
        SharedTarget(HostName("x", 1), 50001, listener=one),
        SharedTarget(HostName("y", 1), 50001, listener=other),
    ]
    random.shuffle(targets)
    shared = SharedConfig(targets=tuple(targets))
    if collide:
        with pytest.raises(ConfigError, match="another target has port 50001"):
            Config(listeners, shared=shared)
    else:
        assert Config(listeners, shared=shared)


def test_the_ranges_may_overlap_while_nothing_is_shared():
    pool = SecondaryConfig(ports=PortRange(40000, 60000))
    listener = ListenerConfig("a", Endpoint("127.0.0.1"), "tcp", upstream=Endpoint("127.0.0.1", 1))
    assert Config([listener], secondary=pool)
