"""Real clients through SOCKS and HTTP CONNECT, to servers that they have no route to."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from .client_kind import Client
from .ftp_clients import Curl, Lftp, Tnftp, Wget
from .ftp_servers import VSFTPD
from .matrix import Samples, Workspace, exercise_briefly
from .namespaces import Side, reach
from .place import FAMILIES, HTTP_PORT, HTTPS_PORT, PROGRAMS, USER, WHO_PORT, Place, doors
from .processes import find_program
from .proxy import Listener, running_proxy
from .terms import Family, Mode, Target
from .ways import CONNECTORS, FETCHING, FETCHING_BY_TLS, LIBRARIES, Door, Speech, Way, shown, shows


def fetch(place: Place, way: Way, door: Door, server: str, scheme: str = "http") -> bytes:
    """What the program prints; nothing if it fails."""
    if lack := way.missing():
        pytest.skip(f"package missing: {lack}")
    port = HTTPS_PORT if scheme == "https" else HTTP_PORT
    command = way.command(door, server, port, scheme=scheme, authority=place.authority)
    said = place.net.run(Side.CLIENT, ["sh", "-c", '"$@" | od -An -tx1', "sh", *command])
    return bytes.fromhex(said)


@pytest.mark.parametrize("way", shown(FETCHING, "HTTP"))
def test_fetching_by_http(place: Place, samples: Samples, way: Way) -> None:
    for door in doors(way, place):
        for server in place.servers(way):
            assert fetch(place, way, door, server) == samples.content("one.bin")


@pytest.mark.parametrize("way", shown([*FETCHING, *FETCHING_BY_TLS], "HTTPS"))
def test_fetching_by_https(place: Place, samples: Samples, way: Way) -> None:
    """Client and server speak TLS with each other, and nobody in between."""
    for door in doors(way, place):
        for server in place.servers(way):
            found = fetch(place, way, door, server, "https")
            assert found == samples.content("one.bin")


SCHEMES = {Speech.SOCKS4: "socks4", Speech.SOCKS5: "socks5", Speech.HTTP: "http"}


def fetch_by_aiohttp(place: Place, door: Door, scheme: str) -> bytes:
    command = [sys.executable, LIBRARIES, "aiohttp-socks", door.url(scheme)]
    server = [place.net.server_name(4), str(HTTP_PORT)]
    return bytes.fromhex(place.net.run(Side.CLIENT, [*command, *server]))


@pytest.mark.parametrize(
    "speech",
    [pytest.param(speech, marks=shows(speech, "HTTP", "aiohttp-socks")) for speech in SCHEMES],
)
def test_fetching_by_aiohttp(place: Place, samples: Samples, speech: Speech) -> None:
    name = "http" if speech is Speech.HTTP else "socks"
    found = [place.door(name)] + (
        [] if speech is Speech.SOCKS4 else [place.door("mixed", user=True)]
    )
    for door in found:
        assert fetch_by_aiohttp(place, door, SCHEMES[speech]) == samples.content("one.bin")


@pytest.mark.parametrize("way", shown(CONNECTORS, "TCP"))
def test_connectors(place: Place, way: Way) -> None:
    for door in doors(way, place):
        for server in place.servers(way):
            peer, _, said = place.run(way, door, server, WHO_PORT).split()
            family: Family = 6 if ":" in server else 4
            assert peer == place.net.proxy_address(Side.SERVER, family)
            assert said == "hello"


# Nobody gets anywhere without the proxy, or past its users.


def test_without_the_proxy_there_is_no_way(place: Place) -> None:
    for family in FAMILIES:
        server = place.net.address(Side.SERVER, family)
        assert "unreachable" in reach(place.net, Side.CLIENT, server, WHO_PORT)
        assert reach(place.net, Side.PROXY, server, WHO_PORT) == "connected"
    assert "resol" in reach(place.net, Side.CLIENT, place.net.server_name(4), WHO_PORT)


def lock_outs(place: Place, way: Way) -> list[Door]:
    """The listener with users: without a login, and with a wrong one if the program has any."""
    door = place.door("mixed")
    return [door] if way.login is None else [door, attrs.evolve(door, user=USER, password="guess")]


@pytest.mark.parametrize("way", [*FETCHING, *FETCHING_BY_TLS], ids=str)
def test_nothing_is_fetched_without_a_login(place: Place, way: Way) -> None:
    scheme = "http" if way in FETCHING else "https"
    for door in lock_outs(place, way):
        for server in place.servers(way):
            assert fetch(place, way, door, server, scheme) == b""


@pytest.mark.parametrize("way", CONNECTORS, ids=str)
def test_connectors_connect_nobody_without_a_login(place: Place, way: Way) -> None:
    for door in lock_outs(place, way):
        for server in place.servers(way):
            said = ""
            with contextlib.suppress(AssertionError):  # of its exit code, where it has one for this
                said = place.run(way, door, server, WHO_PORT)
            assert not said


@pytest.mark.parametrize("speech", [Speech.SOCKS4, Speech.SOCKS5, Speech.HTTP])
def test_aiohttp_fetches_nothing_without_a_login(place: Place, speech: Speech) -> None:
    door, scheme = place.door("mixed"), SCHEMES[speech]
    wrong = attrs.evolve(door, user=USER, password="guess")
    for each in [door] if speech is Speech.SOCKS4 else [door, wrong]:
        with pytest.raises(AssertionError, match="ProxyError"):
            fetch_by_aiohttp(place, each, scheme)


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
    "socks4": (Speech.SOCKS4, "--socks4", "socks"),
    "socks4a": (Speech.SOCKS4A, "--socks4a", "socks"),
    "socks5": (Speech.SOCKS5, "--socks5", "socks"),
    "socks5h": (Speech.SOCKS5, "--socks5-hostname", "mixed"),
    "http": (Speech.HTTP, "--proxytunnel --proxy", "http"),
}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    "speech",
    [pytest.param(key, marks=shows(way, "FTP", "curl")) for key, (way, _, _) in CURLS.items()],
)
def test_ftp_by_curl(
    place: Place, ftp_server: str, workspace: Workspace, speech: str, mode: Mode
) -> None:
    _, words, listener = CURLS[speech]
    door = place.door(listener, user=listener == "mixed")
    login = ("--proxy-user", door.login) if door.user else ()
    client = CurlByProxy(
        mode=mode, namespace=place.net.namespace(Side.CLIENT),
        proxy=(*login, *words.split(), door.address),
    )  # fmt: skip
    named = speech in {"socks4a", "socks5h", "http"}
    server = place.net.server_name(4) if named else ftp_server
    exercise_ftp(place, client, workspace, listener, server)


@shows(Speech.HTTP, "FTP", "lftp")
@pytest.mark.parametrize("listener", ["http", "mixed"])
def test_ftp_by_lftp(place: Place, ftp_server: str, workspace: Workspace, listener: str) -> None:
    if lack := Lftp.missing():
        pytest.skip(f"package missing: {lack}")
    door = place.door(listener, user=listener == "mixed")
    settings = f"set ftp:proxy {door.url('http')}\nset ftp:use-hftp no\n"
    client = LftpByProxy(namespace=place.net.namespace(Side.CLIENT), home={".lftprc": settings})
    exercise_ftp(place, client, workspace, listener, place.net.server_name(4))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=shows(speech, "FTP", "{client} by proxychains4"))
        for speech, kind in SCHEMES.items()
    ],
)
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
    return by_dante(place.door("socks"), tmp_path)


def by_dante(door: Door, directory: Path) -> tuple[str, ...]:
    configuration = directory / "socks.conf"
    configuration.write_text(DANTE.format(host=door.host, port=door.port, method="none"))
    return ("env", f"SOCKS_CONF={configuration}", "socksify")


@shows(Speech.SOCKS5, "FTP", "{client} by socksify")
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


# The same without a login, where users have to log in.


def locked_out(place: Place, tool: str, directory: Path) -> Client:
    """A client that comes to the listener with users, and does not know of them."""
    door, namespace = place.door("mixed"), place.net.namespace(Side.CLIENT)
    if tool == "lftp":
        settings = f"set ftp:proxy {door.url('http')}\nset ftp:use-hftp no\n"
        return LftpByProxy(namespace=namespace, home={".lftprc": settings})
    if tool == "curl":
        return CurlByProxy(namespace=namespace, proxy=("--socks5-hostname", door.address))
    if tool == "socksify":
        return Curl(namespace=namespace, wrapper=by_dante(door, directory))
    chain = directory / "chain"
    chain.write_text(CHAIN.format(kind=tool.partition("-")[2], **attrs.asdict(door)))
    return Curl(namespace=namespace, wrapper=("proxychains4", "-q", "-f", str(chain)))


@pytest.mark.parametrize(
    "tool",
    ["curl", "lftp", "socksify", "proxychains4-socks4", "proxychains4-socks5", "proxychains4-http"],
)
def test_no_ftp_without_a_login(place: Place, ftp_server: str, tmp_path: Path, tool: str) -> None:
    program = tool.partition("-")[0]
    if find_program(program) is None:
        pytest.skip(f"package missing: {'dante-client' if program == 'socksify' else program}")
    client, start = locked_out(place, tool, tmp_path), len(place.proxy.lines())
    target = Target(ftp_server, 21, *VSFTPD.credentials())
    with pytest.raises(AssertionError):
        client.fetch(target, "one.bin", tmp_path / "one.bin")
    assert place.proxy.await_log("client turned away", start, listener="mixed")
    assert not place.proxy.logged("connection closed", start)


# UDP ASSOCIATE.


@shows(Speech.SOCKS5, "UDP", "any program by socksify")
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


@shows(Speech.SOCKS5, "UDP", "PySocks")
@pytest.mark.parametrize("user", [False, True])
def test_udp_by_pysocks(place: Place, user: bool) -> None:  # noqa: FBT001 - a case
    door = place.door("mixed" if user else "socks", user=user)
    for server in (place.net.address(Side.SERVER), place.net.server_name(4)):
        command = [sys.executable, LIBRARIES, "pysocks-udp", door.url("socks5"), server]
        peer, _, said = place.net.run(Side.CLIENT, [*command, str(WHO_PORT)]).split()
        assert (peer, said) == (place.net.proxy_address(Side.SERVER), "hello")


@pytest.fixture
def name_server(place: Place) -> Iterator[str]:
    host = place.net.address(Side.SERVER)
    names = [sys.executable, PROGRAMS / "names.py", host, "203.0.113.5"]
    with place.net.popen(Side.SERVER, names) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield host


@shows(Speech.SOCKS5, "DNS", "drill by socksify")
def test_names_by_socksify_and_drill(
    place: Place, name_server: str, socksify: tuple[str, ...]
) -> None:
    if find_program("drill") is None:
        pytest.skip("package missing: ldnsutils")
    drill = [*socksify, "drill", "-Q", "a.example.org", f"@{name_server}", "A"]
    assert place.net.run(Side.CLIENT, drill).split() == ["203.0.113.5"]


@shows(Speech.SOCKS5, "DNS", "dig by PySocks")
@pytest.mark.parametrize("user", [False, True])
def test_names_by_dig(place: Place, name_server: str, user: bool) -> None:  # noqa: FBT001 - a case
    """Not by socksify: dig sends with sendmmsg(2), and Dante's library only stands before others.

    Its query leaves without a SOCKS head then, and the proxy drops it.
    """
    if find_program("dig") is None:
        pytest.skip("package missing: bind9-dnsutils")
    url = place.door("mixed" if user else "socks", user=user).url("socks5")
    relay = [sys.executable, LIBRARIES, "pysocks-relay", url, name_server, "53"]
    dig = ["dig", "+short", "+tries=1", "+time=2", "a.example.org", "A"]
    with place.net.popen(Side.CLIENT, relay) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        by_relay = [*dig, "@127.0.0.1", "-p", port]
        assert place.net.run(Side.CLIENT, by_relay).split() == ["203.0.113.5"]
    with pytest.raises(AssertionError, match="no servers could be reached"):
        place.net.run(Side.CLIENT, [*dig, f"@{name_server}"])


@shows("forward", "DNS", "dig")
@pytest.mark.parametrize("family", FAMILIES)
def test_names_by_a_forward_listener(place: Place, name_server: str, family: Family) -> None:
    if find_program("dig") is None:
        pytest.skip("package missing: bind9-dnsutils")
    here = place.net.proxy_address(Side.CLIENT, family)
    dig = ["dig", "+short", "+tries=1", "+time=2", f"@{here}", "a.example.org", "A"]
    with pytest.raises(AssertionError, match="no servers could be reached"):
        place.net.run(Side.CLIENT, dig)
    listener = Listener("names", here, Target(name_server, 53, "", ""), port=53, protocol="udp")
    with running_proxy([listener], namespace=place.net.namespace(Side.PROXY)) as proxy:
        assert place.net.run(Side.CLIENT, dig).split() == ["203.0.113.5"]
        proxy.send(signal.SIGTERM)  # which ends the session of the datagrams
        assert proxy.exit_code() == 0
        (closed,) = proxy.logged("connection closed")
        assert closed["server"] == f"{name_server}:53"
