"""What needs a router: the client's own address bound by the proxy, and connections on their way.

The proxy routes between client and server, which know each other's addresses and not the proxy's.
A policy route brings the packets that are for the proxy's transparent sockets to them.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from .kernel_gateway import conntrack, forwarding_network
from .namespaces import Network, Side, network
from .processes import find_program
from .terms import Family

PROGRAM = Path(__file__).parent / "programs" / "pathfinder.py"
CONTROL_PORT, SECONDARY_PORT = 2001, 6000
LISTENERS = (2100, 2200)
ANY: dict[Family, str] = {4: "0.0.0.0", 6: "::"}
FAMILIES: tuple[Family, ...] = (4, 6)

REDIRECTED = f"""
table inet redirected {{
    chain clients {{
        type nat hook prerouting priority dstnat;
        iifname "client" tcp dport {CONTROL_PORT} redirect to :{LISTENERS[0]}
        iifname "client" meta l4proto tcp redirect to :{LISTENERS[1]}
    }}
}}
"""
# `socket transparent` finds the proxy's sockets, so that no list of ports is needed here.
RULES = f"""
table inet routed {{
    chain arrivals {{
        type filter hook prerouting priority mangle;
        socket transparent 1 meta mark set 1
        ip daddr 192.0.2.0/24 iifname "server" th dport 40000-49999 meta mark set 1
        ip6 daddr 2001:db8:1::/64 iifname "server" th dport 40000-49999 meta mark set 1
    }}
    chain clients {{
        type nat hook prerouting priority dstnat;
        meta mark 1 accept
        iifname "client" tcp dport {CONTROL_PORT} redirect to :{LISTENERS[0]}
        iifname "client" meta l4proto tcp redirect to :{LISTENERS[1]}
    }}
}}
"""


@attrs.frozen
class Part:
    """One running part of the protocol."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def story(self) -> dict[str, Any]:
        """What it has seen."""
        line = self.line()
        assert line.startswith("{"), f"{line}\n{self.process.stdout.read()}"  # type: ignore[union-attr]
        return dict(json.loads(line))


@contextlib.contextmanager
def playing(net: Network, side: Side, request: dict[str, Any]) -> Iterator[Part]:
    command = [sys.executable, PROGRAM, str(side), json.dumps(request)]
    with net.popen(side, command) as process:
        part = Part(process)
        if side is not Side.CLIENT:
            assert (line := part.line()) == "started", f"{line}\n{process.stdout.read()}"  # type: ignore[union-attr]
        yield part


@pytest.fixture(scope="module")
def routed(needs_network: None) -> Iterator[Network]:
    if find_program("nft") is None:
        pytest.skip("package missing: nftables")
    with network() as net:
        net.add_default_route(Side.CLIENT)
        net.add_default_route(Side.SERVER)
        net.run(Side.PROXY, ["nft", "-f", "-"], standard_input=RULES)
        for family in FAMILIES:
            ip = ["ip", f"-{family}"]
            net.run(Side.PROXY, [*ip, "rule", "add", "fwmark", "1", "lookup", "100"])
            route = "route add local default dev lo table 100"
            net.run(Side.PROXY, [*ip, *route.split()])
        yield net


