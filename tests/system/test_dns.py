"""Names asked of a real DNS server: by the library, whose clock is played, and by `fwproxy run`."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from fwproxy.address import Endpoint, HostName
from fwproxy.config.resolver import ResolverConfig, parse_server
from fwproxy.errors import NameNotFoundError
from fwproxy.names.resolver import Resolver
from fwproxy.names.stub import DnsNames

from .conftest import StartServer
from .dnsmasq import Dnsmasq, dnsmasq
from .ends import ScriptedClient, connect, knock, listen, read_exactly
from .ftp_servers import VSFTPD
from .matrix import Samples
from .proxy import Listener, Proxy, running_proxy, wait_until
from .terms import LOOPBACK

HOST, OTHER_HOST = LOOPBACK[4], "127.0.0.2"
BOTH = ["A", "AAAA"]
LARGE = [f"192.0.2.{number}" for number in range(1, 61)]
"""Too many for a datagram of 512 bytes, and more than are used."""
RECORDS = [
    *("--host-record=short.test,192.0.2.1,2001:db8::1,2", "--host-record=long.test,192.0.2.2,3600"),
    *("--host-record=none.test,192.0.2.3,0", "--host-record=six.test,2001:db8::6,60"),
    *("--cname=alias.test,long.test,5", "--ptr-record=9.2.0.192.in-addr.arpa,nine.test"),
    *(f"--host-record=large.test,{host},60" for host in LARGE),
]  # fmt: skip
NAME_UNKNOWN, DENIED = 4, 2


class Asking:
    """A resolver that asks one server, and a clock that the test moves."""

    def __init__(self, server: Dnsmasq, directory: Path, timeout: float = 5.0) -> None:
        self.time = 1000.0
        config = ResolverConfig("dns", (parse_server(server.address),), timeout=timeout)
        none = directory / "hosts"
        names = DnsNames(config, lambda: self.time, hosts=none)
        self.resolver = Resolver(names, 8, lambda: self.time, max_names=99)

    async def __call__(self, name: str) -> set[str]:
        """The addresses of a name."""
        return {each.host for each in await self.resolver.resolve(HostName(name, 21))}


@pytest.fixture(scope="module", params=list(LOOPBACK.values()))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dnsmasq]:
    """A server at an address of each family."""
    with dnsmasq(tmp_path_factory.mktemp("dns"), *RECORDS, host=request.param) as made:
        yield made


@pytest.fixture
def asking(server: Dnsmasq, tmp_path: Path) -> Asking:
    return Asking(server, tmp_path)


@pytest.mark.parametrize(
    ("name", "addresses", "ttl"),
    [
        ("short.test", {"192.0.2.1", "2001:db8::1"}, 2),
        ("long.test", {"192.0.2.2"}, 3600),
        ("alias.test", {"192.0.2.2"}, 5),
        ("six.test", {"2001:db8::6"}, 60),
    ],
)
async def test_an_answer_holds_for_as_long_as_the_server_says(
    server: Dnsmasq, asking: Asking, name: str, addresses: set[str], ttl: float
) -> None:
    before = server.questions(name)
    for moved, count in ((0, 1), (ttl - 0.1, 1), (0.1, 2), (0, 2)):
        asking.time += moved
        assert await asking(name) == addresses
        assert server.questions(name) == sorted(before + BOTH * count)


async def test_a_time_of_0_is_asked_every_time(server: Dnsmasq, asking: Asking) -> None:
    before = server.questions("none.test")
    for count in (1, 2, 3):
        assert await asking("none.test") == {"192.0.2.3"}
        assert server.questions("none.test") == sorted(before + BOTH * count)


async def test_a_name_that_does_not_exist(server: Dnsmasq, asking: Asking) -> None:
    before = server.questions("no.such.test")
    for count in (1, 2):
        with pytest.raises(NameNotFoundError, match="not exist"):
            await asking("no.such.test")
        assert server.questions("no.such.test") == sorted(before + BOTH * count)


async def test_an_answer_that_does_not_fit_into_a_datagram(server: Dnsmasq, asking: Asking) -> None:
    before = server.questions("large.test")
    found = await asking("large.test")
    assert len(found) == 32
    assert found < set(LARGE)
    assert server.questions("large.test") == sorted([*before, "A", "A", "AAAA"])


async def test_the_name_of_an_address(asking: Asking) -> None:
    assert await asking.resolver.name_of(Endpoint("192.0.2.9")) == "nine.test"
    assert await asking.resolver.name_of(Endpoint("2001:db8::6")) == "six.test"


async def test_a_server_that_does_not_answer(server: Dnsmasq, tmp_path: Path) -> None:
    asking = Asking(server, tmp_path, timeout=0.5)
    with server.held_up(), pytest.raises(NameNotFoundError, match=r"no answer within 0\.5"):
        await asking("long.test")
    assert await Asking(server, tmp_path)("long.test") == {"192.0.2.2"}


async def test_a_change_is_seen_when_the_time_is_over_and_not_before(tmp_path: Path) -> None:
    with dnsmasq(tmp_path, "--local-ttl=30") as server:
        asking = Asking(server, tmp_path)
        server.know({"moving.test": "192.0.2.1"})
        assert await asking("moving.test") == {"192.0.2.1"}
        server.know({"moving.test": "192.0.2.2"})
        asking.time += 29.9
        assert await asking("moving.test") == {"192.0.2.1"}
        asking.time += 0.1
        assert await asking("moving.test") == {"192.0.2.2"}
        server.know({})
        asking.time += 30
        with pytest.raises(NameNotFoundError, match="not exist"):
            await asking("moving.test")


# The proxy as a process.


def resolver(server: Dnsmasq, more: str = "") -> str:
    return f'[resolver]\nkind = "dns"\nservers = ["{server.address}"]\n{more}'


def socks(proxy: Proxy, name: str, port: int) -> tuple[socket.socket, int]:
    """Ask for a server by its name; gives the client and the code of the reply."""
    client = connect(*proxy.listeners["socks"])
    host = name.encode()
    client.sendall(b"\5\1\0\5\1\0\3" + bytes([len(host)]) + host + port.to_bytes(2, "big"))
    assert read_exactly(client, 2) == b"\5\0"
    reply = read_exactly(client, 4)
    read_exactly(client, {1: 4, 4: 16}[reply[3]] + 2)
    return client, reply[1]


def code(proxy: Proxy, name: str, server: socket.socket) -> int:
    """Ask for a name at a server's port, and end what comes of it; gives the code of the reply."""
    client, found = socks(proxy, name, server.getsockname()[1])
    with client:
        if found == 0:
            server.accept()[0].close()
    return found


