"""Gateways to compare, each in a network of namespaces of its own: client, gateway and server.

    client --192.0.2.0/24-- gateway --198.51.100.0/24-- server (vsftpd)

* ``FTP helper``: the kernel's nf_conntrack_ftp and nf_nat_ftp, everything else dropped.
* ``kernel`` and ``splice``: fwproxy, with and without its kernel path.
* ``routed``: a router that looks at nothing, and translates nothing.

They need root. What is made goes with the block, also when that is left by an exception.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from textwrap import dedent

from benchmarks.contenders import Contender, max_connections, version_in, vsftpd, which
from benchmarks.processes import BenchError, Program, program
from tests.system.gateways import load_helper
from tests.system.kernel_gateway import forwarding_network
from tests.system.namespaces import Network, Side, missing

PORT = 21

Start = Callable[[Network, Path], "AbstractContextManager[Gateway]"]


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where clients in the namespace find the FTP server, and the proxy that is between."""

    net: Network
    host: str
    proxy: Program | None

    @property
    def where(self) -> str:
        return f"{self.host}:{PORT}"

    @property
    def client(self) -> str:
        return self.net.namespace(Side.CLIENT)


@cache
def nft_version() -> str:
    if lack := missing():
        raise BenchError(f"namespaces need {lack}")
    return version_in([which("nft", "nftables"), "--version"], r"v(\S+)")


def fwproxy_command(net: Network, directory: Path, mode: str) -> list[str]:
    """fwproxy in front of the server, on the port that clients take for the server's."""
    config = directory / "fwproxy.toml"
    config.write_text(
        dedent(f"""\
        [[listeners]]
        name = "ftp"
        kind = "forward"
        bind = "{net.proxy_address(Side.CLIENT)}:{PORT}"
        upstream = "{net.address(Side.SERVER)}:{PORT}"
        protocol = "ftp"

        [datapath]
        kernel = "{mode}"

        [limits]
        max_sessions = {max_connections()}
        max_sessions_per_client = {max_connections()}

        [log]
        format = "json"
        """)
    )
    return [sys.executable, "-m", "fwproxy", "run", "--config", str(config)]


@contextmanager
def by_helper(net: Network, _workspace: Path) -> Iterator[Gateway]:
    load_helper(net)
    yield Gateway(net, net.address(Side.SERVER), None)


@contextmanager
def by_route(net: Network, _workspace: Path) -> Iterator[Gateway]:
    net.add_default_route(Side.SERVER)
    yield Gateway(net, net.address(Side.SERVER), None)


def by_fwproxy(mode: str) -> Start:
    @contextmanager
    def start(net: Network, workspace: Path) -> Iterator[Gateway]:
        directory = Path(mkdtemp(prefix=f"fwproxy-{mode}-", dir=workspace))
        command = fwproxy_command(net, directory, mode)
        host, namespace = net.proxy_address(Side.CLIENT), net.namespace(Side.PROXY)
        with program("fwproxy", command, directory / "log", namespace) as proxy:
            proxy.wait_until_listening(PORT, host, net.namespace(Side.CLIENT))
            yield Gateway(net, host, proxy)

    return start


HELPER = Contender("FTP helper", nft_version, None)
KERNEL = Contender("kernel", nft_version, None)
SPLICE = Contender("splice", nft_version, None)
ROUTED = Contender("routed", nft_version, None)

STARTS: dict[Contender, Start] = {
    HELPER: by_helper,
    KERNEL: by_fwproxy("require"),
    SPLICE: by_fwproxy("off"),
    ROUTED: by_route,
}


@contextmanager
def reported() -> Iterator[None]:
    """Let what goes wrong with namespaces cost one contender, and not the whole run."""
    try:
        yield
    except AssertionError as error:
        raise BenchError(str(error)) from error


@contextmanager
def gateway(contender: Contender, workspace: Path, large_file: int) -> Iterator[Gateway]:
    """Make the network of one contender, with its server."""
    with ExitStack() as stack:
        with reported():
            net = stack.enter_context(forwarding_network())
            net.add_default_route()
        host, namespace = net.address(Side.SERVER), net.namespace(Side.SERVER)
        stack.enter_context(vsftpd(workspace, large_file, host, namespace))
        with reported():
            made = stack.enter_context(STARTS[contender](net, workspace))
        yield made
