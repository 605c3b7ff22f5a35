"""Data connections that the kernel carries: who gets in from a third host, and sudden ends."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator, Mapping

import attrs
import pytest

from .ends import ScriptedClient, connect, knock, read_all, socket_in
from .ftp_servers import VSFTPD
from .kernel_gateway import (
    REQUIRE,
    conntrack,
    elements,
    forwarding_network,
    start_fetching,
    tables,
    waiting_port,
)
from .matrix import Samples
from .namespaces import PREFIX_LENGTHS, Network, Side
from .proxy import Listener, Proxy, running_proxy, wait_until
from .server_kind import FTPServer
from .terms import Family, Mode

POOL = range(40000, 42000)
SETTINGS = f'{REQUIRE}[secondary]\nports = "{POOL[0]}-{POOL[-1]}"\n'
FAMILIES: tuple[Family, ...] = (4, 6)
# Where the port is that the stranger wants: towards the client (passive) or the server (active).
LINKS = {Mode.PASSIVE: Side.CLIENT, Mode.ACTIVE: Side.SERVER}


def flowing(net: Network) -> str:
    """What the kernel carries for the proxy at the moment."""
    return conntrack(net, "-p tcp --state ESTABLISHED --mark 0x6677")


@attrs.frozen
class Street:
    """A network with a stranger on one link, and a server for either IP version."""

    net: Network
    mode: Mode
    servers: dict[Family, FTPServer]

    @property
    def link(self) -> Side:
        """The side that may come to the port which is opened."""
        return LINKS[self.mode]

    @contextlib.contextmanager
    def proxy(self, limits: Mapping[str, float] | None = None) -> Iterator[Proxy]:
        """Run a proxy."""
        listeners = [
            Listener(f"ftp-{family}", self.net.proxy_address(Side.CLIENT, family), server, port=21)
            for family, server in self.servers.items()
        ]
        namespace = self.net.namespace(Side.PROXY)
        with running_proxy(listeners, SETTINGS, namespace=namespace, limits=limits) as proxy:
            yield proxy

    def login(self, proxy: Proxy, family: Family) -> ScriptedClient:
        """A client that has logged in."""
        target = proxy.target(f"ftp-{family}", self.servers[family])
        client = ScriptedClient(target, self.net.namespace(Side.CLIENT))
        client.login()
        return client

    def knocks(self, side: Side, family: Family, port: int) -> str:
        """What somebody gets who comes to a port that the proxy has on the stranger's link."""
        return knock(self.net.proxy_address(self.link, family), port, self.net.namespace(side))

    def scan(self, side: Side, family: Family, ports: Iterable[int] = POOL) -> set[str]:
        """What comes of connecting to every port of the pool."""
        return {self.knocks(side, family, port) for port in ports}


@pytest.fixture(scope="module", params=list(Mode))
def street(
    request: pytest.FixtureRequest, samples: Samples, needs_network: None
) -> Iterator[Street]:
    """The stranger on the link where the port is that the mode opens."""
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    mode: Mode = request.param
    with forwarding_network(LINKS[mode]) as net, contextlib.ExitStack() as stack:
        namespace = net.namespace(Side.SERVER)
        servers: dict[Family, FTPServer] = {
            family: stack.enter_context(
                VSFTPD.start(samples.root, net.address(Side.SERVER, family), namespace)
            )
            for family in PREFIX_LENGTHS
        }
        yield Street(net, mode, servers)


def check_transfer(street: Street, proxy: Proxy, family: Family, samples: Samples) -> None:
    """Make sure that a file is fetched through the kernel."""
    with street.login(proxy, family) as client:
        with (
            waiting_port(proxy, street.mode, client) as (port, listener),
            start_fetching(client, port, listener, "mib.bin") as data,
        ):
            assert read_all(data) == samples.content("mib.bin")
        assert client.code() == 226
    assert proxy.await_log("connection closed", protocol="ftp-data", path="kernel")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scan_of_the_pool_finds_nothing(street: Street, family: Family, samples: Samples) -> None:
    """Not even a port that waits for another host; and that one gets in, just once."""
    with street.proxy() as proxy:
        with (
            street.login(proxy, family) as client,
            waiting_port(proxy, street.mode, client) as (port, listener),
        ):
            assert street.scan(Side.STRANGER, family) == {"refused"}
            others = (each for each in POOL[::4] if each != port)
            assert street.scan(street.link, family, others) == {"refused"}
            assert f"targets{family}" in elements(street.net)
            with start_fetching(client, port, listener, "large.bin") as data:
                first = data.recv(1 << 16)
                assert street.scan(Side.STRANGER, family) == {"refused"}
                assert street.knocks(street.link, family, port) == "refused"
                assert first + read_all(data) == samples.content("large.bin")
            assert client.code() == 226
            assert client.code("QUIT") == 221
        (line,) = proxy.await_log("connection closed", protocol="ftp-data")
        assert line["path"] == "kernel"
        assert line["server_bytes"] > len(samples.content("large.bin"))
        proxy.finish()
    assert not tables(street.net)


