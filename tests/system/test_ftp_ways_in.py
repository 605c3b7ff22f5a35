"""FTP by SOCKS and CONNECT: found by port 21, and its data connections come the same way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from .client_kind import Client
from .ftp_clients import Curl, Lftp, Tnftp, Wget
from .ftp_servers import VSFTPD
from .matrix import Samples, Workspace, exercise_briefly
from .namespaces import Side
from .place import Place
from .processes import find_program
from .terms import Mode, Target
from .ways import SCHEMES, Speech, by_dante, shows


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
