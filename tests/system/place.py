"""A network with a proxy whose clients ask it for servers that they have no route to.

Names of the servers resolve in the proxy's namespace only, so that a client that gets anywhere by a
name has left it to the proxy.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from fwproxy import users
from fwproxy.users import PasswordHash

from .matrix import Samples
from .namespaces import Network, Side, network
from .processes import run
from .proxy import Listener, Proxy, running_proxy
from .terms import Family
from .ways import Door, Speech, Way

PROGRAMS = Path(__file__).parent / "programs"
FAMILIES: tuple[Family, ...] = (4, 6)
WHO_PORT, HTTP_PORT, HTTPS_PORT = 7007, 8000, 8443
PORTS = {"socks": 1080, "http": 3128, "mixed": 1081}
USER, PASSWORD = "anna", "open-sesame"
RULES = '[[rules]]\naction = "allow"\n'


@attrs.frozen
class Place:
    """The network, what runs in it, and how to get into the proxy.

    Attributes:
        authority: the file of the certificate that the web servers have.
    """

    net: Network
    proxy: Proxy
    authority: Path

    def door(self, name: str, *, user: bool = False) -> Door:
        host = self.net.proxy_address(Side.CLIENT)
        login = (USER, PASSWORD) if user else ("", "")
        return Door(host, PORTS[name], *login)

    def run(self, way: Way, door: Door, server: str, port: int) -> str:
        if lack := way.missing():
            pytest.skip(f"package missing: {lack}")
        return self.net.run(Side.CLIENT, way.command(door, server, port), standard_input="hello")

    def servers(self, way: Way) -> list[str]:
        """What the way can be told: addresses, and a name where the proxy resolves it."""
        addresses = [self.net.address(Side.SERVER, family) for family in sorted(way.families)]
        return [*addresses, self.net.server_name(4)] if way.by_name else addresses


@contextlib.contextmanager
def place_for(samples: Samples) -> Iterator[Place]:
    """Make the network, with servers on both of the server's addresses, and the proxy."""
    with (
        tempfile.TemporaryDirectory(prefix="fwproxy-place-") as name,
        network() as net,
        contextlib.ExitStack() as stack,
    ):
        directory = Path(name)
        certificate = make_certificate(net, directory / "web.pem")
        for family in FAMILIES:
            host = net.address(Side.SERVER, family)
            ports = [str(HTTP_PORT), str(HTTPS_PORT)]
            start(stack, net, "web.py", host, *ports, str(samples.root), str(certificate))
            start(stack, net, "who.py", "serve", host, str(WHO_PORT))
        proxy = stack.enter_context(running(net, directory))
        yield Place(net, proxy, certificate)
        proxy.finish()


def start(stack: contextlib.ExitStack, net: Network, program: str, *args: str) -> None:
    """Run one of the servers, which says when it has started."""
    command = [sys.executable, PROGRAMS / program, *args]
    process = stack.enter_context(net.popen(Side.SERVER, command))
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"


def make_certificate(net: Network, path: Path) -> Path:
    """Make a certificate for the server by all of its names, and put its key into the same file."""
    names = [f"IP:{net.address(Side.SERVER, family)}" for family in FAMILIES]
    names += [f"DNS:{net.server_name(family)}" for family in FAMILIES]
    run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=server", "-keyout", path, "-out", path,
            "-addext", f"subjectAltName={','.join(names)}",
        ]
    )  # fmt: skip
    return path


@contextlib.contextmanager
def running(net: Network, directory: Path) -> Iterator[Proxy]:
    """Run the proxy, with a listener of each kind; users log in at the mixed one."""
    passwords = directory / "users"
    users.write(passwords, {USER: PasswordHash.make(PASSWORD.encode(), cost_log2=10)})
    host = net.proxy_address(Side.CLIENT)
    listeners = [
        Listener(
            name, host, kind=name, port=port, protocol=None,
            keys={"users": str(passwords)} if name == "mixed" else {},
        )
        for name, port in PORTS.items()
    ]  # fmt: skip
    limits = {"max_failed_logins": 1000}  # wrong passwords are tried, all from one address
    with running_proxy(
        listeners, RULES, namespace=net.namespace(Side.PROXY), limits=limits
    ) as proxy:
        yield proxy


def doors(way: Way, place: Place) -> Iterator[Door]:
    """The listeners that take a client: without login, and with one if it can."""
    yield place.door("http" if way.speech is Speech.HTTP else "socks")
    if way.login is not None:
        yield place.door("mixed", user=True)
