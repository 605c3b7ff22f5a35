"""A network with a proxy whose clients ask it for servers that they have no route to.

Names of the servers resolve in the proxy's namespace only, so that a client that gets anywhere by a
name has left it to the proxy.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from fwproxy import users
from fwproxy.users import PasswordHash

from .matrix import Samples
from .namespaces import Network, Side, network
from .proxy import Listener, Proxy, running_proxy
from .terms import Family
from .ways import Door, Speech, Way

PROGRAMS = Path(__file__).parent / "programs"
FAMILIES: tuple[Family, ...] = (4, 6)
WHO_PORT, HTTP_PORT = 7007, 8000
PORTS = {"socks": 1080, "http": 3128, "mixed": 1081}
USER, PASSWORD = "anna", "open-sesame"
RULES = '[[rules]]\naction = "allow"\n'


@attrs.frozen
class Place:
    """The network, what runs in it, and how to get into the proxy."""

    net: Network
    proxy: Proxy

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
    with network() as net, contextlib.ExitStack() as stack:
        for family in FAMILIES:
            host = net.address(Side.SERVER, family)
            web = ["-m", "http.server", "-b", host, "-d", samples.root, str(HTTP_PORT)]
            stack.enter_context(net.popen(Side.SERVER, [sys.executable, "-u", *web]))
            who = [sys.executable, PROGRAMS / "who.py", "serve", host, str(WHO_PORT)]
            process = stack.enter_context(net.popen(Side.SERVER, who))
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
        yield stack.enter_context(running(net, samples))


@contextlib.contextmanager
def running(net: Network, samples: Samples) -> Iterator[Place]:
    passwords = samples.root.with_suffix(".users")
    users.write(passwords, {USER: PasswordHash.make(PASSWORD.encode(), cost_log2=10)})
    host = net.proxy_address(Side.CLIENT)
    listeners = [
        Listener(
            name, host, kind=name, port=port, protocol=None,
            keys={"users": str(passwords)} if name == "mixed" else {},
        )
        for name, port in PORTS.items()
    ]  # fmt: skip
    try:
        with running_proxy(listeners, RULES, namespace=net.namespace(Side.PROXY)) as proxy:
            yield Place(net, proxy)
            proxy.finish()
    finally:
        passwords.unlink()


def doors(way: Way, place: Place) -> Iterator[Door]:
    """The listeners that take a client: without login, and with one if it can."""
    yield place.door("http" if way.speech is Speech.HTTP else "socks")
    if way.login is not None:
        yield place.door("mixed", user=True)
