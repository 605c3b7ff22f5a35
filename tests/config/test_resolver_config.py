"""The settings of name resolution, in Python and in a file."""

import importlib.util

import pytest

from fwproxy import Endpoint
from fwproxy.config.file import parse
from fwproxy.config.resolver import ResolverConfig
from fwproxy.errors import ConfigError

FILE = """\
[[listeners]]
name = "a"
bind = "127.0.0.1:2121"
upstream = "ftp.example.org:21"
protocol = "ftp"

[resolver]
kind = "dns"
"""


def test_the_system_is_asked_unless_the_file_says_otherwise() -> None:
    assert parse(FILE.partition("[resolver]")[0]).resolver == ResolverConfig("system")
    assert parse(FILE).resolver == ResolverConfig("dns")


def test_servers_are_addresses_with_or_without_a_port() -> None:
    servers = ["192.0.2.53", "192.0.2.53:5353", "2001:db8::53", "[2001:db8::53]", "[::1]:5353"]
    made = parse(f"{FILE}servers = {servers}\ntimeout = 2\nattempt_timeout = 0.5\nmax_ttl = 0\n")
    found = made.resolver
    assert [str(server) for server in found.servers] == [
        "192.0.2.53:53", "192.0.2.53:5353", "[2001:db8::53]:53", "[2001:db8::53]:53", "[::1]:5353",
    ]  # fmt: skip
    assert (found.timeout, found.attempt_timeout, found.max_ttl) == (2.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('servers = ["dns.example.org"]', "dns.example.org"),
        ('servers = ["192.0.2.53", "192.0.2.54:dns"]', "host:port"),
        ('servers = ["192.0.2.53:0"]', "nobody can be asked at 192.0.2.53:0"),
        ('servers = ["0.0.0.0"]', "nobody can be asked at 0.0.0.0:53"),
        ('servers = "192.0.2.53"', "must be a list"),
        ("server = []", 'did you mean "servers"'),
        ("timeout = 0", "more than 0"),
        ("attempt_timeout = -1.0", "more than 0"),
        ("max_ttl = -1", "must not be negative"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse(f"{FILE}{line}\n", "proxy.toml")
    assert str(caught.value).startswith("proxy.toml:9: ")


def test_there_are_two_kinds() -> None:
    with pytest.raises(ConfigError, match=r':8: .*must be one of system, dns, not "DNS"'):
        parse(FILE.replace('"dns"', '"DNS"'), "proxy.toml")
    with pytest.raises(ConfigError, match="must be system or dns, not 'doh'"):
        ResolverConfig("doh")  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [None, ModuleNotFoundError])
def test_without_the_extra_dns_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    """Nothing called `dns` is installed, or something else."""

    def find_spec(name: str) -> None:
        assert name == "dns.asyncresolver"
        if error is not None:
            raise error(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ConfigError, match=r":8: .*pip install 'fwproxy\[dns\]'"):
        parse(FILE, "proxy.toml")
    assert ResolverConfig(servers=(Endpoint("192.0.2.53", 53),)).kind == "system"
