"""HAProxy before the proxy, and behind it: each tells the next who the client is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .ftp_clients import Curl
from .ftp_servers import VSFTPD
from .matrix import Workspace, exercise_briefly
from .namespaces import Network, Side, reach
from .processes import find_program
from .proxy import Listener, running_proxy, wait_until
from .terms import Mode, Target
from .ways import shows

BALANCER_PORT, LISTENER_PORT, WEB_PORT = 9021, 2121, 8080

BEFORE = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen ftp
    bind {host}:{port}
    server proxy {proxy} {version}
"""
BEHIND = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend web
    bind {host}:{port} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[dst]"
"""

HEAR = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5.0) as sock:
        print(sock.recv(100))
except ConnectionResetError:
    print("reset")
"""


@contextlib.contextmanager
def haproxy(
    net: Network, side: Side, directory: Path, text: str, **words: object
) -> Iterator[None]:
    if (program := find_program("haproxy")) is None:
        pytest.skip("package missing: haproxy")
    configuration = directory / "haproxy.cfg"
    configuration.write_text(text.format(**words))
    with net.popen(side, [program, "-db", "-q", "-f", configuration]):
        host, port = str(words["host"]), int(str(words["port"]))
        wait_until(lambda: reach(net, side, host, port) == "connected", "HAProxy has started")
        yield


@shows("behind HAProxy", "FTP", "curl")
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_ftp_behind_haproxy(
    net: Network, workspace: Workspace, tmp_path: Path, version: str, mode: Mode
) -> None:
    """The data connections come without a header, and only from the client that it named."""
    here, there = net.proxy_address(Side.CLIENT), net.address(Side.SERVER)
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    with VSFTPD.start(workspace.samples.root, there, net.namespace(Side.SERVER)) as server:
        listener = Listener(
            "ftp", here, server.target, port=LISTENER_PORT,
            keys={"proxy_protocol": "require", "trusted": [f"{here}/32"]},
        )  # fmt: skip
        words = {"host": here, "port": BALANCER_PORT, "proxy": f"{here}:{LISTENER_PORT}"}
        with (
            haproxy(net, Side.PROXY, tmp_path, BEFORE, version=version, **words),
            running_proxy([listener], namespace=net.namespace(Side.PROXY)) as proxy,
        ):
            client = Curl(mode=mode, namespace=net.namespace(Side.CLIENT))
            target = Target(here, BALANCER_PORT, *VSFTPD.credentials())
            start = len(proxy.lines())
            exercise_briefly(client, target, workspace)
            for protocol in ("ftp", "ftp-data"):
                for line in proxy.await_log("connection closed", start, protocol=protocol):
                    assert line["client"].startswith(f"{net.address(Side.CLIENT)}:")
            assert "reset" in reach_through(net, here, LISTENER_PORT), "a client, past HAProxy"
            proxy.finish()


def test_no_ftp_behind_haproxy_that_sends_no_header(
    net: Network, workspace: Workspace, tmp_path: Path
) -> None:
    here, there = net.proxy_address(Side.CLIENT), net.address(Side.SERVER)
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    with VSFTPD.start(workspace.samples.root, there, net.namespace(Side.SERVER)) as server:
        keys = {"proxy_protocol": "require", "trusted": [f"{here}/32"]}
        listener = Listener("ftp", here, server.target, port=LISTENER_PORT, keys=keys)
        words = {"host": here, "port": BALANCER_PORT, "proxy": f"{here}:{LISTENER_PORT}"}
        limits = {"handshake_timeout": 1.0}  # FTP's client waits for its server to speak first
        namespace = net.namespace(Side.PROXY)
        with (
            haproxy(net, Side.PROXY, tmp_path, BEFORE, version="", **words),
            running_proxy([listener], namespace=namespace, limits=limits) as proxy,
        ):
            client = Curl(namespace=net.namespace(Side.CLIENT))
            target = Target(here, BALANCER_PORT, *VSFTPD.credentials())
            with pytest.raises(AssertionError):
                client.fetch(target, "one.bin", tmp_path / "one.bin")
            assert proxy.await_log("client turned away")
            assert not proxy.logged("connection closed")
            proxy.finish()


def reach_through(net: Network, host: str, port: int) -> str:
    """What a client hears that connects without a header."""
    return net.run(Side.CLIENT, [sys.executable, "-c", HEAR, host, str(port)])


@shows("forward", "HTTP", "curl")
@pytest.mark.parametrize("version", [1, 2])
def test_a_web_server_behind_haproxy(net: Network, tmp_path: Path, version: int) -> None:
    if lack := Curl.missing():
        pytest.skip(f"package missing: {lack}")
    here, there = net.proxy_address(Side.CLIENT), net.address(Side.SERVER)
    listeners = [
        Listener("socks", here, kind="socks", port=1080, protocol=None,
                 keys={"send_proxy": version}),
        Listener("web", here, Target(there, WEB_PORT, "", ""), port=WEB_PORT, protocol="tcp",
                 keys={"send_proxy": version}),
    ]  # fmt: skip
    everyone = '[[rules]]\naction = "allow"\n'
    with (
        haproxy(net, Side.SERVER, tmp_path, BEHIND, host=there, port=WEB_PORT),
        running_proxy(listeners, everyone, namespace=net.namespace(Side.PROXY)) as proxy,
    ):
        curl = ["curl", "-q", "-sS", "--max-time", "10", "--fail"]
        by_socks = [*curl, "--socks5", f"{here}:1080", f"http://{there}:{WEB_PORT}/"]
        client = net.address(Side.CLIENT)
        assert net.run(Side.CLIENT, by_socks) == f"{client} {there}"
        by_forward = [*curl, f"http://{here}:{WEB_PORT}/"]
        assert net.run(Side.CLIENT, by_forward) == f"{client} {here}"
        proxy.finish()
