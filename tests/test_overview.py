"""What `fwproxy check` says about a right configuration and about the host."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import attrs
import pytest

from fwproxy.address import Endpoint, HostName, Transport
from fwproxy.config.config import Config, DatapathConfig, Limits, PortRange, SecondaryConfig
from fwproxy.config.listeners import ListenerConfig, ListenerKind
from fwproxy.config.resolver import ResolverConfig
from fwproxy.config.shared import SharedAllow, SharedConfig, SharedTarget
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule
from fwproxy.protocol import BUILT_IN, ProtocolDefinition
from fwproxy.service import host
from fwproxy.service.overview import overview, warnings

DNS = ResolverConfig("dns", (Endpoint("192.0.2.53", 53), Endpoint("2001:db8::53", 5353)))


def two_networks(**changes: Any) -> Config:
    listener = ListenerConfig("a", Endpoint("127.0.0.1", 2121), "tcp", upstream=Endpoint("::1", 1))
    config = Config(
        listeners=(listener,),
        networks=(Network("in", ("10.0.0.0/8",)), Network("out", ("0.0.0.0/0",))),
        rules=(Rule(allow=True, protocols=("tcp",), sources=("in",)),),
        limits=Limits(max_sessions=10),
    )
    return attrs.evolve(config, **changes)


def test_the_overview_says_what_is_configured() -> None:
    listener = attrs.evolve(two_networks().listeners[0], advertise="198.51.100.1")
    own = ProtocolDefinition("own", ports=(7, 8), secondary=("own-data",), filters=("one", "other"))
    config = two_networks(
        listeners=(listener,),
        networks=(Network("in", ("10.0.0.0/8",), ("10.0.0.1",)), Network("out")),
        relations=(Relation("in", "out", NetworkRelation.NAT),),
        rules=(Rule(allow=True, protocols=("tcp",), sources=("in",), users=("anna",)),),
        protocols=(own, ProtocolDefinition("own-data", Transport.UDP), *BUILT_IN),
    )
    lines = list(overview(config))
    for line in [
        "  a: forward, tcp, on 127.0.0.1:2121, as 198.51.100.1 to [::1]:1",
        "  own: tcp; ports 7-8; secondary own-data; filters one, other",
        "  own-data: udp; filters none",
        "  in: 10.0.0.0/8; own: 10.0.0.1",
        "  in to out: nat",
        "  1: allow tcp from in for anna",
        "  ports = 40000-49999",
        "  max_sessions = 10 (default 10000)",
    ]:
        assert line in lines
    assert not any("idle_timeout" in line or "ftp" in line for line in lines)


def test_the_overview_says_what_may_be_shared() -> None:
    config = two_networks()
    assert not any("shared" in line for line in overview(config))
    allow = (
        SharedAllow(("*.kafka",), ("10.0.0.0/8",), (PortRange(9092, 9092), PortRange(1, 2))),
        SharedAllow(prefixes=("192.0.2.0/24",)),
    )
    targets = (
        SharedTarget(HostName("one.kafka", 9092), 50001, "kafka.example", "a"),
        SharedTarget(Endpoint("::1", 9092), 50002),
    )
    lines = list(overview(two_networks(shared=SharedConfig(allow=allow, targets=targets))))
    for line in [
        "  ports 50000-50999, open for 300 seconds after their last use",
        "  allowed: *.kafka in 10.0.0.0/8 port 9092-9092, 1-2",
        "  allowed: 192.0.2.0/24 every port",
        "  one.kafka:9092 on port 50001, as kafka.example for listener a",
        "  [::1]:9092 on port 50002",
    ]:
        assert line in lines


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"rules": ()}, "there are networks but no rules, so that everything is denied"),
        ({"rules": (Rule(allow=False),)}, "no rule allows anything, so that everything is denied"),
        (
            {
                "rules": (
                    Rule(allow=True, sources=("in",), users=("anna",), name="annas"),
                    Rule(allow=True),
                    Rule(allow=False, users=("bert",)),
                )
            },
            "without effect in this version: [[rules]] annas, 3 (no listener has users",
        ),
        ({"filters": {"ftp": {}}}, "[filters.ftp] is set, but no listener has a protocol with"),
        ({"secondary": SecondaryConfig(PortRange(2000, 3000))}, 'listener "a" is on port 2121, in'),
        (
            {"limits": Limits(max_sessions=10**9)},
            "max_sessions = 1000000000 with a data connection",
        ),
    ],
)
def test_warnings(changes: dict[str, Any], warning: str) -> None:
    assert list(warnings(two_networks())) == []
    [found] = warnings(two_networks(**changes))
    assert found.startswith(warning)


def test_relations_and_the_proxys_own_addresses_are_used() -> None:
    config = two_networks(
        networks=(Network("in", ("::1/128",), addresses=("::1",)), Network("out")),
        relations=(Relation("in", "out", NetworkRelation.NAT),),
    )
    assert list(warnings(config)) == []


def test_the_limit_on_open_files_is_named_with_what_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for hard, is_short in [(40_575, True), (40_576, False), (resource.RLIM_INFINITY, False)]:
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (1024, hard))
        found = list(host.open_files_shortage(two_networks(limits=Limits())))
        assert bool(found) == is_short
        assert all("10000 " in each and "40576 " in each and "40575" in each for each in found)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 40_576))
    (found_with_dns,) = host.open_files_shortage(two_networks(limits=Limits(), resolver=DNS))
    assert "40704 " in found_with_dns  # two for each of 64 names


def test_what_only_root_may_do_is_a_warning_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = attrs.evolve(two_networks().listeners[0], bind=Endpoint("127.0.0.1", 21))
    config = two_networks(listeners=(listener,), datapath=DatapathConfig(pipe_size=2**40))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert list(warnings(config)) == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    pipes, port = warnings(config)
    assert pipes.startswith("pipe_size = 1099511627776 is more than the ")
    assert "ports below" in port


def test_the_limit_on_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        assert host.raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_overview_says_how_clients_come_in() -> None:
    here = Endpoint("127.0.0.1", 1080)
    listeners = (
        ListenerConfig("s", here, kind=ListenerKind.SOCKS, users="who", send_proxy=2),
        ListenerConfig("t", here, kind=ListenerKind.TPROXY, source="client"),
        ListenerConfig(
            "h", here, kind=ListenerKind.HTTP, proxy_protocol="require", trusted=("::1/128",)
        ),
    )
    text = "\n".join(overview(Config(listeners, rules=(Rule(allow=True),))))
    assert "s: socks, the protocol by port, on 127.0.0.1:1080; users of who; sends PROXY" in text
    assert "t: tproxy, the protocol by port, on 127.0.0.1:1080; servers see the client's" in text
    assert "h: http, the protocol by port, on 127.0.0.1:1080; PROXY headers of ::1/128: req" in text


def test_rules_by_user_need_a_listener_with_users() -> None:
    rules = (Rule(allow=True, users=("anna",)),)
    listener = ListenerConfig(
        "s", Endpoint("127.0.0.1", 1080), kind=ListenerKind.SOCKS, users="who"
    )
    found = warnings(Config([listener], rules=rules, limits=Limits(max_sessions=10)))
    assert list(found) == []


@pytest.mark.parametrize(("capabilities", "may"), [("0", False), ("1000", True), ("2000", True)])
def test_tproxy_needs_a_capability(
    monkeypatch: pytest.MonkeyPatch, capabilities: str, *, may: bool
) -> None:
    status = f"Name:\tpython\nCapEff:\t{capabilities}\nCapBnd:\t0\n"
    monkeypatch.setattr(host, "_read", lambda path: status if "status" in path else "")
    listener = ListenerConfig("t", Endpoint("127.0.0.1", 1080), kind=ListenerKind.TPROXY)
    config = Config([listener], rules=(Rule(allow=True),))
    found = [line for line in host.shortcomings(config) if "CAP_NET_ADMIN" in line]
    assert bool(found) is not may


def test_the_overview_says_whom_names_are_asked_of() -> None:
    assert not any("asked of" in line for line in overview(two_networks()))
    lines = list(overview(two_networks(resolver=DNS)))
    assert "  asked of 192.0.2.53:53, [2001:db8::53]:5353, for 5 seconds at most" in lines
    assert "  remembered for as long as the answer says, 3600 seconds at most" in lines
    lines = list(overview(two_networks(resolver=ResolverConfig("dns", max_ttl=60))))
    assert "  asked of the servers of /etc/resolv.conf, for 5 seconds at most" in lines


@pytest.mark.parametrize("text", ["", "# nameserver 192.0.2.53\n", "search a.test\nnameserver\n"])
def test_nobody_to_ask_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(host, "_RESOLV_CONF", str(path))

    def warned(resolver: ResolverConfig) -> bool:
        config = two_networks(resolver=resolver)
        return any("no name will resolve" in each for each in warnings(config))

    assert warned(ResolverConfig("dns"))
    path.write_text(text)
    assert warned(ResolverConfig("dns"))
    assert not warned(DNS)
    assert not warned(ResolverConfig())
    path.write_text(f"{text}nameserver 192.0.2.53\n")
    assert not warned(ResolverConfig("dns"))


def test_settings_for_servers_that_nobody_asks_are_warned_of() -> None:
    config = two_networks(resolver=attrs.evolve(DNS, kind="system", max_ttl=0.0))
    (warning,) = [each for each in warnings(config) if "[resolver]" in each]
    assert "servers, max_ttl" in warning
    assert not any("[resolver]" in each for each in warnings(two_networks(resolver=DNS)))
