"""A network whose proxy may translate: its namespace forwards, and conntrack counts there."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator

import attrs
import pytest

from .ends import ScriptedClient, active_command, connect, read_all
from .ftp_servers import VSFTPD
from .matrix import Samples
from .namespaces import Network, Side, network
from .proxy import Line, Listener, Proxy, running_proxy
from .server_kind import FTPServer
from .terms import Family, Mode

FORWARDING = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/netfilter/nf_conntrack_acct": 1,
}
REQUIRE = '[datapath]\nkernel = "require"\n'
OFF = '[datapath]\nkernel = "off"\n'
POOL = range(40000, 41000)
PORTS = f'[secondary]\nports = "{POOL[0]}-{POOL[-1]}"\n'


def set_system(net: Network, settings: dict[str, int], side: Side = Side.PROXY) -> None:
    """Change kernel settings of a namespace."""
    lines = "".join(f"echo {value} >/proc/sys/{key}\n" for key, value in settings.items())
    net.run(side, ["sh", "-e"], standard_input=lines)


@contextlib.contextmanager
def forwarding_network(stranger_link: Side | None = None) -> Iterator[Network]:
    """A network in which the proxy's namespace forwards."""
    with network(stranger_link) as net:
        set_system(net, FORWARDING)
        yield net


@contextlib.contextmanager
def kernel_proxy(
    net: Network,
    server: FTPServer,
    family: Family = 4,
    *,
    mode: str = REQUIRE,
    more: str = PORTS,
    data_mode: str = "client",
) -> Iterator[Proxy]:
    """A proxy in front of a server, in the proxy's namespace."""
    host = net.proxy_address(Side.CLIENT, family)
    listener = Listener("ftp", host, server, port=21, data_mode=data_mode)
    with running_proxy([listener], mode + more, namespace=net.namespace(Side.PROXY)) as proxy:
        yield proxy


def tables(net: Network, side: Side = Side.PROXY) -> list[str]:
    """The names of the nftables tables in a namespace."""
    return [line.split()[-1] for line in net.run(side, ["nft", "list", "tables"]).splitlines()]


def elements(net: Network) -> dict[str, int]:
    """How many elements the sets of the proxy's table have, those without any left out."""
    # Without the tables: nft 1.0.6 sometimes prints broken JSON of one that is owned.
    printed = [net.run(Side.PROXY, ["nft", "-j", "list", kind]) for kind in ("sets", "maps")]
    found = [entry for each in printed for entry in json.loads(each)["nftables"]]
    sets = [entry.get("map") or entry.get("set") for entry in found]
    counts = {each["name"]: len(each.get("elem", [])) for each in sets if each}
    return {name: count for name, count in counts.items() if count}


def conntrack(net: Network, *args: str, side: Side = Side.PROXY) -> str:
    """What conntrack lists."""
    return net.run(side, ["sh", "-c", f"conntrack -L {' '.join(args)} 2>/dev/null"])


@contextlib.contextmanager
def waiting_port(
    proxy: Proxy, mode: Mode, client: ScriptedClient
) -> Iterator[tuple[int, socket.socket | None]]:
    """Let the client ask for a data connection; the port for it, and where the client listens."""
    if mode is Mode.PASSIVE:
        yield client.passive()[1], None
        return
    with client.listen() as listener:
        start = len(proxy.lines())
        assert client.code(active_command(listener)) == 200
        (line,) = proxy.await_log("permission given", start)
        (port,) = re.findall(r"proxy_address=\S*:(\d+)", line["permission"])
        yield int(port), listener


def start_fetching(
    client: ScriptedClient, port: int, listener: socket.socket | None, name: str
) -> socket.socket:
    """Ask for a file over the data connection that has been set up."""
    if listener is None:
        data = connect(client.target.host, port, client.namespace)
        assert client.code(f"RETR {name}") == 150
    else:
        client.send(f"RETR {name}\r\n".encode())
        data = listener.accept()[0]
        assert client.code() == 150
    data.settimeout(10)
    return data


DROP = """\
table inet firewall {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
    }
}
"""
SPLICED, RESTS, BACK = (
    "no kernel path, connections are spliced",
    "the kernel path rests, connections are spliced",
    "the kernel carries connections again",
)


@attrs.frozen
class Site:
    """A network with a server in it."""

    net: Network
    server: FTPServer

    @contextlib.contextmanager
    def proxy(self, more: str = PORTS) -> Iterator[Proxy]:
        """Run a proxy; nothing is said of the kernel unless `more` does."""
        listener = Listener("ftp", self.net.proxy_address(Side.CLIENT), self.server, port=21)
        namespace = self.net.namespace(Side.PROXY)
        with running_proxy([listener], more, namespace=namespace) as proxy:
            yield proxy

    @contextlib.contextmanager
    def client(self, proxy: Proxy, side: Side = Side.CLIENT) -> Iterator[ScriptedClient]:
        """A client that has logged in; when it has left, nothing may be left of it."""
        target = proxy.target("ftp", self.server)
        with ScriptedClient(target, self.net.namespace(side)) as client:
            client.login()
            yield client
            assert client.code("QUIT") == 221
        proxy.finish()
        assert not [each for each in tables(self.net) if each.startswith("fwproxy_")]

    def load(self, rules: str) -> None:
        """Let an operator load rules."""
        self.net.run(Side.PROXY, ["nft", "-f", "-"], standard_input=rules)


def fetch(proxy: Proxy, client: ScriptedClient, mode: Mode, samples: Samples) -> Line:
    """Fetch a file; what the log says of its connection."""
    start = len(proxy.lines())
    with waiting_port(proxy, mode, client) as (port, listener):
        finish_fetching(client, port, listener, samples)
    return proxy.await_log("connection closed", start, protocol="ftp-data")[0]


def finish_fetching(
    client: ScriptedClient, port: int, listener: socket.socket | None, samples: Samples
) -> None:
    """Fetch a file over the data connection that has been set up."""
    with start_fetching(client, port, listener, "mib.bin") as data:
        assert read_all(data) == samples.content("mib.bin")
    assert client.code() == 226


@contextlib.contextmanager
def with_server(net: Network, samples: Samples) -> Iterator[Site]:
    """A server in a network."""
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    host = net.address(Side.SERVER)
    with VSFTPD.start(samples.root, host, net.namespace(Side.SERVER)) as server:
        yield Site(net, server)
