"""Programs that reach servers through SOCKS and HTTP proxies: how each is told the way.

Every way is used by its program's own words, so that what is tested is what people type.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from _pytest.mark import ParameterSet

from .processes import find_program
from .terms import BOTH_FAMILIES, IPV4, Family

LIBRARIES = Path(__file__).parent / "programs" / "socks_libraries.py"


class Speech(enum.StrEnum):
    """What the program says to the proxy."""

    SOCKS4 = "SOCKS 4"
    SOCKS4A = "SOCKS 4a"
    SOCKS5 = "SOCKS 5"
    HTTP = "HTTP"


NAMES = {"nc.openbsd": "nc (OpenBSD)", "connect": "connect-proxy", "pysocks": "PySocks"}


def shows(way: str, protocol: str, client: str = "") -> pytest.MarkDecorator:
    """Mark what proves that a client reaches servers of a protocol by a way in.

    The table in README.md is made of these (tests/shown.py). Without a client it is that of the
    parameter `case`, `combination` or `client_kind`.
    """
    return pytest.mark.shows(way=way, protocol=protocol, client=client)


def shown(ways: Sequence[Way], protocol: str, by: str = "") -> list[ParameterSet]:
    """The parameters of a test that shows each of these ways."""
    return [
        pytest.param(way, id=str(way), marks=shows(way.speech, protocol, f"{by}{way.client}"))
        for way in ways
    ]


@attrs.frozen
class Door:
    """A listener of the proxy, and who comes in."""

    host: str
    port: int
    user: str = ""
    password: str = ""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def login(self) -> str:
        return f"{self.user}:{self.password}"

    def url(self, scheme: str) -> str:
        """The proxy as URL."""
        login = f"{self.login}@" if self.user else ""
        return f"{scheme}://{login}{self.address}"


@attrs.frozen
class Way:
    """A program by a kind of proxy.

    Attributes:
        program: what is run, as its package calls it.
        speech: what it says to the proxy.
        words: its command; {address}, {host}, {port}, {user}, {password}, {login} and {url} are the
            proxy's, {server}, {there} and {server_port} the server's; {scheme} and {authority} are
            for those who fetch.
        login: words to log in with, before the others; None if it cannot.
        by_name: whether the proxy resolves the server's name.
        families: of the server, if it gives an address.
        package: what to install.
    """

    program: str
    speech: Speech
    words: str
    login: str | None = None
    by_name: bool = True
    families: frozenset[Family] = BOTH_FAMILIES
    package: str = ""

    def missing(self) -> str | None:
        """The package that is missing here."""
        found = self.program == "python" or find_program(self.program)
        return None if found else self.package or self.program

    def command(
        self,
        door: Door,
        server: str,
        server_port: int | str,
        *,
        scheme: str = "http",
        authority: Path | None = None,
    ) -> Sequence[str]:
        """The command line; those who fetch get a scheme, and a file that vouches for servers."""
        program = sys.executable if self.program == "python" else find_program(self.program)
        url_scheme = {Speech.HTTP: "http", Speech.SOCKS5: "socks5"}.get(self.speech, "socks4")
        words = f"{self.login or ''} {self.words}" if door.user else self.words
        bracketed = f"[{server}]" if ":" in server else server
        known = {
            "address": door.address, "host": door.host, "port": door.port, "login": door.login,
            "user": door.user, "password": door.password, "url": door.url(url_scheme),
            "server": server, "there": f"{bracketed}:{server_port}", "server_port": server_port,
            "scheme": scheme, "authority": authority,
        }  # fmt: skip
        return [str(program), *(word.format(**known) for word in words.split())]

    @property
    def client(self) -> str:
        """What people call the program, or the library."""
        name = self.words.split()[1] if self.program == "python" else self.program
        return NAMES.get(name, name)

    def __str__(self) -> str:
        name = Path(self.words.split()[1]).stem if self.program == "python" else self.program
        resolving = "" if self.by_name else " locally"
        return f"{name}-{self.speech}{resolving}".replace(" ", "-")


SCHEMES = {Speech.SOCKS4: "socks4", Speech.SOCKS5: "socks5", Speech.HTTP: "http"}
"""What they are called in URLs, and by proxychains4."""

_CURL = "-q -sS --fail --max-time 20 --cacert {authority}"

FETCHING = [
    Way("curl", Speech.SOCKS4, _CURL + " --socks4 {address} {scheme}://{there}/one.bin",
        by_name=False, families=IPV4),
    Way("curl", Speech.SOCKS4A, _CURL + " --socks4a {address} {scheme}://{there}/one.bin",
        families=frozenset()),
    Way("curl", Speech.SOCKS5, _CURL + " --socks5 {address} {scheme}://{there}/one.bin",
        login="--proxy-user {login}", by_name=False),
    Way("curl", Speech.SOCKS5, _CURL + " --socks5-hostname {address} {scheme}://{there}/one.bin",
        login="--proxy-user {login}"),
    Way("curl", Speech.HTTP, _CURL + " --proxytunnel --proxy {address} {scheme}://{there}/one.bin",
        login="--proxy-user {login}"),
    Way("curl", Speech.HTTP, _CURL + " --proxytunnel --proxy1.0 {address} "
        "{scheme}://{there}/one.bin", login="--proxy-anyauth --proxy-user {login}", families=IPV4),
]  # fmt: skip
"""They fetch a file by HTTP or HTTPS, and print it."""

# wget leaves out the brackets of an IPv6 address (`CONNECT ::1:8443`), which nobody can tell apart.
FETCHING_BY_TLS = [
    Way("wget", Speech.HTTP, "-q -O - --timeout=10 --tries=1 --ca-certificate={authority} "
        "-e use_proxy=yes -e https_proxy=http://{address} {scheme}://{there}/one.bin",
        login="--proxy-user={user} --proxy-password={password}", families=IPV4),
]  # fmt: skip
"""They fetch a file by HTTPS alone: for HTTP they send the proxy a request that is no CONNECT."""

CONNECTORS = [
    Way("nc.openbsd", Speech.SOCKS4, "-N -X 4 -x {address} {server} {server_port}", families=IPV4,
        by_name=False, package="netcat-openbsd"),
    Way("nc.openbsd", Speech.SOCKS5, "-N -X 5 -x {address} {server} {server_port}",
        package="netcat-openbsd"),
    Way("nc.openbsd", Speech.HTTP, "-N -X connect -x {address} {server} {server_port}",
        package="netcat-openbsd"),
    Way("ncat", Speech.SOCKS4, "--proxy-type socks4 --proxy {address} {server} {server_port}",
        families=IPV4, by_name=False),
    Way("ncat", Speech.SOCKS5, "--proxy-type socks5 --proxy {address} {server} {server_port}",
        login="--proxy-auth {login}", families=IPV4),
    Way("ncat", Speech.HTTP, "--proxy-type http --proxy {address} {server} {server_port}",
        login="--proxy-auth {login}", families=IPV4),
    Way("connect", Speech.SOCKS4, "-4 -R remote -S {address} {server} {server_port}",
        families=IPV4, package="connect-proxy"),
    Way("connect", Speech.SOCKS5, "-5 -R remote -S {address} {server} {server_port}",
        families=IPV4, package="connect-proxy"),
    Way("connect", Speech.HTTP, "-H {address} {server} {server_port}", families=IPV4,
        package="connect-proxy"),
    Way("python", Speech.SOCKS4A, f"{LIBRARIES} pysocks {{url}} {{server}} {{server_port}}",
        families=frozenset()),
    Way("python", Speech.SOCKS5, f"{LIBRARIES} pysocks {{url}} {{server}} {{server_port}}",
        login=""),
    Way("python", Speech.HTTP, f"{LIBRARIES} pysocks {{url}} {{server}} {{server_port}}",
        families=IPV4, login=""),
    Way("python", Speech.SOCKS5, f"{LIBRARIES} python-socks {{url}} {{server}} {{server_port}}",
        login=""),
    Way("python", Speech.HTTP, f"{LIBRARIES} python-socks {{url}} {{server}} {{server_port}}",
        families=IPV4, login=""),
]  # fmt: skip
"""They say what they are told, and print the answer; ssh uses such as ProxyCommand."""


DANTE = """
route {{
    from: 0.0.0.0/0 to: 0.0.0.0/0 via: {host} port = {port}
    proxyprotocol: socks_v5
    method: {method}
    protocol: tcp udp
    command: bind connect udpassociate
}}
"""


def by_dante(door: Door, directory: Path) -> tuple[str, ...]:
    """The command that puts Dante's client library before a program's own sockets."""
    configuration = directory / "socks.conf"
    configuration.write_text(DANTE.format(host=door.host, port=door.port, method="none"))
    return ("env", f"SOCKS_CONF={configuration}", "socksify")
