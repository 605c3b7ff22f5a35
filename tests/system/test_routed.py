"""Clients and servers that have no route to each other, and listeners of the kinds `forward` and
`gateway` between them. Every combination is also tried without the proxy, which must fail."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from . import readme
from .client_kind import Client
from .conftest import RecordCombination
from .ftp_clients import Curl, Lftp, Ncftp
from .ftp_servers import VSFTPD, PureFTPd
from .matrix import ALL_FAMILIES, Combination, Samples, Workspace, exercise_briefly
from .namespaces import PREFIX_LENGTHS, PREFIXES, Network, Side
from .proxy import Listener, bracketed, running_proxy
from .routes import FTP_PORT, Route, cases, check_no_other_way, running_servers
from .server_kind import FTPServer, ServerKind
from .terms import Target
from .ways import shows

# The second server is not where a gateway looks, so that its port has to be named.
PORTS: dict[type[ServerKind], int] = {VSFTPD: FTP_PORT, PureFTPd: 2100}
GATEWAY_PORT = 2121
GATEWAY_IN_README, CLIENTS_IN_README = "10.77.0.1", "10.77.0.0/24"
SET_BY_FILE: set[type[Client]] = {Lftp, Ncftp}


def forward_name(case: Combination) -> str:
    return f"{case.server.name}-{case.families}"


@pytest.fixture(scope="module")
def route(net: Network, samples: Samples) -> Iterator[Route]:
    """The network with all servers, and one proxy with a listener for each combination."""
    with running_servers(net, samples, PORTS) as servers:
        listeners = [
            Listener(
                f"{kind.name}-{client}-{family}", net.proxy_address(Side.CLIENT, client), server
            )
            for (kind, family), server in servers.items()
            for client in PREFIX_LENGTHS
        ]
        plain = servers[VSFTPD, 4]
        listeners += [
            Listener("gateway-6", net.proxy_address(Side.CLIENT, 6), None, "gateway", GATEWAY_PORT),
            Listener("plain", net.proxy_address(Side.CLIENT), plain, protocol="tcp"),
        ]
        with running_proxy(
            listeners, gateway_configuration(net), namespace=net.namespace(Side.PROXY)
        ) as proxy:
            yield Route(net, servers, proxy)
            proxy.finish()


def gateway_configuration(net: Network) -> str:
    """The README's, with its rules, for the clients of both IP versions."""
    prefixes = [f"{PREFIXES[Side.CLIENT][4]}0/24", f"{PREFIXES[Side.CLIENT][6]}/64"]
    plain = '[[rules]]\naction = "allow"\nprotocols = ["tcp"]\n'
    return plain + readme.replaced(
        readme.block("toml", 'kind = "gateway"'),
        {
            f"{GATEWAY_IN_README}:{GATEWAY_PORT}": f"{net.proxy_address(Side.CLIENT)}:2121",
            f'"{CLIENTS_IN_README}"': ", ".join(f'"{prefix}"' for prefix in prefixes),
        },
    )


@shows("forward", "FTP")
@pytest.mark.parametrize("case", cases(ALL_FAMILIES), ids=str)
def test_forward(
    case: Combination, route: Route, workspace: Workspace, record_combination: RecordCombination
) -> None:
    record_combination("routed, forward", case)
    client, server = route.client(case), route.server(case)
    check_no_other_way(client, server, workspace)
    start = len(route.proxy.lines())
    target = route.proxy.target(forward_name(case), server)
    route.check_transfers(start, exercise_briefly(client, target, workspace))


@shows("gateway", "FTP")
@pytest.mark.parametrize("case", cases(ALL_FAMILIES), ids=str)
def test_gateway_used_as_the_readme_says(
    case: Combination, route: Route, workspace: Workspace, record_combination: RecordCombination
) -> None:
    record_combination("routed, gateway", case)
    client, server = route.client(case), route.server(case)
    check_no_other_way(client, server, workspace)
    start = len(route.proxy.lines())
    gateway = route.net.proxy_address(Side.CLIENT, case.client_family)
    client, target = by_gateway(client, gateway, server)
    route.check_transfers(start, exercise_briefly(client, target, workspace))


def by_gateway(client: Client, gateway: str, server: FTPServer) -> tuple[Client, Target]:
    """The client as it is set to use the gateway, and what to tell it to connect to.

    Those with a setting for it do not put an IPv6 address into brackets: they are given names.
    """
    if type(client) in SET_BY_FILE:
        files = readme.settings_files(client.name)
        here = gateway if client.name == "ncftp" else bracketed(gateway, GATEWAY_PORT)
        there = GATEWAY_IN_README + ("" if client.name == "ncftp" else f":{GATEWAY_PORT}")
        home = {name: readme.replaced(text, {there: here}) for name, text in files.items()}
        name = Network.server_name(6 if ":" in server.host else 4)
        return attrs.evolve(client, home=home), attrs.evolve(server.target, host=name)
    host = f"[{server.host}]" if ":" in server.host else server.host
    if server.port != FTP_PORT:
        host += f":{server.port}"
    user = f"{server.username}@{host}"
    return client, Target(gateway, GATEWAY_PORT, user, server.password)


def test_a_port_forward_that_knows_no_ftp_is_not_enough(route: Route, workspace: Workspace) -> None:
    target = route.proxy.target("plain", route.servers[VSFTPD, 4])
    client = Curl(namespace=route.net.namespace(Side.CLIENT))
    start = len(route.proxy.lines())
    with pytest.raises(AssertionError, match=r"curl: \(7\)"):
        client.fetch(target, "one.bin", workspace.local / "one.bin")
    route.proxy.await_rest()
    (control,) = route.proxy.logged("connection closed", start)
    assert control["server_bytes"] > 0, "not even the control connection worked"
