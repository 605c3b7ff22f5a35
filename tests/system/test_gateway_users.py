"""Clients that log in at a gateway before they name a server, set up as README.md says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from fwproxy import users
from fwproxy.users import PasswordHash

from . import readme
from .client_kind import Client
from .ftp_clients import Curl, Lftp, Ncftp
from .ftp_servers import VSFTPD
from .matrix import Samples, Workspace, exercise_briefly
from .namespaces import Network, Side
from .proxy import Listener, Proxy, running_proxy
from .routes import FTP_PORT, check_no_other_way
from .server_kind import FTPServer
from .terms import Mode, Target
from .ways import shows

GATEWAY_PORT = 2121
USER, PASSWORD = "anna", "open-sesame"
RULES = f'[[rules]]\naction = "allow"\nprotocols = ["ftp"]\nusers = ["{USER}"]\n'


@pytest.fixture(scope="module")
def server(net: Network, samples: Samples) -> Iterator[FTPServer]:
    if lack := VSFTPD.missing():
        pytest.skip(f"package missing: {lack}")
    host, namespace = net.address(Side.SERVER), net.namespace(Side.SERVER)
    with VSFTPD.start(samples.root, host, namespace, FTP_PORT) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(net: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    file = tmp_path_factory.mktemp("gateway") / "users"
    words = {USER: PASSWORD, "bert": PASSWORD}
    users.write(
        file,
        {user: PasswordHash.make(word.encode(), cost_log2=10) for user, word in words.items()},
    )
    host = net.proxy_address(Side.CLIENT)
    listener = Listener("gateway", host, kind="gateway", port=GATEWAY_PORT,
                        keys={"users": str(file)})  # fmt: skip
    namespace, limits = net.namespace(Side.PROXY), {"max_failed_logins": 1000}
    with running_proxy([listener], RULES, namespace=namespace, limits=limits) as made:
        yield made
        made.finish()


def set_up(
    net: Network, client: Client, server: FTPServer, user: str, password: str
) -> tuple[Client, Target]:
    """The client, set as the README says, and the server by the name that the proxy knows."""
    words = {"10.77.0.1": net.proxy_address(Side.CLIENT), "alice": user, "secret": password}
    files = readme.settings_files(f"{client.name} with users")
    home = {name: readme.replaced(text, words) for name, text in files.items()}
    target = attrs.evolve(server.target, host=net.server_name(4))
    return attrs.evolve(client, home=home), target


@shows("gateway with users", "FTP")
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("client_kind", [Lftp, Ncftp])
def test_clients_log_in_twice(
    net: Network,
    proxy: Proxy,
    server: FTPServer,
    workspace: Workspace,
    client_kind: type[Lftp | Ncftp],
    mode: Mode,
) -> None:
    if lack := client_kind.missing():
        pytest.skip(f"package missing: {lack}")
    client = client_kind(mode=mode, namespace=net.namespace(Side.CLIENT))
    check_no_other_way(client, server, workspace)
    start = len(proxy.lines())
    client, target = set_up(net, client, server, USER, PASSWORD)
    exercise_briefly(client, target, workspace)
    proxy.await_rest()
    assert proxy.logged("connection closed", start, protocol="ftp-data", path="splice")


@pytest.mark.parametrize(
    ("user", "password", "line"),
    [
        (USER, "guess", "login failed"),
        ("nobody", PASSWORD, "login failed"),
        ("bert", PASSWORD, "gateway login refused"),  # right, but no rule is for him
    ],
)
@pytest.mark.parametrize("client_kind", [Lftp, Ncftp])
def test_others_get_nothing(
    net: Network,
    proxy: Proxy,
    server: FTPServer,
    tmp_path: Path,
    client_kind: type[Lftp | Ncftp],
    user: str,
    password: str,
    line: str,
) -> None:
    if lack := client_kind.missing():
        pytest.skip(f"package missing: {lack}")
    start = len(proxy.lines())
    client = client_kind(namespace=net.namespace(Side.CLIENT))
    client, target = set_up(net, client, server, user, password)
    with pytest.raises(AssertionError):
        client.fetch(target, "one.bin", tmp_path / "one.bin")
    assert proxy.logged(line, start)
    proxy.await_rest()


def test_a_client_that_is_not_set_up_tells_the_gateway_no_password(
    net: Network, proxy: Proxy, server: FTPServer, tmp_path: Path
) -> None:
    start = len(proxy.lines())
    user = f"{server.username}@{server.host}"
    target = Target(net.proxy_address(Side.CLIENT), GATEWAY_PORT, user, server.password)
    client = Curl(namespace=net.namespace(Side.CLIENT))
    with pytest.raises(AssertionError, match=r"530|denied"):
        client.fetch(target, "one.bin", tmp_path / "one.bin")
    assert not proxy.logged("login failed", start)