def test_a_proxy_that_stops_ends_what_the_kernel_carries(street: Street, samples: Samples) -> None:
    with (
        street.proxy({"stop_timeout": 0.1}) as proxy,
        street.login(proxy, 4) as client,
        waiting_port(proxy, street.mode, client) as (port, listener),
        start_fetching(client, port, listener, "large.bin") as data,
    ):
        assert flowing(street.net)
        proxy.send(signal.SIGTERM)
        assert proxy.exit_code() == 0
        assert not flowing(street.net)
        assert not tables(street.net)
        with contextlib.suppress(ConnectionError, TimeoutError):
            data.settimeout(1)
            assert len(read_all(data)) < len(samples.content("large.bin"))


def test_a_killed_proxy_leaves_nothing_open_and_can_be_started_again(
    street: Street, samples: Samples
) -> None:
    """The server ends the transfer with its control connection, and nobody gets in any more."""
    with (
        street.proxy() as proxy,
        street.login(proxy, 4) as busy,
        waiting_port(proxy, street.mode, busy) as (port, listener),
        start_fetching(busy, port, listener, "large.bin") as data,
        street.login(proxy, 4) as waiting,
        waiting_port(proxy, street.mode, waiting) as (waiting_at, _),
    ):
        proxy.send(signal.SIGKILL)
        proxy.exit_code()
        wait_until(lambda: not tables(street.net), "the owned table is gone")
        for side in (street.link, Side.STRANGER):
            assert street.knocks(side, 4, waiting_at) == "refused"
        with contextlib.suppress(ConnectionError):
            read_all(data)
    with street.proxy() as proxy:
        assert not flowing(street.net)
        check_transfer(street, proxy, 4, samples)
        proxy.finish()
    assert not tables(street.net)


PASSED = 7007
UNREAD = f"""
[[listeners]]
name = "unread"
kind = "redirect"
bind = "0.0.0.0:7000"
protocol = "parcel"

[[protocols]]
name = "parcel"
ports = [{PASSED}]

[networks.inside]
prefixes = ["192.0.2.0/24"]

[networks.outside]
prefixes = ["198.51.100.0/24"]

[[relations]]
from = "inside"
to = "outside"
kind = "nat"

[[rules]]
action = "{{action}}"
protocols = ["parcel"]
from = ["inside"]
to = ["outside"]
"""
REDIRECT = f"""\
table ip redirecting {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname "{Side.CLIENT}" tcp dport {PASSED} redirect to :7000
    }}
}}
"""


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_a_protocol_that_nobody_reads_is_let_through_if_it_is_allowed(
    needs_network: None, action: str
) -> None:
    with forwarding_network() as net, contextlib.ExitStack() as stack:
        net.add_default_route()
        net.run(Side.PROXY, ["nft", "-f", "-"], standard_input=REDIRECT)
        host = net.address(Side.SERVER)
        server = stack.enter_context(socket_in(net.namespace(Side.SERVER), host))
        server.bind((host, PASSED))
        server.listen()
        settings = REQUIRE + UNREAD.format(action=action)
        proxy = stack.enter_context(
            running_proxy([], settings, namespace=net.namespace(Side.PROXY))
        )
        if action == "deny":
            assert knock(host, PASSED, net.namespace(Side.CLIENT)) in {"reset", "heard b''"}
            assert proxy.logged("listener is not let through")
        else:
            with connect(host, PASSED, net.namespace(Side.CLIENT)) as client:
                accepted, (source, _) = server.accept()
                with accepted:
                    client.sendall(b"parcel")
                    assert accepted.recv(100) == b"parcel"
                    assert source == net.proxy_address(Side.SERVER)
            assert not proxy.logged("connection closed")
        proxy.finish()
