"""`fwproxy setup-rules` prints, makes and takes back, in a namespace, and leaves the rest alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .ftp_clients import Curl
from .ftp_servers import VSFTPD
from .matrix import Workspace, exercise_briefly
from .namespaces import Network, Side, network, reach
from .processes import find_program
from .proxy import Listener, running_proxy
from .terms import Family, Mode

ANY: dict[Family, str] = {4: "0.0.0.0", 6: "::"}
FAMILIES: tuple[Family, ...] = (4, 6)
RULES = '[[rules]]\naction = "allow"\n'
LISTENERS = [
    Listener(f"{kind}-{family}", ANY[family], kind=kind, port=port, protocol="ftp")
    for kind, port in (("redirect", 2121), ("tproxy", 8188))
    for family in FAMILIES
]
OTHERS = """
table inet others {
    chain input {
        type filter hook input priority filter; policy accept;
        tcp dport 9 drop
    }
}
"""
OTHER_RULE = ["pref", "100", "to", "203.0.113.0/24", "lookup", "77"]


@pytest.fixture(scope="module")
def router(needs_network: None) -> Iterator[Network]:
    """A network whose middle has rules of its own already."""
    if find_program("nft") is None:
        pytest.skip("package missing: nftables")
    with network() as net:
        net.run(Side.PROXY, ["nft", "-f", "-"], standard_input=OTHERS)
        net.run(Side.PROXY, ["ip", "-4", "rule", "add", *OTHER_RULE])
        yield net


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.toml"
    path.write_text("".join(each.toml() for each in LISTENERS) + RULES)
    return path


def setup_rules(net: Network, configuration: Path, *options: str) -> str:
    command = [sys.executable, "-m", "fwproxy", "setup-rules", configuration, *options]
    return net.run(Side.PROXY, command)


def state(net: Network) -> str:
    """All that the command may change, and all that it may not."""
    commands = [["nft", "list", "ruleset"]]
    for family in FAMILIES:
        commands.append(["ip", f"-{family}", "rule"])
        commands.append(["ip", f"-{family}", "route", "show", "table", "all", "type", "local"])
    found = "\n".join(net.run(Side.PROXY, command) for command in commands)
    # The kernel gives the links addresses of their own when it gets round to it.
    return "\n".join(line for line in found.splitlines() if "fe80::" not in line)


def test_printing_changes_nothing_and_is_what_applying_does(
    router: Network, configuration: Path
) -> None:
    before = state(router)
    printed = setup_rules(router, configuration, "--interface", str(Side.CLIENT))
    assert state(router) == before
    commands = [line.removeprefix("# ") for line in printed.splitlines() if line[:1] == "#"]
    assert len(commands) == 4
    setup_rules(router, configuration, "--interface", str(Side.CLIENT), "--apply")
    applied = state(router)
    assert applied != before
    setup_rules(router, configuration, "--undo")
    assert state(router) == before
    # What it has printed, given to a shell.
    router.run(Side.PROXY, ["nft", "-f", "-"], standard_input=printed)
    router.run(Side.PROXY, ["sh", "-e"], standard_input="\n".join(commands))
    assert state(router) == applied
    setup_rules(router, configuration, "--undo")
    assert state(router) == before


def test_applying_and_undoing_may_be_repeated(router: Network, configuration: Path) -> None:
    before = state(router)
    setup_rules(router, configuration, "--undo")
    assert state(router) == before
    setup_rules(router, configuration, "--apply")
    applied = state(router)
    setup_rules(router, configuration, "--apply")
    assert state(router) == applied
    for _ in range(2):
        setup_rules(router, configuration, "--undo")
        assert state(router) == before


@contextlib.contextmanager
def redirecting(family: Family) -> Iterator[Network]:
    """A network whose clients send everything to the proxy's host, with its rules applied."""
    listener = Listener("any", ANY[family], kind="redirect", port=2121, protocol=None)
    with network() as net:
        net.add_default_route()
        with running_proxy([listener], RULES, namespace=net.namespace(Side.PROXY)) as proxy:
            server = net.address(Side.SERVER, family)
            assert reach(net, Side.CLIENT, server, 21) != "connected"
            options = ["--interface", str(Side.CLIENT)]
            setup_rules(net, proxy.configuration, *options, "--apply")
            yield net
            # The listener is for every port, and has found the protocol by the server's.
            assert proxy.logged("connection closed", protocol="ftp", path="user")
            assert proxy.logged("connection closed", protocol="ftp-data", path="splice")
            setup_rules(net, proxy.configuration, "--undo")
            assert reach(net, Side.CLIENT, server, 21) != "connected"
            proxy.finish()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_redirect_listener_gets_its_clients_by_them(
    needs_network: None, workspace: Workspace, family: Family
) -> None:
    if lack := Curl.missing() or VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    with redirecting(family) as net:
        address, namespace = net.address(Side.SERVER, family), net.namespace(Side.SERVER)
        with VSFTPD.start(workspace.samples.root, address, namespace, 21) as server:
            client = Curl(mode=Mode.PASSIVE, namespace=net.namespace(Side.CLIENT))
            exercise_briefly(client, server.target, workspace)
