"""Real clients through SOCKS and HTTP CONNECT, to servers that they have no route to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from .client_kind import Client
from .ftp_clients import Curl, Lftp, Tnftp, Wget
from .ftp_servers import VSFTPD
from .matrix import Samples, Workspace, exercise_briefly
from .namespaces import Side
from .place import HTTP_PORT, PROGRAMS, WHO_PORT, Place, doors
from .processes import find_program
from .terms import Family, Mode, Target
from .ways import CONNECTORS, FETCHING, LIBRARIES, Speech, Way


@pytest.mark.parametrize("way", FETCHING, ids=str)
def test_fetching_by_http(place: Place, samples: Samples, way: Way) -> None:
    for door in doors(way, place):
        for server in place.servers(way):
            command = way.command(door, server, HTTP_PORT)
            said = place.net.run(Side.CLIENT, ["sh", "-c", '"$@" | od -An -tx1', "sh", *command])
            assert bytes.fromhex(said) == samples.content("one.bin")


@pytest.mark.parametrize("speech", [Speech.SOCKS4, Speech.SOCKS5, Speech.HTTP])
def test_fetching_by_aiohttp(place: Place, samples: Samples, speech: Speech) -> None:
    scheme = {Speech.SOCKS4: "socks4", Speech.SOCKS5: "socks5", Speech.HTTP: "http"}[speech]
    name = "http" if speech is Speech.HTTP else "socks"
    found = [place.door(name)] + (
        [] if speech is Speech.SOCKS4 else [place.door("mixed", user=True)]
    )
    for door in found:
        command = [
            sys.executable, LIBRARIES, "aiohttp-socks", door.url(scheme),
            place.net.server_name(4), str(HTTP_PORT),
        ]  # fmt: skip
        said = place.net.run(Side.CLIENT, command)
        assert bytes.fromhex(said) == samples.content("one.bin")


@pytest.mark.parametrize("way", CONNECTORS, ids=str)
def test_connectors(place: Place, way: Way) -> None:
    for door in doors(way, place):
        for server in place.servers(way):
            peer, _, said = place.run(way, door, server, WHO_PORT).split()
            family: Family = 6 if ":" in server else 4
            assert peer == place.net.proxy_address(Side.SERVER, family)
            assert said == "hello"


# FTP: the filter is found by port 21, and the data connections come through the same way.


@attrs.frozen
class CurlByProxy(Curl):
    """curl, told of a proxy."""

    proxy: tuple[str, ...] = ()

    def _curl(self, target: Target, *args: str | Path) -> str:
        return super()._curl(target, *self.proxy, *args)


@attrs.frozen
class LftpByProxy(Lftp):
    """lftp, whose control connection leads to a proxy: the data's cannot have the same address."""

    def _lftp(self, target: Target, command: str) -> str:
        return super()._lftp(target, f"set ftp:verify-address no; {command}")


DANTE = """
route {{
    from: 0.0.0.0/0 to: 0.0.0.0/0 via: {host} port = {port}
    proxyprotocol: socks_v5
    method: {method}
    protocol: tcp udp
    command: bind connect udpassociate
}}
"""
CHAIN = "strict_chain\nproxy_dns\n[ProxyList]\n{kind} {host} {port} {user} {password}\n"


@pytest.fixture(scope="module")
def ftp_server(place: Place, samples: Samples) -> Iterator[str]:
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    address = place.net.address(Side.SERVER)
    with VSFTPD.start(samples.root, address, place.net.namespace(Side.SERVER), 21):
        yield address


def exercise_ftp(
    place: Place, client: Client, workspace: Workspace, listener: str, host: str
) -> None:
    """Move files, and make sure that the filter has seen the control connection."""
    start = len(place.proxy.lines())
    count = exercise_briefly(client, Target(host, 21, *VSFTPD.credentials()), workspace)
    data = place.proxy.await_log(
        "connection closed", start, count, protocol="ftp-data", listener=listener
    )
    assert {line["path"] for line in data} == {"splice"}
    controls = place.proxy.await_log("connection closed", start, protocol="ftp", listener=listener)
    assert {line["path"] for line in controls} == {"user"}


CURLS = {
    "socks4": ("--socks4", "socks"),
    "socks4a": ("--socks4a", "socks"),
    "socks5": ("--socks5", "socks"),
    "socks5h": ("--socks5-hostname", "mixed"),
    "http": ("--proxytunnel --proxy", "http"),
}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("speech", CURLS)
def test_ftp_by_curl(
    place: Place, ftp_server: str, workspace: Workspace, speech: str, mode: Mode
) -> None:
    words, listener = CURLS[speech]
    door = place.door(listener, user=listener == "mixed")
    login = ("--proxy-user", door.login) if door.user else ()
    client = CurlByProxy(
        mode=mode, namespace=place.net.namespace(Side.CLIENT),
        proxy=(*login, *words.split(), door.address),
    )  # fmt: skip
    named = speech in {"socks4a", "socks5h", "http"}
    server = place.net.server_name(4) if named else ftp_server
    exercise_ftp(place, client, workspace, listener, server)


