"""A server behind the proxy that sees its clients' own addresses, set up as README.md says."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import pytest

from . import readme
from .conftest import RecordCombination
from .ftp_clients import Ftplib
from .ftp_servers import VSFTPD
from .kernel_gateway import OFF, REQUIRE, forwarding_network
from .matrix import SAME_FAMILY, Combination, Samples, Workspace, exercise_briefly
from .namespaces import PREFIX_LENGTHS, PREFIXES, Network, Side, network
from .processes import find_program
from .proxy import bracketed, running_proxy, wait_until
from .routes import FTP_PORT, Route, cases, running_servers
from .terms import Family
from .ways import shows

SHOWN = 'proxy_mode = "client-address"'
ANYBODY: dict[Family, str] = {4: "0.0.0.0/0", 6: "::/0"}
LOGIN = """
import socket, sys
with socket.create_connection((sys.argv[1], 21), 10) as sock:
    print(sock.recv(3).decode(), flush=True)
    sock.recv(1 << 16)
    sock.recv(1)
"""


def prefix(side: Side, family: Family) -> str:
    lowest = "0" if family == 4 else ""
    return f"{PREFIXES[side][family]}{lowest}/{PREFIX_LENGTHS[family]}"


def configuration(net: Network, family: Family, *, shown: bool) -> str:
    """The README's, for the network of the test."""
    outer, inner = (net.proxy_address(side, family) for side in (Side.CLIENT, Side.SERVER))
    words = {
        '"198.51.100.1:21"': f'"{bracketed(outer, FTP_PORT)}"',
        '"198.51.100.1"': f'"{outer}"',
        '"10.77.0.5:21"': f'"{bracketed(net.address(Side.SERVER, family), FTP_PORT)}"',
        '"10.77.0.0/24"': f'"{prefix(Side.SERVER, family)}"',
        '"10.77.0.1"': f'"{inner}"',
        '"0.0.0.0/0"': f'"{ANYBODY[family]}"',
    }
    text = readme.replaced(readme.block("toml", SHOWN), words)
    return text if shown else readme.replaced(text, {SHOWN: ""})


def bring_answers(net: Network, family: Family) -> None:
    """What the README says the host needs."""
    ip = "ip" if family == 4 else "ip6"
    words = {
        "ip saddr 10.77.0.5": f"{ip} saddr {net.address(Side.SERVER, family)}",
        "lan0": str(Side.SERVER),
    }
    rules = readme.replaced(readme.block("nft", "fwproxy-published"), words)
    net.run(Side.PROXY, ["nft", "-f", "-"], standard_input=rules)
    for words_of_ip in ("rule add fwmark 1 lookup 100", "route add local default dev lo table 100"):
        assert words_of_ip in readme.TEXT
        net.run(Side.PROXY, ["ip", f"-{family}", *words_of_ip.split()])


@contextlib.contextmanager
def published(
    samples: Samples, family: Family, *, shown: bool, in_kernel: bool = False
) -> Iterator[Route]:
    if find_program("nft") is None:
        pytest.skip("package missing: nftables")
    place = forwarding_network() if in_kernel else network()
    with place as net, running_servers(net, samples, {VSFTPD: FTP_PORT}) as servers:
        net.add_default_route(Side.SERVER)
        if shown:
            bring_answers(net, family)
        text = configuration(net, family, shown=shown) + (REQUIRE if in_kernel else OFF)
        with running_proxy([], text, namespace=net.namespace(Side.PROXY)) as proxy:
            yield Route(net, servers, proxy)
            proxy.finish()


def client_that_the_server_sees(route: Route, family: Family) -> str:
    """The other end of a control connection, as the server's host tells it."""
    outer = route.net.proxy_address(Side.CLIENT, family)
    with route.net.popen(Side.CLIENT, [sys.executable, "-c", LOGIN, outer]) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "220\n"
        command = ["ss", "-Htn", "state", "established", f"sport = :{FTP_PORT}"]
        (line,) = wait_until(lambda: route.net.run(Side.SERVER, command).strip().splitlines())
    peer = line.split()[3]
    return peer.rpartition(":")[0].strip("[]")


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("family", [4, 6])
def test_whom_the_server_sees(
    needs_network: None,
    samples: Samples,
    family: Family,
    shown: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    with published(samples, family, shown=shown) as route:
        net = route.net
        expected = (
            net.address(Side.CLIENT, family) if shown else net.proxy_address(Side.SERVER, family)
        )
        assert client_that_the_server_sees(route, family) == expected


@pytest.fixture(scope="module")
def find_route(needs_network: None, samples: Samples) -> Iterator[Callable[[Family], Route]]:
    """A function that gives the network of an IP version, whose server sees its clients."""
    routes: dict[Family, Route] = {}
    with contextlib.ExitStack() as stack:

        def find(family: Family) -> Route:
            if family not in routes:
                routes[family] = stack.enter_context(published(samples, family, shown=True))
            return routes[family]

        yield find


@shows("published", "FTP")
@pytest.mark.parametrize(
    "case", [each for each in cases(SAME_FAMILY) if each.server is VSFTPD], ids=str
)
def test_transfers_with_a_server_that_sees_its_clients(
    case: Combination,
    find_route: Callable[[Family], Route],
    workspace: Workspace,
    record_combination: RecordCombination,
) -> None:
    """vsftpd refuses data connections of another host than the control connection's."""
    record_combination("published", case)
    route = find_route(case.client_family)
    start = len(route.proxy.lines())
    target = route.proxy.target("published", route.server(case))
    route.check_transfers(start, exercise_briefly(route.client(case), target, workspace))


PUBLISHED = [each for each in cases(SAME_FAMILY) if each.server is VSFTPD and each.client is Ftplib]


@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_the_kernel_carries_transfers_with_a_published_server(
    needs_network: None, samples: Samples, case: Combination, workspace: Workspace
) -> None:
    with published(samples, case.client_family, shown=False, in_kernel=True) as route:
        start = len(route.proxy.lines())
        target = route.proxy.target("published", route.server(case))
        count = exercise_briefly(route.client(case), target, workspace)
        route.check_transfers(start, count, "kernel")


@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_but_not_where_answers_are_brought_to_the_proxy_itself(
    needs_network: None, samples: Samples, case: Combination, workspace: Workspace
) -> None:
    """Which a server needs that sees its clients: the kernel would bring the proxy what is not
    for it."""
    with published(samples, case.client_family, shown=True, in_kernel=True) as route:
        start = len(route.proxy.lines())
        target = route.proxy.target("published", route.server(case))
        count = exercise_briefly(route.client(case), target, workspace)
        route.check_transfers(start, count)
        lines = route.proxy.logged("connection closed", protocol="ftp-data", path="splice")
        assert {line["why"] for line in lines} == {
            "packets to addresses of other hosts may be diverted (ip rule)"
        }
