"""`tproxy` with the rules of `fwproxy setup-rules`, between a client and a server that only route.

Neither knows of the proxy: each is told by a program whom it sees.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from fwproxy import Endpoint

from .ftp_clients import Curl, Lftp
from .ftp_servers import VSFTPD
from .matrix import Workspace, exercise_resuming
from .namespaces import Network, Side, network
from .processes import find_program
from .proxy import Listener, Proxy, running_proxy
from .terms import Family, Mode
from .ways import shows

WHO = Path(__file__).parent / "programs" / "who.py"
ANY: dict[Family, str] = {4: "0.0.0.0", 6: "::"}
FAMILIES: tuple[Family, ...] = (4, 6)
WHO_PORT, LISTENER_PORT = 7007, 8188
Seen = Literal["proxy", "client"]


@pytest.fixture
def routed(needs_network: None) -> Iterator[Network]:
    if find_program("nft") is None:
        pytest.skip("package missing: nftables")
    with network() as net:
        net.add_default_route(Side.CLIENT)
        net.add_default_route(Side.SERVER)
        yield net


@contextlib.contextmanager
def proxying(
    net: Network, source: Seen, more: str = "", *, kind: str = "tproxy", **keys: object
) -> Iterator[Proxy]:
    """Run the proxy and make the rules that its configuration needs, then take them back."""
    listeners = [
        Listener(
            f"{kind}-{family}", ANY[family], kind=kind, port=LISTENER_PORT, protocol=None,
            keys={"source": source, **keys},
        )
        for family in FAMILIES
    ]  # fmt: skip
    everyone = '[[rules]]\naction = "allow"\n'
    with running_proxy(listeners, everyone + more, namespace=net.namespace(Side.PROXY)) as proxy:
        command = [sys.executable, "-m", "fwproxy", "setup-rules", str(proxy.configuration)]
        net.run(Side.PROXY, [*command, "--interface", "client", "--apply"])
        yield proxy
        if not proxy.logged("connection closed"):  # a session of datagrams ends with the proxy
            proxy.send(signal.SIGTERM)
            assert proxy.exit_code() == 0
        else:
            proxy.finish()
        net.run(Side.PROXY, [*command, "--undo"])
        assert "fwproxy" not in net.run(Side.PROXY, ["nft", "list", "ruleset"])
        for family in FAMILIES:
            assert "fwmark" not in net.run(Side.PROXY, ["ip", f"-{family}", "rule"])


@contextlib.contextmanager
def serving(net: Network, family: Family) -> Iterator[str]:
    host = net.address(Side.SERVER, family)
    with net.popen(Side.SERVER, [sys.executable, WHO, "serve", host, str(WHO_PORT)]) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "started"
        yield host


def ask(net: Network, transport: str, host: str, count: int = 1) -> list[list[str]]:
    """What the server says of its peer: host, port, and what was said; then the client's view."""
    command = [sys.executable, WHO, "ask", transport, host, str(WHO_PORT), str(count)]
    return [line.split() for line in net.run(Side.CLIENT, command).splitlines()]


@pytest.mark.parametrize("source", ["proxy", "client"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "transport",
    [
        pytest.param("tcp", marks=shows("tproxy", "TCP", "any program")),
        pytest.param("udp", marks=shows("tproxy", "UDP", "any program")),
    ],
)
def test_the_server_sees_whom_it_is_meant_to(
    routed: Network, transport: str, family: Family, source: Seen
) -> None:
    count = 1 if transport == "tcp" else 3
    with proxying(routed, source) as proxy, serving(routed, family) as host:
        answers = ask(routed, transport, host, count)
        client = routed.address(Side.CLIENT, family)
        seen = {"proxy": routed.proxy_address(Side.SERVER, family), "client": client}[source]
        told = [(peer, said, believed) for peer, _, said, _, believed in answers]
        assert told == [(seen, str(number), host) for number in range(count)]
        if transport == "tcp":
            closed = proxy.await_log("connection closed", listener=f"tproxy-{family}")
            assert closed[0]["client"].endswith(f":{answers[0][3]}")
            assert closed[0]["protocol"] == "tcp"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["tproxy", "redirect"])
def test_a_load_balancer_on_the_way_says_whose_connection_it_is(
    routed: Network, kind: str, family: Family
) -> None:
    balancer = routed.address(Side.CLIENT, family)
    keys = {"proxy_protocol": "require", "trusted": [balancer]}
    named = {4: "192.0.2.7", 6: "2001:db8:7::7"}[family]
    header = f"PROXY TCP{family} {named} {named} 7 {WHO_PORT}\\r\\n"
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5);"
        f"s.sendall(b'{header}'); s.sendall(b'hello'); print(s.recv(1000).decode())"
    )
    ask_as = [sys.executable, "-c", script]
    with (
        proxying(routed, "proxy", kind=kind, **keys) as proxy,
        serving(routed, family) as host,
    ):
        seen, _, said = routed.run(Side.CLIENT, [*ask_as, host, str(WHO_PORT)]).split()
        assert (seen, said) == (routed.proxy_address(Side.SERVER, family), "hello")
        (closed,) = proxy.await_log("connection closed", listener=f"{kind}-{family}")
        assert Endpoint.parse(closed["client"]) == Endpoint(named, 7)
        unsigned = [word.replace(header, "") for word in ask_as]
        with pytest.raises(AssertionError, match="Connection reset by peer"):
            routed.run(Side.CLIENT, [*unsigned, host, str(WHO_PORT)])


@shows("tproxy", "FTP")
@pytest.mark.parametrize(
    ("client_kind", "mode", "family", "source"),
    [
        (Curl, Mode.ACTIVE, 4, "client"),
        (Curl, Mode.PASSIVE, 6, "client"),
        (Lftp, Mode.ACTIVE, 4, "proxy"),
        (Lftp, Mode.PASSIVE, 4, "client"),
        (Curl, Mode.ACTIVE, 6, "proxy"),
    ],
)
def test_ftp_is_found_by_its_port_and_filtered(
    routed: Network,
    workspace: Workspace,
    client_kind: type[Curl | Lftp],
    mode: Mode,
    family: Family,
    source: Seen,
) -> None:
    if lack := client_kind.missing() or VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    address, namespace = routed.address(Side.SERVER, family), routed.namespace(Side.SERVER)
    with VSFTPD.start(workspace.samples.root, address, namespace) as server:
        own = (
            f'[[protocols]]\nname = "ftp-here"\nports = [{server.port}]\n'
            'filters = ["ftp"]\nsecondary = ["ftp-data"]\n'
        )
        client = client_kind(mode=mode, namespace=routed.namespace(Side.CLIENT))
        with proxying(routed, source, own) as proxy:
            exercise_resuming(client, server.target, workspace)
            proxy.await_rest()
            (control,) = proxy.logged("connection closed", protocol="ftp-here")[:1]
            assert control["path"] == "user"
            assert proxy.logged("connection closed", protocol="ftp-data")
