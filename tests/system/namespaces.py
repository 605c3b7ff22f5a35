"""Networks of namespaces: a client and a server that meet only in the proxy.

    client --192.0.2.0/24, 2001:db8:1::/64-- proxy --198.51.100.0/24, 2001:db8:2::/64-- server

There is no route between client and server, and the proxy's namespace does not forward. A stranger
can be put on either link. Names are unique, so that several test processes can do this at once.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from .processes import find_program, in_namespace, run, stop
from .terms import Family

NAME_PREFIX = "fwproxy-test"
NAMES = Path("/run/netns")
ETC = Path(
    "/etc/netns"
)  # `ip netns exec` puts the files of a namespace in there over those of /etc
LINK_TIMEOUT = 5.0


class Side(enum.StrEnum):
    """A namespace of the network."""

    CLIENT = "client"
    PROXY = "proxy"
    SERVER = "server"
    STRANGER = "stranger"
    SWITCH = "switch"


# The first part of the addresses on the link that leads from the proxy to a side.
PREFIXES: dict[Side, dict[Family, str]] = {
    Side.CLIENT: {4: "192.0.2.", 6: "2001:db8:1::"},
    Side.SERVER: {4: "198.51.100.", 6: "2001:db8:2::"},
}
PREFIX_LENGTHS: dict[Family, int] = {4: 24, 6: 64}
PROXY_NUMBER, END_NUMBER, STRANGER_NUMBER = 1, 2, 3
# In the namespaces at the ends of a link; in the proxy's, devices are named for the side they face.
END_DEVICE = "proxy"
SETTINGS = {
    "net/ipv4/ip_forward": 0,
    "net/ipv6/conf/all/disable_ipv6": 0,
    "net/ipv6/conf/all/forwarding": 0,
    "net/ipv6/conf/all/accept_ra": 0,
}

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.0).close()
except OSError as error:
    print(type(error).__name__, error)
else:
    print("connected")
"""


@functools.cache
def missing() -> str | None:
    """What is missing to make namespaces, for a skip that names it."""
    if find_program("ip") is None:
        return "iproute2"
    if os.geteuid() != 0:
        return "root"
    try:
        run(["unshare", "--net", "true"])
    except (AssertionError, OSError):
        return "the right to make network namespaces"
    return None


