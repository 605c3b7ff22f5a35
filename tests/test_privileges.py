"""Becoming an unprivileged user for good, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from fwproxy import Endpoint, ListenerConfig, ListenerKind
from fwproxy.config.config import Config, DatapathConfig, ProcessConfig, SecondaryConfig
from fwproxy.policy.rules import Rule
from fwproxy.service.privileges import CAP_NET_ADMIN, needed

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534
BECOME = """
import sys
from fwproxy.errors import ConfigError
from fwproxy.service.privileges import become
try:
    for user in sys.argv[1].split(","):
        become(user, map(int, filter(None, sys.argv[2].split(","))))
except ConfigError as error:
    sys.exit(str(error))
print(open("/proc/self/status").read())
try:
    import os
    os.setuid(0)
except PermissionError:
    print("no way back")
"""


def become(users: str, capabilities: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BECOME, users, capabilities]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@NEEDS_ROOT
@pytest.mark.parametrize(("capabilities", "left"), [("", 0), ("12", 1 << 12), ("10,12", 5 << 10)])
def test_of_roots_capabilities_only_those_are_kept(capabilities: str, left: int) -> None:
    done = become("nobody", capabilities)
    assert not done.stderr
    facts = dict(re.findall(r"^(\w+):\t(.*)$", done.stdout, re.MULTILINE))
    assert set(facts["Uid"].split()) == {str(NOBODY)}
    assert "0" not in facts["Gid"].split() + facts["Groups"].split()
    assert [int(facts[name], 16) for name in ("CapPrm", "CapEff")] == [left, left]
    assert int(facts["CapInh"], 16) == int(facts["CapAmb"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert "no way back" in done.stdout


@NEEDS_ROOT
def test_whoever_it_is_already_need_not_be_become() -> None:
    assert "no way back" in become("nobody,nobody").stdout


@NEEDS_ROOT
def test_nobody_else_than_root_can_become_somebody() -> None:
    done = become("nobody,daemon")
    assert done.returncode == 1
    assert "user: only root can become 'daemon'" in done.stderr


@NEEDS_ROOT
def test_an_unknown_user_is_named() -> None:
    assert "user: there is no user 'nosuchuser'" in become("nosuchuser").stderr


@pytest.mark.parametrize(
    ("kernel", "source", "host", "is_kept"),
    [
        ("off", "proxy", "0.0.0.0", False),
        ("off", "peer", "0.0.0.0", True),
        ("auto", "proxy", "0.0.0.0", True),
        ("auto", "proxy", "127.0.0.1", False),  # where the kernel path is not used anyhow
        ("require", "proxy", "127.0.0.1", True),
    ],
)
def test_a_capability_is_kept_where_a_data_path_may_need_it(
    kernel: str,
    source: str,
    host: str,
    is_kept: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    listener = ListenerConfig("s", Endpoint(host, 1080), kind=ListenerKind.SOCKS)
    config = Config(
        [listener],
        rules=(Rule(allow=True),),
        datapath=DatapathConfig(kernel=kernel),
        secondary=SecondaryConfig(source=source),
        process=ProcessConfig(user="nobody"),
    )
    assert (needed(config) == {CAP_NET_ADMIN}) is is_kept
