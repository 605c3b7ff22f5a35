"""Another host on the link to the client or to the server, which tries the ports of the proxy."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import attrs
import pytest

from .ends import ScriptedClient, active_command, connect, knock, read_all, socket_in
from .ftp_servers import VSFTPD
from .matrix import Samples
from .namespaces import PREFIX_LENGTHS, Network, Side, network
from .proxy import Listener, Proxy, running_proxy
from .server_kind import FTPServer
from .terms import Family, Mode

PORT = 2121
POOL = range(40000, 41000)
SECONDARY = f'[secondary]\nports = "{POOL[0]}-{POOL[-1]}"\n'
FLOOD = 200
FAMILIES: tuple[Family, ...] = (4, 6)
# Where the port is that the stranger wants: towards the client (passive) or the server (active).
LINKS = {Mode.PASSIVE: Side.CLIENT, Mode.ACTIVE: Side.SERVER}
VERBS = {Mode.PASSIVE: {4: "PASV", 6: "EPSV"}, Mode.ACTIVE: {4: "PORT", 6: "EPRT"}}


@attrs.frozen
class Street:
    """A network with a stranger on one link, a server for either IP version, and the proxy."""

    net: Network
    link: Side
    servers: dict[Family, FTPServer]
    proxy: Proxy

    def client(self, family: Family) -> ScriptedClient:
        """A client that has logged in."""
        target = self.proxy.target(f"ftp-{family}", self.servers[family])
        client = ScriptedClient(target, self.net.namespace(Side.CLIENT))
        client.login()
        return client

    def stranger_knocks(self, family: Family, port: int) -> str:
        """What the stranger gets who comes to a port that the proxy has on its link."""
        address = self.net.proxy_address(self.link, family)
        return knock(address, port, self.net.namespace(Side.STRANGER))

    def open_ports(self) -> list[int]:
        """The ports of the pool that the proxy listens on."""
        return sorted(self.proxy.listening() & set(POOL))


@contextlib.contextmanager
def street(link: Side, samples: Samples) -> Iterator[Street]:
    """Put the stranger on a link."""
    with network(link) as net, contextlib.ExitStack() as stack:
        namespace = net.namespace(Side.SERVER)
        servers: dict[Family, FTPServer] = {
            family: stack.enter_context(
                VSFTPD.start(samples.root, net.address(Side.SERVER, family), namespace)
            )
            for family in PREFIX_LENGTHS
        }
        listeners = [
            Listener(f"ftp-{family}", net.proxy_address(Side.CLIENT, family), server, port=PORT)
            for family, server in servers.items()
        ]
        with running_proxy(listeners, SECONDARY, namespace=net.namespace(Side.PROXY)) as proxy:
            yield Street(net, link, servers, proxy)
            proxy.finish()


@pytest.fixture(scope="module", params=list(Mode))
def mode(request: pytest.FixtureRequest) -> Mode:
    """Who opens the data connection."""
    found: Mode = request.param
    return found


@pytest.fixture(scope="module")
def there(mode: Mode, samples: Samples, needs_network: None) -> Iterator[Street]:
    """The stranger on the link where the port is that the mode opens."""
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    with street(LINKS[mode], samples) as made:
        yield made


@contextlib.contextmanager
def waiting_port(
    street: Street, mode: Mode, client: ScriptedClient, verb: str
) -> Iterator[tuple[int, socket.socket | None]]:
    """Let the client ask for a data connection; the port for it, and where the client listens."""
    before = street.open_ports()
    if mode is Mode.PASSIVE:
        _, port = client.passive(verb)
        assert street.open_ports() == sorted([*before, port])
        yield port, None
    else:
        with client.listen() as listener:
            assert client.code(active_command(listener, verb)) == 200
            (port,) = set(street.open_ports()) - set(before)
            yield port, listener


def fetch(
    client: ScriptedClient, port: int, listener: socket.socket | None, name: str = "mib.bin"
) -> bytes:
    """Fetch a file over the data connection that has been asked for."""
    if listener is None:
        data = connect(client.target.host, port, client.namespace)
        assert client.code(f"RETR {name}") == 150
    else:
        client.send(f"RETR {name}\r\n".encode())
        data = listener.accept()[0]
        assert client.code() == 150
    with data:
        data.settimeout(10)
        content = read_all(data)
    assert client.code() == 226
    return content


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stranger_who_comes_first_is_reset_and_the_right_one_gets_in(
    there: Street, mode: Mode, family: Family, samples: Samples
) -> None:
    start = len(there.proxy.lines())
    with there.client(family) as client:
        with waiting_port(there, mode, client, VERBS[mode][family]) as (port, listener):
            for _ in range(3):
                assert there.stranger_knocks(family, port) == "reset"
            assert fetch(client, port, listener) == samples.content("mib.bin")
        # The port has served its one connection.
        assert there.stranger_knocks(family, port) == "refused"
        assert client.is_alive()
        assert client.code("QUIT") == 221
    (refusal,) = there.proxy.await_log("secondary connection refused", start)
    address = there.net.address(Side.STRANGER, family)
    assert refusal["peer"].strip("[").startswith(address)
    assert refusal["level"] == "warning"
    there.proxy.await_rest()


def test_a_flood_of_strangers_does_not_keep_the_right_one_out(
    there: Street, mode: Mode, samples: Samples
) -> None:
    with (
        there.client(4) as client,
        waiting_port(there, mode, client, VERBS[mode][4]) as (port, listener),
        contextlib.ExitStack() as stack,
    ):
        address = there.net.proxy_address(there.link), port
        for _ in range(FLOOD):
            stranger = stack.enter_context(
                contextlib.closing(socket_in(there.net.namespace(Side.STRANGER), address[0]))
            )
            stranger.settimeout(0)
            stranger.connect_ex(address)
        assert fetch(client, port, listener) == samples.content("mib.bin")
    there.proxy.await_rest()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scan_of_the_pool_during_sessions_finds_nothing_usable(
    there: Street, mode: Mode, family: Family, samples: Samples
) -> None:
    verb = VERBS[mode][family]
    with (
        there.client(family) as idle,
        there.client(family) as waiting,
        waiting_port(there, mode, waiting, verb) as (port, listener),
        there.client(family) as busy,
        busy.open_data("EPSV") as data,
    ):
        assert busy.code("RETR large.bin") == 150
        first = data.recv(1 << 16)
        found = scan(there, family)
        assert set(found) == {"refused", "reset"}
        assert found["reset"] == [port]
        assert len(found["refused"]) == len(POOL) - 1
        assert first + read_all(data) == samples.content("large.bin")
        assert busy.code() == 226
        assert fetch(waiting, port, listener) == samples.content("mib.bin")
        assert idle.is_alive()
    there.proxy.await_rest()


def scan(street: Street, family: Family) -> dict[str, list[int]]:
    """Connect to every port of the pool; what came of it, with the ports."""
    found: dict[str, list[int]] = {}
    for port in POOL:
        found.setdefault(street.stranger_knocks(family, port), []).append(port)
    return found