@contextlib.contextmanager
def all_parts(
    net: Network, family: Family, source: str, kernel: str = "off", **client: Any
) -> Iterator[tuple[Part, Part]]:
    host = net.address(Side.SERVER, family)
    proxy = {"any": ANY[family], "ports": LISTENERS, "source": source, "kernel": kernel}
    goal = {"host": host, "port": CONTROL_PORT}
    own = net.address(Side.CLIENT, family)
    with (
        playing(net, Side.PROXY, proxy),
        playing(net, Side.SERVER, goal) as server,
        playing(net, Side.CLIENT, {**goal, "own": own, **client}) as there,
    ):
        yield there, server


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["proxy", "peer"])
def test_s12_the_server_comes_to_the_clients_own_address(
    routed: Network, family: Family, transport: str, source: str
) -> None:
    with all_parts(routed, family, source, verb="INBOUND", transport=transport) as (client, server):
        seen = {
            "proxy": routed.proxy_address(Side.CLIENT, family),
            "peer": routed.address(Side.SERVER, family),
        }
        assert client.story() == {"peer": seen[source], "heard": "from the server"}
        assert server.story() == {
            "peer": routed.address(Side.CLIENT, family),
            "heard": "from the client",
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_s41_the_clients_own_connection_goes_where_it_was_permitted_to(
    routed: Network, family: Family
) -> None:
    ports = {"verb": "OUTBOUND", "secondary": SECONDARY_PORT}
    with all_parts(routed, family, "proxy", **ports) as (client, server):
        host = routed.address(Side.SERVER, family)
        assert client.story() == {"peer": host, "heard": "from the server"}
        assert server.story() == {
            "peer": routed.proxy_address(Side.SERVER, family),
            "heard": "from the client",
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_s44_without_the_permission_there_is_no_way(routed: Network, family: Family) -> None:
    host = routed.address(Side.SERVER, family)
    proxy = {"any": ANY[family], "ports": LISTENERS, "source": "proxy"}
    code = f"import socket; socket.create_connection(('{host}', {SECONDARY_PORT}), 5).recv(1)"
    with playing(routed, Side.PROXY, proxy), pytest.raises(AssertionError, match=r"closed|reset"):
        routed.run(Side.CLIENT, [sys.executable, "-c", f"{code} or exit('closed')"])


# The kernel does the same where it forwards, and without any policy route.


@pytest.fixture(scope="module")
def forwarding(needs_network: None) -> Iterator[Network]:
    if find_program("nft") is None:
        pytest.skip("package missing: nftables")
    with forwarding_network() as net:
        net.add_default_route(Side.CLIENT)
        net.add_default_route(Side.SERVER)
        net.run(Side.PROXY, ["nft", "-f", "-"], standard_input=REDIRECTED)
        yield net


def carried(net: Network, transport: str) -> bool:
    """Whether the kernel has carried something for the proxy."""
    return "mark=26231" in conntrack(net, "-p", transport)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["proxy", "peer"])
def test_s12_the_kernel_leads_the_server_to_the_clients_own_address(
    forwarding: Network, family: Family, transport: str, source: str
) -> None:
    net, ask = forwarding, {"verb": "INBOUND", "transport": transport}
    net.run(Side.PROXY, ["conntrack", "-F"])
    with all_parts(net, family, source, "auto", **ask) as (client, server):
        seen = {
            "proxy": net.proxy_address(Side.CLIENT, family),
            "peer": net.address(Side.SERVER, family),
        }
        assert client.story() == {"peer": seen[source], "heard": "from the server"}
        assert server.story() == {
            "peer": net.address(Side.CLIENT, family),
            "heard": "from the client",
        }
        # Of datagrams nothing is left when the session has ended.
        assert transport == "udp" or carried(net, transport)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_without_the_kernel_nothing_leads_it_there(forwarding: Network, transport: str) -> None:
    ask = {"verb": "INBOUND", "transport": transport}
    with (
        all_parts(forwarding, 4, "proxy", "off", **ask) as (_, server),
        pytest.raises(AssertionError, match="refused"),
    ):
        server.story()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["auto", "off"])
def test_s41_the_kernel_lets_the_clients_own_connection_through(
    forwarding: Network, family: Family, kernel: str
) -> None:
    """On its way, it does not come to any listener."""
    ports = {"verb": "OUTBOUND", "secondary": SECONDARY_PORT}
    forwarding.run(Side.PROXY, ["conntrack", "-F"])
    with all_parts(forwarding, family, "proxy", kernel, **ports) as (client, server):
        host = forwarding.address(Side.SERVER, family)
        assert client.story() == {"peer": host, "heard": "from the server"}
        assert server.story() == {
            "peer": forwarding.proxy_address(Side.SERVER, family),
            "heard": "from the client",
        }
        assert carried(forwarding, "tcp") is (kernel == "auto")
