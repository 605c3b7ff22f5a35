"""What is open for whom, by a scan from a third host: never more than with the kernel's own helper.

The three ways of the oracle (test_kernel_oracle), before, during and after a transfer.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

import attrs
import pytest

from .ends import ScriptedClient, active_command, connect, knock, read_all
from .ftp_servers import VSFTPD
from .gateways import Gateway, Way, gateway
from .kernel_gateway import POOL
from .matrix import Samples
from .namespaces import Side
from .syn_scan import Scanner
from .terms import Family, Mode

COUNT = 2000
# Where the port is: towards the client (passive) or the server (active). The stranger is there too.
LINKS = {Mode.PASSIVE: Side.CLIENT, Mode.ACTIVE: Side.SERVER}

Found = set[tuple[str, str, str]]
"""When, in whose name, and what was open: the port that was announced, or any other's number."""


@attrs.frozen
class Scene:
    """A client that has asked for a data connection, and the port that waits for it."""

    found: Gateway
    mode: Mode
    family: Family
    client: ScriptedClient
    scanner: Scanner
    target: str
    port: int
    listener: socket.socket | None

    @property
    def peer(self) -> Side:
        """Who may come."""
        return LINKS[self.mode]

    @property
    def ports(self) -> range:
        """All ports that the proxy may open, or those around the one of the server's."""
        first = POOL[0] if self.found.proxy else max(1024, min(self.port - 1000, 65535 - COUNT))
        return range(first, first + COUNT)

    def scan(self, when: str, side: Side) -> Found:
        """Look once."""
        answers = self.scanner.scan(side, self.target, self.family, self.ports)
        if self.found.proxy is not None:  # which drops nothing, so that no answer may be missing
            assert len(answers.opened | answers.refused) == COUNT
        opened = answers.opened
        name = "peer" if side is self.peer else "stranger"
        if name == "stranger":
            opened = {port for port in opened if self.lets_in(side, port)}
        return {(when, name, "announced" if port == self.port else str(port)) for port in opened}

    def lets_in(self, side: Side, port: int) -> bool:
        """Whether a port that has answered is open indeed.

        One that listens learns only after the handshake who has come, and resets it then.
        """
        return knock(self.target, port, self.found.net.namespace(side)) not in {"refused", "reset"}

    def start_fetching(self, name: str) -> socket.socket:
        """Begin a transfer that lasts until it is read."""
        if self.listener is None:
            data = connect(self.target, self.port, self.client.namespace)
            assert self.client.code(f"RETR {name}") == 150
        else:
            self.client.send(f"RETR {name}\r\n".encode())
            data = self.listener.accept()[0]
            assert self.client.code() == 150
        data.settimeout(10)
        return data


@pytest.fixture(scope="module", params=list(Mode))
def mode(request: pytest.FixtureRequest) -> Mode:
    """Where the stranger is."""
    found: Mode = request.param
    return found


@pytest.fixture(scope="module")
def ways(
    mode: Mode, samples: Samples, needs_network: None
) -> Iterator[dict[Way, tuple[Gateway, Scanner]]]:
    """All three, with the means to scan them."""
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    with contextlib.ExitStack() as stack:
        made = {}
        for way in Way:
            found = stack.enter_context(gateway(way, samples, LINKS[mode], [VSFTPD]))
            scanner = Scanner(found.net)
            scanner.prepare([Side.STRANGER, LINKS[mode]])
            made[way] = found, scanner
        yield made


def announced_port(found: Gateway, family: Family, start: int) -> int:
    """The port that an active transfer has opened on the gateway."""
    if found.proxy is None:
        words = ["conntrack", "-L", "expect", "-f", f"ipv{family}"]
        expected = found.net.run(Side.PROXY, words)
        (port,) = re.findall(r"proto=6 .*?dport=(\d+)", expected)
    else:
        (line,) = found.proxy.await_log("permission given", start)
        (port,) = re.findall(r"proxy_address=\S*:(\d+)", line["permission"])
    return int(port)


@contextlib.contextmanager
def scene(found: Gateway, scanner: Scanner, mode: Mode, family: Family) -> Iterator[Scene]:
    """Log in and ask for a data connection."""
    target = found.target(VSFTPD, family)
    start = len(found.proxy.lines()) if found.proxy else 0
    with ScriptedClient(target, found.net.namespace(Side.CLIENT)) as client:
        client.login()
        if mode is Mode.PASSIVE:
            host, port = client.passive()
            yield Scene(found, mode, family, client, scanner, host, port, None)
            return
        with client.listen() as listener:
            assert client.code(active_command(listener)) == 200
            host = found.net.proxy_address(Side.SERVER, family)
            port = announced_port(found, family, start)
            yield Scene(found, mode, family, client, scanner, host, port, listener)


def what_is_open(here: Scene, samples: Samples) -> Found:
    """Scan while the port waits, while data flow, and afterwards."""
    found = here.scan("waiting", Side.STRANGER)
    with here.start_fetching("large.bin") as data:
        first = data.recv(1 << 16)
        for side in (here.peer, Side.STRANGER):
            found |= here.scan("during", side)
        assert first + read_all(data) == samples.content("large.bin")
    assert here.client.code() == 226
    for side in (here.peer, Side.STRANGER):
        found |= here.scan("after", side)
    return found


@pytest.mark.parametrize("family", [4, 6])
def test_no_more_is_open_than_with_the_kernels_helper(
    ways: dict[Way, tuple[Gateway, Scanner]], mode: Mode, family: Family, samples: Samples
) -> None:
    found = {}
    for way, (here, scanner) in ways.items():
        with scene(here, scanner, mode, family) as opened:
            found[way] = what_is_open(opened, samples)
    assert found[Way.KERNEL] <= found[Way.HELPER]
    assert found[Way.SPLICE] <= found[Way.HELPER]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("way", list(Way))
def test_the_scan_finds_the_port_that_waits_for_its_peer(
    ways: dict[Way, tuple[Gateway, Scanner]], mode: Mode, family: Family, way: Way
) -> None:
    """So that a scan that finds nothing means something; and it finds no other."""
    with scene(*ways[way], mode, family) as opened:
        assert opened.scan("waiting", opened.peer) == {("waiting", "peer", "announced")}
