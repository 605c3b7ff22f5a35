"""The kernel path as it is by default: on a site, and on hosts where it had better not be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from .ends import connect, listen, socket_in
from .kernel_gateway import (
    BACK,
    DROP,
    PORTS,
    REQUIRE,
    RESTS,
    SPLICED,
    Site,
    conntrack,
    fetch,
    finish_fetching,
    tables,
    waiting_port,
    with_server,
)
from .matrix import Samples
from .namespaces import Side, network, reach
from .terms import Mode


@pytest.mark.parametrize("mode", list(Mode))
def test_a_firewall_that_is_loaded_meanwhile_fails_no_transfer(
    site: Site, mode: Mode, samples: Samples
) -> None:
    """Nobody waits until the proxy has heard of the rules: a first packet that is lost to them
    comes again."""
    with site.proxy() as proxy, site.client(proxy) as client:
        assert fetch(proxy, client, mode, samples)["path"] == "kernel"
        start = len(proxy.lines())
        try:
            with waiting_port(proxy, mode, client) as (port, listener):
                site.load(DROP)
                finish_fetching(client, port, listener, samples)
            (line,) = proxy.await_log("connection closed", start, protocol="ftp-data")
            assert line["path"] == "splice"
            assert "the chain inet firewall forward may drop" in line["why"]
            assert proxy.logged(RESTS, start)
            assert fetch(proxy, client, mode, samples)["path"] == "splice"
        finally:
            site.load("delete table inet firewall")
        proxy.await_log(BACK, start)
        assert fetch(proxy, client, mode, samples)["path"] == "kernel"


def test_required_it_fails_behind_such_a_firewall(site: Site) -> None:
    """So it is no wonder that it does not by itself."""
    with site.proxy(PORTS + REQUIRE) as proxy, site.client(proxy) as client:
        host, port = client.passive()
        site.load(DROP)
        try:
            assert reach(site.net, Side.CLIENT, host, port) != "connected"
        finally:
            site.load("delete table inet firewall")
        assert proxy.await_log("connections may be dropped")


@pytest.mark.parametrize("mode", list(Mode))
def test_a_firewall_that_lets_the_mark_through_is_none(
    site: Site, mode: Mode, samples: Samples
) -> None:
    site.load(DROP.replace("ct state", "ct mark 26231 accept\n ct state"))
    try:
        with site.proxy() as proxy, site.client(proxy) as client:
            assert fetch(proxy, client, mode, samples)["path"] == "kernel"
    finally:
        site.load("delete table inet firewall")


@pytest.mark.parametrize("mode", list(Mode))
def test_a_host_that_does_not_forward_is_left_as_it_is(
    needs_network: None, mode: Mode, samples: Samples
) -> None:
    with (
        network() as net,
        with_server(net, samples) as host,
        host.proxy() as proxy,
        host.client(proxy) as client,
    ):
        assert proxy.logged(SPLICED, reason="ipv4.ip_forward is off")
        with waiting_port(proxy, mode, client) as (port, listener):
            assert not tables(net)
            finish_fetching(client, port, listener, samples)
        assert proxy.await_log("connection closed", protocol="ftp-data", path="splice")
        assert not tables(net)
        assert not conntrack(net)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_client_on_the_proxys_own_host_is_carried_too(
    site: Site, mode: Mode, samples: Samples
) -> None:
    with site.proxy() as proxy, site.client(proxy, Side.PROXY) as client:
        assert fetch(proxy, client, mode, samples)["path"] == "kernel"


def test_a_translated_connection_may_have_the_number_of_a_port_that_waits(
    site: Site, samples: Samples
) -> None:
    """The kernel tells them apart by their ends, and neither gets what is the other's."""
    net = site.net
    site.load("""
        table ip masquerading {
            chain out { type nat hook postrouting priority srcnat; oifname "server" masquerade; }
        }
    """)
    net.add_default_route()
    outer, host = net.proxy_address(Side.SERVER), net.address(Side.SERVER)
    try:
        with (
            site.proxy() as proxy,
            site.client(proxy) as client,
            listen(host, net.namespace(Side.SERVER)) as far,
            waiting_port(proxy, Mode.ACTIVE, client) as (port, listener),
            socket_in(net.namespace(Side.CLIENT), host) as other,
        ):
            other.bind((net.address(Side.CLIENT), port))
            other.connect(far.getsockname())
            accepted, seen = far.accept()
            with accepted:
                assert seen == (outer, port)
                other.sendall(b"before")
                assert accepted.recv(100) == b"before"
                finish_fetching(client, port, listener, samples)
                accepted.sendall(b"after")
                assert other.recv(100) == b"after"
            (line,) = proxy.await_log("connection closed", protocol="ftp-data")
            assert line["path"] == "kernel"
    finally:
        site.load("delete table ip masquerading")


NARROW = 1000
DEAF = """\
table inet deaf {
    chain input {
        type filter hook input priority filter;
        icmp type destination-unreachable drop
    }
}
"""


@pytest.fixture
def narrow(site: Site) -> Iterator[Site]:
    """Large packets do not fit on the way to the server, and the client never hears of that."""
    net = site.net
    link = ["ip", "link", "set", "dev", "server", "mtu"]
    net.run(Side.PROXY, [*link, str(NARROW)])
    net.run(Side.CLIENT, ["nft", "-f", "-"], standard_input=DEAF)
    yield site
    net.run(Side.CLIENT, ["nft", "delete", "table", "inet", "deaf"])
    net.run(Side.PROXY, [*link, "1500"])


def test_segments_fit_on_both_links(narrow: Site, samples: Samples) -> None:
    """As they do where the proxy has a connection with either end."""
    with narrow.proxy() as proxy, narrow.client(proxy) as client:
        host, port = client.passive()
        with connect(host, port, client.namespace) as data:
            assert client.code("STOR incoming/narrow") == 150
            data.sendall(samples.content("mib.bin"))
        assert client.code() == 226
        (line,) = proxy.await_log("connection closed", protocol="ftp-data")
        assert line["path"] == "kernel"
        stored = samples.root / "incoming" / "narrow"
        assert stored.read_bytes() == samples.content("mib.bin")
        assert client.code("DELE incoming/narrow") in {250, 550}
        stored.unlink(missing_ok=True)


def test_without_the_proxy_they_do_not(narrow: Site, samples: Samples) -> None:
    net = narrow.net
    with contextlib.suppress(AssertionError):  # it has one already
        net.add_default_route()
    with contextlib.suppress(AssertionError):
        net.add_default_route(Side.SERVER)
    host = net.address(Side.SERVER)
    with (
        listen(host, net.namespace(Side.SERVER)) as far,
        connect(host, far.getsockname()[1], net.namespace(Side.CLIENT)) as client,
    ):
        accepted, _ = far.accept()
        with accepted:
            accepted.settimeout(1)
            client.sendall(bytes(20_000))
            with pytest.raises(TimeoutError):
                accepted.recv(100)