SOCKS = Listener("socks", HOST, kind="socks", protocol=None)


def test_an_upstream_by_its_name(
    start_server: StartServer, samples: Samples, tmp_path: Path
) -> None:
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    server = start_server(VSFTPD, 4)
    upstream = attrs.evolve(server.target, host="ftp.test")
    listener = Listener("ftp", HOST, upstream)
    with dnsmasq(tmp_path, f"--host-record=ftp.test,{server.target.host},60") as names:
        with running_proxy([listener], resolver(names)) as proxy:
            for _ in range(2):
                with ScriptedClient(proxy.target("ftp", server)) as client:
                    client.login()
                    assert client.fetch("mib.bin") == samples.content("mib.bin")
            assert names.questions("ftp.test") == BOTH
            proxy.finish()
        with running_proxy([listener]) as proxy:  # the system does not know the name
            assert knock(*proxy.listeners["ftp"]) == "reset"
            proxy.await_reason("ftp.test does not resolve")
            proxy.finish()
        assert names.questions("ftp.test") == BOTH


@pytest.mark.parametrize("family", LOOPBACK)
def test_a_server_that_a_client_names(tmp_path: Path, family: int) -> None:
    host = LOOPBACK[family]
    with listen(host) as server, dnsmasq(tmp_path, f"--host-record=server.test,{host},60") as names:
        with running_proxy([SOCKS], resolver(names)) as proxy:
            client, found = socks(proxy, "server.test", server.getsockname()[1])
            with client, server.accept()[0] as inside:
                assert found == 0
                inside.sendall(b"here")
                assert read_exactly(client, 4) == b"here"
            assert code(proxy, "other.test", server) == NAME_UNKNOWN
            proxy.finish()
        with running_proxy([SOCKS]) as proxy:  # the system does not know the name
            assert code(proxy, "server.test", server) == NAME_UNKNOWN
            proxy.finish()


