"""Clients that log in at a gateway besides the server, set up as README.md says, in every form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from fwproxy import users
from fwproxy.users import PasswordHash

from . import readme
from .client_kind import Client
from .ftp_clients import Curl, Ftplib, Lftp, Ncftp, Tnftp, Wget
from .ftp_servers import VSFTPD
from .matrix import Samples, Workspace, exercise_briefly
from .namespaces import Network, Side
from .proxy import Listener, Proxy, running_proxy
from .routes import FTP_PORT, check_no_other_way
from .server_kind import FTPServer
from .terms import Mode, Target
from .ways import shows

GATEWAY_PORT, OPEN_GATEWAY_PORT = 2121, 2122
USER, PASSWORD = "anna", "open-sesame"
ALL = '[[rules]]\naction = "allow"\n'
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


@pytest.fixture(scope="module")
def open_proxy(net: Network) -> Iterator[Proxy]:
    """A gateway where nobody logs in."""
    host, namespace = net.proxy_address(Side.CLIENT), net.namespace(Side.PROXY)
    listener = Listener("gateway", host, kind="gateway", port=OPEN_GATEWAY_PORT)
    with running_proxy([listener], ALL, namespace=namespace) as made:
        yield made
        made.finish()


def installed(kind: type[Client], net: Network, mode: Mode = Mode.PASSIVE) -> Client:
    """A client at the place of clients; the test is skipped where its package is missing."""
    if lack := kind.missing():
        pytest.skip(f"package missing: {lack}")
    return kind(mode=mode, namespace=net.namespace(Side.CLIENT))


def set_up(
    net: Network, client: Client, server: FTPServer, user: str, password: str, form: str = ""
) -> tuple[Client, Target]:
    """The client, set as the README says, and the server by the name that the proxy knows."""
    words = {"10.77.0.1": net.proxy_address(Side.CLIENT), "alice": user, "secret": password}
    files = readme.settings_files(f"{client.name} with users")
    home = {name: in_form(readme.replaced(text, words), form) for name, text in files.items()}
    target = attrs.evolve(server.target, host=net.server_name(4))
    return attrs.evolve(client, home=home), target


def in_form(settings: str, form: str) -> str:
    """The settings of ncftp or lftp with another form."""
    if not form:
        return settings
    if "firewall-type" in settings:
        return readme.replaced(settings, {"firewall-type=2": f"firewall-type={form}"})
    return f"{settings}set ftp:proxy-auth-type {form}\n"


def forms(*, users: bool) -> list[tuple[type[Lftp | Ncftp], str]]:
    """The forms that the README lists, by client."""
    kinds: tuple[type[Lftp | Ncftp], ...] = (Lftp, Ncftp)
    return [(kind, form) for kind in kinds for form in readme.gateway_forms(kind.name, users=users)]


def without_users(client: Client) -> Client:
    """The same client, set to the gateway where nobody logs in, and to say no user of one."""
    ports = {str(GATEWAY_PORT): str(OPEN_GATEWAY_PORT)}
    home = {
        name: readme.replaced(text.replace(f"{USER}:{PASSWORD}@", ""), ports)
        for name, text in client.home.items()
    }
    return attrs.evolve(client, home=home)


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
    client = installed(client_kind, net, mode)
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
    start = len(proxy.lines())
    client = installed(client_kind, net)
    client, target = set_up(net, client, server, user, password)
    with pytest.raises(AssertionError):
        client.fetch(target, "one.bin", tmp_path / "one.bin")
    assert proxy.logged(line, start)
    proxy.await_rest()


def test_the_readme_has_every_form_that_the_clients_have() -> None:
    listed = forms(users=True) + forms(users=False)
    assert {form for kind, form in listed if kind is Ncftp} == set("123456789")
    assert {form for kind, form in listed if kind is Lftp} == {
        "user", "joined", "joined-acct", "open", "proxy-user@host",
    }  # fmt: skip


@shows("gateway with users", "FTP")
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(("client_kind", "form"), forms(users=True))
def test_every_form_with_users(
    net: Network,
    proxy: Proxy,
    server: FTPServer,
    workspace: Workspace,
    client_kind: type[Lftp | Ncftp],
    form: str,
    mode: Mode,
) -> None:
    client = installed(client_kind, net, mode)
    start = len(proxy.lines())
    client, target = set_up(net, client, server, USER, PASSWORD, form)
    exercise_briefly(client, target, workspace)
    proxy.await_rest()
    assert proxy.logged("connection closed", start, protocol="ftp-data", path="splice")
    assert not proxy.logged("login failed", start)


@pytest.mark.parametrize("listener", ["users", "nobody"])
@pytest.mark.parametrize(("client_kind", "form"), forms(users=True))
def test_no_form_with_users_works_without_the_password(
    net: Network,
    proxy: Proxy,
    open_proxy: Proxy,
    server: FTPServer,
    tmp_path: Path,
    client_kind: type[Lftp | Ncftp],
    form: str,
    listener: str,
) -> None:
    """A wrong one is counted; where nobody logs in, there is no right one."""
    start = len(proxy.lines())
    client = installed(client_kind, net)
    client, target = set_up(net, client, server, USER, "guess", form)
    if listener == "nobody":
        ports = {str(GATEWAY_PORT): str(OPEN_GATEWAY_PORT)}
        home = {name: readme.replaced(text, ports) for name, text in client.home.items()}
        client = attrs.evolve(client, home=home)
    with pytest.raises(AssertionError):
        client.fetch(target, "one.bin", tmp_path / "one.bin")
    if listener == "users":
        assert proxy.logged("login failed", start, user=USER)
    assert "guess" not in str(proxy.lines()[start:])
    proxy.await_rest()
    open_proxy.await_rest()


@shows("gateway", "FTP")
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(("client_kind", "form"), forms(users=False))
def test_every_form_without_users(
    net: Network,
    open_proxy: Proxy,
    server: FTPServer,
    workspace: Workspace,
    client_kind: type[Lftp | Ncftp],
    form: str,
    mode: Mode,
) -> None:
    start = len(open_proxy.lines())
    client = installed(client_kind, net, mode)
    client, target = set_up(net, client, server, USER, PASSWORD, form)
    exercise_briefly(without_users(client), target, workspace)
    open_proxy.await_rest()
    assert open_proxy.logged("connection closed", start, protocol="ftp-data", path="splice")


@pytest.mark.parametrize(("client_kind", "form"), forms(users=False))
def test_no_form_without_users_works_where_there_are_some(
    net: Network,
    proxy: Proxy,
    server: FTPServer,
    tmp_path: Path,
    client_kind: type[Lftp | Ncftp],
    form: str,
) -> None:
    client = installed(client_kind, net)
    client, target = set_up(net, client, server, USER, PASSWORD, form)
    home = {name: text.replace(f"{USER}:{PASSWORD}@", "") for name, text in client.home.items()}
    with pytest.raises(AssertionError):
        attrs.evolve(client, home=home).fetch(target, "one.bin", tmp_path / "one.bin")
    proxy.await_rest()


# Clients that know of no proxy, and are given both users.


def given_both(net: Network, server: FTPServer, password: str) -> Target:
    """The gateway, with the user name and the password that the README gives to all others."""
    name, both = readme.given("others with users")
    (curl,) = readme.given("curl with users")
    assert f"'{name}:{both}'" in curl
    words = {"user@": f"{server.username}@", "alice": USER, "ftp.example.org": server.host}
    secrets = {"password": server.password, "secret": password}
    return Target(
        net.proxy_address(Side.CLIENT),
        GATEWAY_PORT,
        readme.replaced(name, words),
        readme.replaced(both, secrets),
    )


@shows("gateway with users", "FTP")
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("client_kind", [Curl, Tnftp, Wget, Ftplib])
def test_clients_that_know_of_no_proxy(
    net: Network,
    proxy: Proxy,
    server: FTPServer,
    workspace: Workspace,
    client_kind: type[Client],
    mode: Mode,
) -> None:
    start = len(proxy.lines())
    client = installed(client_kind, net, mode)
    exercise_briefly(client, given_both(net, server, PASSWORD), workspace)
    with pytest.raises(AssertionError):
        client.fetch(given_both(net, server, "guess"), "one.bin", workspace.local / "one.bin")
    proxy.await_rest()
    assert len(proxy.logged("login failed", start)) == 1


def test_an_account_by_curl(
    net: Network, proxy: Proxy, server: FTPServer, workspace: Workspace
) -> None:
    user = f"{server.username}@{server.host} {USER}"
    target = Target(net.proxy_address(Side.CLIENT), GATEWAY_PORT, user, server.password)
    namespace, account = net.namespace(Side.CLIENT), "--ftp-account"
    exercise_briefly(CurlWith(namespace=namespace, options=(account, PASSWORD)), target, workspace)
    guessing = CurlWith(namespace=namespace, options=(account, "guess"))
    with pytest.raises(AssertionError, match=r"530|denied"):
        guessing.fetch(target, "one.bin", workspace.local / "one.bin")
    proxy.await_rest()


@attrs.frozen
class CurlWith(Curl):
    """curl with further options."""

    options: tuple[str, ...] = ()

    def _curl(self, target: Target, *args: str | Path) -> str:
        return super()._curl(target, *self.options, *args)


def test_a_client_that_is_not_set_up_gets_nothing(
    net: Network, proxy: Proxy, server: FTPServer, tmp_path: Path
) -> None:
    start = len(proxy.lines())
    user = f"{server.username}@{server.host}"
    target = Target(net.proxy_address(Side.CLIENT), GATEWAY_PORT, user, server.password)
    client = Curl(namespace=net.namespace(Side.CLIENT))
    with pytest.raises(AssertionError, match=r"530|denied"):
        client.fetch(target, "one.bin", tmp_path / "one.bin")
    assert proxy.logged("login failed", start, user=server.username)
    assert server.password not in str(proxy.lines()[start:])
