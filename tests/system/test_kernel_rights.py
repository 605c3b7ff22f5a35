"""The kernel path for processes that are not root, or not all that root is."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .kernel_gateway import BACK, DROP, PORTS, REQUIRE, RESTS, SPLICED, Site, fetch, tables
from .matrix import Samples
from .namespaces import Network, Side, network
from .processes import find_program
from .proxy import Listener, Proxy, running_proxy
from .terms import Mode

NOBODY = 65534
NET_ADMIN, NET_BIND_SERVICE = 1 << 12, 1 << 10
WITHOUT = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
AS_A_SERVICE = [
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
    "--bounding-set=-all,+net_admin,+net_bind_service",
    "--inh-caps=-all,+net_admin,+net_bind_service",
    "--ambient-caps=-all,+net_admin,+net_bind_service",
]  # fmt: skip
"""With the rights that the systemd unit gives."""


def facts(proxy: Proxy) -> dict[str, str]:
    """What the kernel says of the process."""
    status = Path("/proc", str(proxy.pid), "status").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+):\t(.*)$", status, re.MULTILINE))


@contextlib.contextmanager
def proxy_of(found: Site, more: str, *started_by: str) -> Iterator[Proxy]:
    if find_program("setpriv") is None:
        pytest.skip("package missing: util-linux")
    host, namespace = found.net.proxy_address(Side.CLIENT), found.net.namespace(Side.PROXY)
    listener = Listener("ftp", host, found.server, port=21)
    with running_proxy([listener], more, namespace=namespace, started_by=started_by) as proxy:
        yield proxy


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("way", ["become", "service"])
def test_an_unprivileged_user_has_the_kernel_carry_connections(
    site: Site,
    way: str,
    mode: Mode,
    samples: Samples,
) -> None:
    """And hears of what other tables do, and removes his own at the end."""
    more, started_by = PORTS + REQUIRE, AS_A_SERVICE
    if way == "become":
        more, started_by = PORTS + '[process]\nuser = "nobody"\n', []
    with proxy_of(site, more, *started_by) as proxy:
        found = facts(proxy)
        assert set(found["Uid"].split()) == {str(NOBODY)}
        assert int(found["CapEff"], 16) & ~NET_BIND_SERVICE == NET_ADMIN
        assert found["NoNewPrivs"] == "1"
        with site.client(proxy) as client:
            assert fetch(proxy, client, mode, samples)["path"] == "kernel"
            if way == "become":
                try:
                    site.load(DROP)
                    proxy.await_log(RESTS)
                    assert fetch(proxy, client, mode, samples)["path"] == "splice"
                finally:
                    site.load("delete table inet firewall")
                proxy.await_log(BACK)
                assert fetch(proxy, client, mode, samples)["path"] == "kernel"


def test_without_the_capability_connections_are_spliced(
    site: Site,
    samples: Samples,
) -> None:
    with proxy_of(site, PORTS, *WITHOUT) as proxy:
        assert proxy.logged(SPLICED, reason="no CAP_NET_ADMIN")
        assert not int(facts(proxy)["CapEff"], 16) & NET_ADMIN
        with site.client(proxy) as client:
            line = fetch(proxy, client, Mode.PASSIVE, samples)
            assert (line["path"], line["why"]) == ("splice", "no CAP_NET_ADMIN")


CONFIGURATION = """
[[listeners]]
name = "ftp"
bind = "192.0.2.1:21"
upstream = "198.51.100.2:21"
protocol = "ftp"
"""


def test_without_the_capability_there_is_no_start_if_it_is_required(
    site: Site,
    tmp_path: Path,
) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(CONFIGURATION + REQUIRE, encoding="utf-8")
    command = [*WITHOUT, sys.executable, "-m", "fwproxy", "run", "--config", path]
    with pytest.raises(AssertionError, match="the kernel path is required, but: no CAP_NET_ADMIN"):
        site.net.run(Side.PROXY, command)


def check(net: Network, directory: Path, more: str, *started_by: str) -> list[str]:
    """What `fwproxy check` says of this host."""
    path = directory / "proxy.toml"
    path.write_text(CONFIGURATION + more, encoding="utf-8")
    command = [*started_by, sys.executable, "-m", "fwproxy", "check", path]
    lines = net.run(Side.PROXY, command).splitlines()
    return [line.strip() for line in lines[lines.index("this host") :]]


def test_check_says_what_the_host_can_do(
    site: Site,
    tmp_path: Path,
) -> None:
    net = site.net
    said = check(net, tmp_path, "")
    assert "kernel path: nftables and conntrack events; the table is owned" in said
    assert "forwarding: IPv4, IPv6" in said
    assert "bytes in the kernel: counted" in said
    assert "kernel path: not possible: no CAP_NET_ADMIN" in check(net, tmp_path, "", *WITHOUT)
    off = '[datapath]\nkernel = "off"\n'
    assert 'kernel path: not used: kernel = "off"' in check(net, tmp_path, off)
    site.load(DROP)
    try:
        why = (
            "the chain inet firewall forward may drop what is forwarded: "
            "let it accept ct mark 0x6677 before anything else"
        )
        said = check(net, tmp_path, "")
        assert f"kernel path: not used now: {why}" in said
        said = check(net, tmp_path, REQUIRE)
        assert "kernel path: nftables and conntrack events; the table is owned" in said
        assert f"in the way: {why}" in said
    finally:
        site.load("delete table inet firewall")
    assert not tables(net)


def test_check_leaves_a_plain_host_as_it_is(needs_network: None, tmp_path: Path) -> None:
    with network() as net:
        said = check(net, tmp_path, "")
        assert "kernel path: not used now: ipv4.ip_forward is off" in said
        assert "forwarding: off: only for connections with this host itself" in said
        assert not tables(net)