def test_a_name_that_moves_is_followed_when_its_time_is_over_and_only_where_rules_lead(
    tmp_path: Path,
) -> None:
    rules = (
        f'[networks.here]\nprefixes = ["{HOST}/32"]\n[networks.there]\nprefixes = '
        f'["{OTHER_HOST}/32"]\n[[rules]]\naction = "allow"\nto = ["here"]\n'
    )
    with listen(HOST) as server, dnsmasq(tmp_path, "--local-ttl=1") as names:
        names.know({"moving.test": HOST})
        with running_proxy([SOCKS], resolver(names) + rules) as proxy:
            assert code(proxy, "moving.test", server) == 0
            names.know({"moving.test": OTHER_HOST})
            wait_until(lambda: code(proxy, "moving.test", server) == DENIED)
            names.know({})
            wait_until(lambda: code(proxy, "moving.test", server) == NAME_UNKNOWN)
            proxy.finish()


def test_a_name_that_moves_is_not_followed_before(tmp_path: Path) -> None:
    with listen(HOST) as server, dnsmasq(tmp_path, "--local-ttl=3600") as names:
        names.know({"moving.test": HOST})
        with running_proxy([SOCKS], resolver(names)) as proxy:
            assert code(proxy, "moving.test", server) == 0
            names.know({})
            assert code(proxy, "moving.test", server) == 0
            assert names.questions("moving.test") == BOTH
            proxy.finish()
        with running_proxy([SOCKS], resolver(names)) as proxy:
            assert code(proxy, "moving.test", server) == NAME_UNKNOWN
            proxy.finish()


def test_a_name_that_nobody_answers_for_leaves_nothing(tmp_path: Path) -> None:
    with dnsmasq(tmp_path, f"--host-record=server.test,{HOST},60") as names:
        more = resolver(names, "timeout = 0.5\nattempt_timeout = 0.1\n")
        with running_proxy([SOCKS], more) as proxy:
            with names.held_up(), proxy.left_as_it_was():
                clients = [connect(*proxy.listeners["socks"]) for _ in range(20)]
                for number, client in enumerate(clients):
                    name = f"mute{number:02}.test".encode()
                    client.sendall(b"\5\1\0\5\1\0\3" + bytes([len(name)]) + name + b"\0\1")
                for client in clients[:10]:
                    client.close()
                for client in clients[10:]:
                    with client:
                        answer = read_exactly(client, 12)
                        assert answer[:4] == bytes([5, 0, 5, NAME_UNKNOWN])
            proxy.await_reason("no answer within 0.5 seconds")
            proxy.finish()


def test_a_stop_does_not_wait_for_names(tmp_path: Path) -> None:
    with dnsmasq(tmp_path) as names:
        more = resolver(names, "timeout = 60.0\nattempt_timeout = 60.0\n")
        with running_proxy([SOCKS], more, limits={"stop_timeout": 0.0}) as proxy, names.held_up():
            before = proxy.descriptors()
            with connect(*proxy.listeners["socks"]) as client:
                client.sendall(b"\5\1\0\5\1\0\3\x09mute.test\0\1")
                # The client, and a question for each family.
                wait_until(lambda: proxy.descriptors() == before + 3)
                subprocess.run(["kill", str(proxy.pid)], check=True)
                assert proxy.exit_code() == 0
            assert not [line for line in proxy.lines() if line["level"] in {"error", "critical"}]


def test_check_says_whom_names_are_asked_of(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(f'{SOCKS.toml()}[resolver]\nkind = "dns"\nservers = ["192.0.2.53"]\n')
    command = [sys.executable, "-m", "fwproxy", "check", file]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "asked of 192.0.2.53:53" in said


@pytest.mark.parametrize("command", [["check"], ["run", "--config"]])
def test_without_the_extra_nothing_starts(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(f'{SOCKS.toml()}[resolver]\nkind = "dns"\n')
    # As if dnspython were not installed: whatever is called so cannot be imported.
    code = "import sys; sys.modules['dns'] = None; from fwproxy.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, file],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    line = len(SOCKS.toml().splitlines()) + 2
    assert done.returncode == {"check": 1, "run": 2}[command[0]]
    assert f"{file}:{line}: " in done.stderr
    assert "pip install 'fwproxy[dns]'" in done.stderr
