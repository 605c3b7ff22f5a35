"""ssh, which reaches its server through connectors that ask the proxy for it (ProxyCommand)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import sshd
from .namespaces import Side
from .place import Place, doors
from .sshd import Shell, running_sshd
from .ways import CONNECTORS, Way, shown

WAYS = [way for way in CONNECTORS if way.program != "python"]
LINES = 4096
WHO = 'echo "$SSH_CONNECTION"'


@pytest.fixture(scope="module")
def shell(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    if lack := sshd.missing():
        pytest.skip(f"package missing: {lack}")
    host = place.net.address(Side.SERVER)
    names = [host, place.net.server_name(4)]
    with running_sshd(place.net, host, tmp_path_factory.mktemp("ssh"), names) as made:
        yield made


@pytest.mark.parametrize("way", shown(WAYS, "SSH", by="ssh by "))
def test_ssh_by_a_connector(place: Place, shell: Shell, way: Way) -> None:
    """It logs in, the server sees the proxy as its client, and many bytes go there and back."""
    if lack := way.missing():
        pytest.skip(f"package missing: {lack}")
    server = place.net.server_name(4) if way.by_name else place.net.address(Side.SERVER)
    said = "".join(f"{secrets.token_hex(32)}\n" for _ in range(LINES))
    for door in doors(way, place):
        start = len(place.proxy.lines())
        connector = way.command(door, "%h", "%p")
        client, _, here, port = shell.run(server, connector, WHO).split()
        assert client == place.net.proxy_address(Side.SERVER)
        assert (here, port) == (place.net.address(Side.SERVER), str(sshd.PORT))
        assert shell.run(server, connector, "cat", said) == said
        hashed = shell.run(server, connector, "sha256sum", said).split()[0]
        assert hashed == hashlib.sha256(said.encode()).hexdigest()
        for line in place.proxy.await_log("connection closed", start, 3, protocol="tcp"):
            assert line["server"] == f"{place.net.address(Side.SERVER)}:{sshd.PORT}"


def test_without_a_connector_there_is_no_way(place: Place, shell: Shell) -> None:
    for server in (place.net.address(Side.SERVER), place.net.server_name(4)):
        with pytest.raises(AssertionError, match=r"unreachable|resolve"):
            shell.run(server, None, WHO)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_connector_that_does_not_log_in_gets_nowhere(
    place: Place, shell: Shell, way: Way
) -> None:
    """The listener with users refuses it, and ssh says that there is nobody to talk to."""
    if lack := way.missing():
        pytest.skip(f"package missing: {lack}")
    server = place.net.server_name(4) if way.by_name else place.net.address(Side.SERVER)
    connector = way.command(place.door("mixed"), "%h", "%p")
    with pytest.raises(AssertionError, match=r"kex_exchange_identification|banner|closed by"):
        shell.run(server, connector, WHO)


def test_a_key_that_is_not_the_users_is_refused(place: Place, shell: Shell, tmp_path: Path) -> None:
    """What lets in is the server's word at the other end, not the proxy's."""
    other = tmp_path / "home"
    other.mkdir()
    (other / "known").write_text((shell.directory / "known").read_text())
    sshd.make_key(other / "user")
    way = WAYS[1]
    connector = way.command(place.door("socks"), "%h", "%p")
    with pytest.raises(AssertionError, match="Permission denied"):
        Shell(shell.net, other).run(place.net.server_name(4), connector, WHO)