@pytest.mark.parametrize("listener", ["http", "mixed"])
def test_ftp_by_lftp(place: Place, ftp_server: str, workspace: Workspace, listener: str) -> None:
    if lack := Lftp.missing():
        pytest.skip(f"package missing: {lack}")
    door = place.door(listener, user=listener == "mixed")
    settings = f"set ftp:proxy {door.url('http')}\nset ftp:use-hftp no\n"
    client = LftpByProxy(namespace=place.net.namespace(Side.CLIENT), home={".lftprc": settings})
    exercise_ftp(place, client, workspace, listener, place.net.server_name(4))


@pytest.mark.parametrize("kind", ["socks4", "socks5", "http"])
@pytest.mark.parametrize("client_kind", [Curl, Wget, LftpByProxy])
def test_ftp_by_proxychains(
    place: Place,
    ftp_server: str,
    workspace: Workspace,
    tmp_path: Path,
    client_kind: type[Client],
    kind: str,
) -> None:
    if lack := client_kind.missing() or ("" if find_program("proxychains4") else "proxychains4"):
        pytest.skip(f"package missing: {lack}")
    listener = {"socks4": "socks", "socks5": "mixed", "http": "mixed"}[kind]
    door = place.door(listener, user=listener == "mixed")
    chain = tmp_path / "chain"
    chain.write_text(CHAIN.format(kind=kind, **attrs.asdict(door)))
    client = client_kind(
        namespace=place.net.namespace(Side.CLIENT),
        wrapper=("proxychains4", "-q", "-f", str(chain)),
    )
    exercise_ftp(place, client, workspace, listener, place.net.server_name(4))


@pytest.fixture
def socksify(place: Place, tmp_path: Path) -> tuple[str, ...]:
    """The command that puts Dante's client library before a program's own sockets."""
    if find_program("socksify") is None:
        pytest.skip("package missing: dante-client")
    door = place.door("socks")
    configuration = tmp_path / "socks.conf"
    configuration.write_text(DANTE.format(host=door.host, port=door.port, method="none"))
    return ("env", f"SOCKS_CONF={configuration}", "socksify")


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("client_kind", [Tnftp, Curl])
def test_ftp_by_socksify(
    place: Place,
    ftp_server: str,
    workspace: Workspace,
    socksify: tuple[str, ...],
    client_kind: type[Client],
    mode: Mode,
) -> None:
    """In active mode Dante's library asks for the data port by BIND."""
    client = client_kind(mode=mode, namespace=place.net.namespace(Side.CLIENT), wrapper=socksify)
    start = len(place.proxy.lines())
    exercise_ftp(place, client, workspace, "socks", ftp_server)
    if mode is Mode.ACTIVE:
        bound = place.proxy.logged("client address", start)
        here = place.net.proxy_address(Side.SERVER)
        assert bound, "no address in any PORT or EPRT"
        assert {line["client"].rpartition(":")[0] for line in bound} == {here}


# UDP ASSOCIATE.


def test_udp_by_socksify(place: Place, socksify: tuple[str, ...]) -> None:
    host = place.net.address(Side.SERVER)
    command = [
        *socksify,
        sys.executable,
        PROGRAMS / "who.py",
        "ask",
        "udp",
        host,
        str(WHO_PORT),
        "3",
    ]
    lines = [line.split() for line in place.net.run(Side.CLIENT, command).splitlines()]
    peer = place.net.proxy_address(Side.SERVER)
    assert [(line[0], line[2]) for line in lines] == [(peer, "0"), (peer, "1"), (peer, "2")]


@pytest.mark.parametrize("user", [False, True])
def test_udp_by_pysocks(place: Place, user: bool) -> None:  # noqa: FBT001 - a case
    door = place.door("mixed" if user else "socks", user=user)
    for server in (place.net.address(Side.SERVER), place.net.server_name(4)):
        command = [sys.executable, LIBRARIES, "pysocks-udp", door.url("socks5"), server]
        peer, _, said = place.net.run(Side.CLIENT, [*command, str(WHO_PORT)]).split()
        assert (peer, said) == (place.net.proxy_address(Side.SERVER), "hello")


def test_names_by_socksify_and_drill(place: Place, socksify: tuple[str, ...]) -> None:
    if find_program("drill") is None:
        pytest.skip("package missing: ldnsutils")
    host = place.net.address(Side.SERVER)
    names = [sys.executable, PROGRAMS / "names.py", host, "203.0.113.5"]
    with place.net.popen(Side.SERVER, names) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        drill = [*socksify, "drill", "-Q", "a.example.org", f"@{host}", "A"]
        assert place.net.run(Side.CLIENT, drill).split() == ["203.0.113.5"]
