"""What `fwproxy check` says about a right configuration and about the host."""

from __future__ import annotations

import os
import resource
from typing import Any

import attrs
import pytest

from fwproxy import host
from fwproxy.address import Endpoint
from fwproxy.config import (
    Config,
    DatapathConfig,
    Limits,
    ListenerConfig,
    PortRange,
    SecondaryConfig,
)
from fwproxy.overview import overview, warnings
from fwproxy.policy import Network, NetworkRelation, Relation, Rule


def two_networks(**changes: Any) -> Config:
    listener = ListenerConfig("a", Endpoint("127.0.0.1", 2121), "tcp", upstream=Endpoint("::1", 1))
    config = Config(
        listeners=(listener,),
        networks=(Network("in", ("10.0.0.0/8",), ("10.0.0.1",)), Network("out", ("0.0.0.0/0",))),
        relations=(Relation("in", "out", NetworkRelation.NAT),),
        rules=(Rule(allow=True, protocols=("tcp",), sources=("in",), users=("anna",)),),
        limits=Limits(max_sessions=10),
    )
    return attrs.evolve(config, **changes)


def test_the_overview_says_what_is_configured() -> None:
    lines = list(overview(two_networks()))
    for line in [
        "  a: forward, tcp, on 127.0.0.1:2121 to [::1]:1",
        "  in: 10.0.0.0/8; own: 10.0.0.1",
        "  in to out: nat",
        "  1: allow tcp from in for anna",
        "  ports = 40000-49999",
        "  max_sessions = 10 (default 10000)",
    ]:
        assert line in lines
    assert not any("idle_timeout" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"rules": ()}, "there are networks but no rules, so that everything is denied"),
        ({"rules": (Rule(allow=False),)}, "no rule allows anything, so that everything is denied"),
        ({"relations": ()}, "there are networks but no relations"),
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
