"""Three gateways to compare: the kernel's own FTP helper, and the proxy on two data paths.

Each has a network of its own, with the same servers in it. Behind the helper clients connect to
the servers themselves, and all that it does not let through is dropped; servers see the gateway's
address in all three.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterable, Iterator

import attrs

from .client_kind import Client
from .ftp_servers import VSFTPD, PureFTPd, PyFTPdLib
from .kernel_gateway import OFF, PORTS, REQUIRE, forwarding_network
from .matrix import Combination, Samples
from .namespaces import PREFIX_LENGTHS, Network, Side
from .processes import find_program
from .proxy import Listener, Proxy, running_proxy
from .routes import Servers, running_servers
from .server_kind import ServerKind
from .terms import Family, Target

SERVER_PORTS: dict[type[ServerKind], int] = {VSFTPD: 21, PureFTPd: 2121, PyFTPdLib: 2122}

HELPER = f"""\
table inet helper {{
    ct helper ftp {{
        type "ftp" protocol tcp;
    }}
    chain prerouting {{
        type filter hook prerouting priority 0;
        tcp dport {{ {", ".join(map(str, SERVER_PORTS.values()))} }} ct helper set "ftp"
    }}
    chain forward {{
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "{Side.CLIENT}" tcp dport {{ {", ".join(map(str, SERVER_PORTS.values()))} }} accept
    }}
    chain postrouting {{
        type nat hook postrouting priority 100;
        oifname "{Side.SERVER}" masquerade
    }}
}}
"""


class Way(enum.StrEnum):
    """Who carries data connections."""

    HELPER = "helper"
    KERNEL = "kernel"
    SPLICE = "splice"


@attrs.frozen
class Gateway:
    """A network whose middle is one of the three; without a proxy it is the helper."""

    way: Way
    net: Network
    servers: Servers
    proxy: Proxy | None

    def target(self, kind: type[ServerKind], family: Family) -> Target:
        """Where clients find a server."""
        server = self.servers[kind, family]
        if self.proxy is None:
            return server.target
        return self.proxy.target(f"{kind.name}-{family}", server)

    def client(self, case: Combination) -> Client:
        """The client of a case, where it belongs."""
        return case.build_client(self.net.namespace(Side.CLIENT))


def load_helper(net: Network) -> None:
    """Let the kernel's helper read control connections; AssertionError where it has none."""
    net.run(Side.PROXY, [find_program("nft") or "nft", "-f", "-"], standard_input=HELPER)


@contextlib.contextmanager
def gateway(
    way: Way,
    samples: Samples,
    stranger_link: Side | None = None,
    kinds: Iterable[type[ServerKind]] = SERVER_PORTS,
) -> Iterator[Gateway]:
    """Make one of them."""
    ports = {kind: SERVER_PORTS[kind] for kind in kinds}
    with forwarding_network(stranger_link) as net, running_servers(net, samples, ports) as servers:
        net.add_default_route()
        if stranger_link:
            net.add_default_route(Side.STRANGER)
        if way is Way.HELPER:
            load_helper(net)
            yield Gateway(way, net, servers, None)
            return
        hosts = {family: net.proxy_address(Side.CLIENT, family) for family in PREFIX_LENGTHS}
        listeners = [
            Listener(f"{kind.name}-{family}", hosts[family], server, port=SERVER_PORTS[kind])
            for (kind, family), server in servers.items()
        ]
        settings = PORTS + (REQUIRE if way is Way.KERNEL else OFF)
        with running_proxy(listeners, settings, namespace=net.namespace(Side.PROXY)) as proxy:
            yield Gateway(way, net, servers, proxy)
            proxy.finish()