@attrs.frozen
class Network:
    """Three namespaces, or more with a stranger on the link to `stranger_link`."""

    name: str
    stranger_link: Side | None

    @property
    def sides(self) -> list[Side]:
        """The namespaces that there are."""
        stranger = [Side.STRANGER, Side.SWITCH] if self.stranger_link else []
        return [Side.CLIENT, Side.PROXY, Side.SERVER, *stranger]

    def namespace(self, side: Side) -> str:
        """The name to give to `ip netns exec`."""
        return f"{self.name}-{side}"

    def address(self, side: Side, family: Family = 4) -> str:
        """The address of the client, the server or the stranger."""
        if side is Side.STRANGER:
            assert self.stranger_link, "there is no stranger in this network"
            return f"{PREFIXES[self.stranger_link][family]}{STRANGER_NUMBER}"
        return f"{PREFIXES[side][family]}{END_NUMBER}"

    def proxy_address(self, facing: Side, family: Family = 4) -> str:
        """The proxy's address on the link to the client or to the server."""
        return f"{PREFIXES[facing][family]}{PROXY_NUMBER}"

    @staticmethod
    def server_name(family: Family) -> str:
        """A name that the proxy, and nobody else, knows the server's address by."""
        return f"server-ipv{family}.example.org"

    def run(
        self,
        side: Side,
        args: Sequence[str | Path],
        *,
        timeout: float = 30.0,
        standard_input: str = "",
    ) -> str:
        """The output of a command in a namespace; AssertionError if it fails or hangs."""
        return run(
            args,
            namespace=self.namespace(side),
            timeout=timeout,
            standard_input=standard_input,
        )

    @contextlib.contextmanager
    def popen(
        self, side: Side, args: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """A process in a namespace, its output in a pipe; its whole group ends with the block."""
        process = subprocess.Popen(
            in_namespace(self.namespace(side), args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                stop(process)

    def add_default_route(self, side: Side = Side.CLIENT) -> None:
        """Let the client (or another) send everything to the proxy, as transparent ones need."""
        link = self.stranger_link if side is Side.STRANGER else side
        assert link, "there is no stranger in this network"
        routes = [
            f"-{family} route add default via {self.proxy_address(link, family)}"
            for family in PREFIX_LENGTHS
        ]
        for route in routes:
            run(["ip", "-n", self.namespace(side), *route.split()])


@contextlib.contextmanager
def network(stranger_link: Side | None = None) -> Iterator[Network]:
    """Make the namespaces and their links; remove them and all that runs in them afterwards."""
    remove_leftovers()
    made = Network(f"{NAME_PREFIX}-{os.getpid()}-{secrets.token_hex(4)}", stranger_link)
    try:
        for side in made.sides:
            _add_namespace(made.namespace(side))
        for end in (Side.CLIENT, Side.SERVER):
            _link(made, end)
        for side in made.sides:
            _await_links(made.namespace(side))
        _write_name_files(made)
        yield made
    finally:
        for side in made.sides:
            _remove(made.namespace(side))


def reach(net: Network, side: Side, address: str, port: int) -> str:
    """What comes of connecting: "connected" or the error, in at most about a second."""
    return net.run(side, [sys.executable, "-c", CONNECT, address, str(port)]).strip()


def remove_leftovers() -> None:
    """Remove namespaces of test processes that were killed before they could do it."""
    for path in NAMES.glob(f"{NAME_PREFIX}-*"):
        process = path.name.removeprefix(f"{NAME_PREFIX}-").partition("-")[0]
        if not Path("/proc", process).exists():
            with contextlib.suppress(AssertionError):  # another process may be doing the same
                _remove(path.name)


def _add_namespace(name: str) -> None:
    run(["ip", "netns", "add", name])
    settings = "".join(f"echo {value} >/proc/sys/{key}\n" for key, value in SETTINGS.items())
    run(["sh", "-e"], namespace=name, standard_input=settings)
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def _link(made: Network, end: Side) -> None:
    """Connect the proxy with an end, through a switch if the stranger is on this link."""
    ends = [(Side.PROXY, str(end), PROXY_NUMBER), (end, END_DEVICE, END_NUMBER)]
    if made.stranger_link is end:
        ends.append((Side.STRANGER, END_DEVICE, STRANGER_NUMBER))
        switch = made.namespace(Side.SWITCH)
        # Snooping would keep IPv6's neighbour discovery from ports that have not asked for it yet.
        _batch(switch, ["link add bridge type bridge mcast_snooping 0", "link set bridge up"])
        for side, device, _ in ends:
            _add_pair(made.namespace(side), device, switch, str(side))
            _batch(switch, [f"link set {side} master bridge", f"link set {side} up"])
    else:
        _add_pair(made.namespace(Side.PROXY), str(end), made.namespace(end), END_DEVICE)
    for side, device, number in ends:
        _add_addresses(made.namespace(side), device, end, number)


def _write_name_files(made: Network) -> None:
    """Teach the proxy the names of the server. Other names do not resolve, at once."""
    servers = [f"{made.address(Side.SERVER, f)} {made.server_name(f)}\n" for f in PREFIX_LENGTHS]
    for side in made.sides:
        directory = ETC / made.namespace(side)
        directory.mkdir(parents=True)
        directory.joinpath("resolv.conf").write_text("nameserver 127.0.0.1\n")
        if side is Side.PROXY:
            directory.joinpath("hosts").write_text("".join(servers))


def _await_links(namespace: str) -> None:
    """Wait until all devices carry packets: the kernel tells them of a new link with some delay."""
    deadline = time.monotonic() + LINK_TIMEOUT
    while True:
        links = run(["ip", "-n", namespace, "-d", "-o", "link"]).splitlines()
        late = [line for line in links if not re.search(r"LOOPBACK|state UP", line)]
        late += [line for line in links if re.search(r"bridge_slave state (?!forwarding)", line)]
        if not late:
            return
        assert time.monotonic() < deadline, f"{namespace}: {late}"
        time.sleep(0.01)


def _add_pair(namespace: str, device: str, peer_namespace: str, peer_device: str) -> None:
    pair = f"link add {device} netns {namespace} type veth peer {peer_device}"
    run(["ip", *pair.split(), "netns", peer_namespace])


def _add_addresses(namespace: str, device: str, link: Side, number: int) -> None:
    addresses = [f"{prefix}{number}/{PREFIX_LENGTHS[f]}" for f, prefix in PREFIXES[link].items()]
    # Without duplicate address detection, during which an IPv6 address cannot be used yet.
    commands = [f"address add {address} dev {device} nodad" for address in addresses]
    _batch(namespace, [*commands, f"link set {device} up"])


def _batch(namespace: str, commands: Sequence[str]) -> None:
    lines = "".join(f"{command}\n" for command in commands)
    run(["ip", "-n", namespace, "-batch", "-"], standard_input=lines)


def _remove(name: str) -> None:
    shutil.rmtree(ETC / name, ignore_errors=True)
    if not NAMES.joinpath(name).exists():
        return
    for word in run(["ip", "netns", "pids", name]).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(word), signal.SIGKILL)
    run(["ip", "netns", "delete", name])
