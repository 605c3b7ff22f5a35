"""Clients that do not know of the proxy: `redirect` listeners, set up as README.md says.

The clients send everything to the proxy's host as their router, which forwards nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from . import readme
from .conftest import RecordCombination
from .ftp_clients import Lftp, Ncftp
from .ftp_servers import VSFTPD
from .matrix import SAME_FAMILY, Combination, Samples, Workspace, exercise_briefly
from .namespaces import PREFIX_LENGTHS, Network, Side, network, reach
from .processes import find_program
from .proxy import running_proxy
from .routes import FTP_PORT, Route, cases, running_servers
from .server_kind import ServerKind
from .terms import Mode
from .ways import shows

INTERFACE_IN_README = "lan0"
# In active mode these refuse a connection that comes from another address than their server's.
MINDING = {Ncftp, Lftp}

FindRoute = Callable[[type[ServerKind]], Route]


@contextlib.contextmanager
def redirecting(kind: type[ServerKind], samples: Samples) -> Iterator[Route]:
    """Run the proxy as the README configures it, without its rule."""
    configuration = readme.block("toml", 'kind = "redirect"')
    with network() as net, running_servers(net, samples, {kind: FTP_PORT}) as servers:
        net.add_default_route()
        with running_proxy([], configuration, namespace=net.namespace(Side.PROXY)) as proxy:
            yield Route(net, servers, proxy)
            proxy.finish()


def add_rule(net: Network) -> None:
    """Type what the README says, for the interface that the clients are behind."""
    words = readme.replaced("\n".join(commands()), {INTERFACE_IN_README: str(Side.CLIENT)})
    net.run(Side.PROXY, ["sh", "-ec", words])


def commands() -> list[str]:
    """The nft commands of the README."""
    found = readme.commands("nft add rule")
    assert all(command.startswith("nft ") for command in found)
    return found


@pytest.fixture(scope="module")
def find_route(needs_network: None, samples: Samples) -> Iterator[FindRoute]:
    """A function that gives the network with a server of a kind, and with the rule."""
    if find_program("nft") is None:
        pytest.skip("package missing: nftables")
    routes: dict[type[ServerKind], Route] = {}
    with contextlib.ExitStack() as stack:

        def find(kind: type[ServerKind]) -> Route:
            if kind not in routes:
                routes[kind] = stack.enter_context(redirecting(kind, samples))
                add_rule(routes[kind].net)
            return routes[kind]

        yield find


@shows("redirect", "FTP")
@pytest.mark.parametrize(
    "case",
    [
        case
        for case in cases(SAME_FAMILY)
        if case.mode is Mode.PASSIVE or case.client not in MINDING
    ],
    ids=str,
)
def test_redirect(
    case: Combination,
    find_route: FindRoute,
    workspace: Workspace,
    record_combination: RecordCombination,
) -> None:
    record_combination("redirected", case)
    route = find_route(case.server)
    start = len(route.proxy.lines())
    target = route.server(case).target
    route.check_transfers(start, exercise_briefly(route.client(case), target, workspace))


def test_without_the_rule_nobody_gets_through(find_route: FindRoute, samples: Samples) -> None:
    with redirecting(VSFTPD, samples) as route:
        for family in PREFIX_LENGTHS:
            server = route.servers[VSFTPD, family]
            assert "timed out" in reach(route.net, Side.CLIENT, server.host, server.port)
        add_rule(route.net)
        for family in PREFIX_LENGTHS:
            server = route.servers[VSFTPD, family]
            assert reach(route.net, Side.CLIENT, server.host, server.port) == "connected"
        route.proxy.await_log("connection closed", count=len(PREFIX_LENGTHS))


def test_a_client_that_connects_to_the_proxy_itself_is_turned_away(find_route: FindRoute) -> None:
    route = find_route(VSFTPD)
    for family in PREFIX_LENGTHS:
        start = len(route.proxy.lines())
        address = route.net.proxy_address(Side.CLIENT, family)
        reach(route.net, Side.CLIENT, address, FTP_PORT)
        (closed,) = route.proxy.await_log("connection closed", start)
        assert "proxy itself" in closed["reason"]
    route.proxy.await_rest()


def test_a_port_of_the_pool_that_nobody_has_opened_is_refused(find_route: FindRoute) -> None:
    route = find_route(VSFTPD)
    for family in PREFIX_LENGTHS:
        server = route.servers[VSFTPD, family]
        assert "refused" in reach(route.net, Side.CLIENT, server.host, 45000)
