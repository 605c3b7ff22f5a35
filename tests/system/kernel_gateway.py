"""A network whose proxy may translate: its namespace forwards, and conntrack counts there."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator

from .ends import ScriptedClient, active_command, connect
from .namespaces import Network, Side, network
from .proxy import Listener, Proxy, running_proxy
from .server_kind import FTPServer
from .terms import Family, Mode

FORWARDING = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/netfilter/nf_conntrack_acct": 1,
}
REQUIRE = '[datapath]\nkernel = "require"\n'
OFF = '[datapath]\nkernel = "off"\n'
PORTS = '[secondary]\nports = "40000-40999"\n'


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
    found = json.loads(net.run(Side.PROXY, ["nft", "-j", "list", "ruleset"]))["nftables"]
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
