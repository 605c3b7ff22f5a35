"""Configuration files: what they mean, and how each mistake is reported."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from fwproxy.address import Endpoint, HostName, Transport
from fwproxy.config.config import (
    Config,
    DatapathConfig,
    Limits,
    LogConfig,
    PortRange,
    SecondaryConfig,
)
from fwproxy.config.file import load, parse
from fwproxy.config.listeners import ListenerConfig, ListenerKind
from fwproxy.errors import ConfigError
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule
from fwproxy.protocol import BUILT_IN, ProtocolDefinition, protocol_id

FULL = """\
[[listeners]]
name = "ftp"
kind = "forward"
bind = "127.0.0.1:2121"
upstream = "127.0.0.1:2100"
protocol = "ftp"
backlog = 5
advertise = "198.51.100.1"

[listeners.filters.ftp]
read_only = true

[[listeners]]
name = "six"
kind = "gateway"
bind = "[::1]:2121"
protocol = "ftp"

[networks.internal]
prefixes = ["10.77.0.0/24", "2001:db8::/32"]
addresses = ["10.77.0.1"]

[networks.external]
prefixes = ["0.0.0.0/0"]

[[relations]]
from = "internal"
to = "external"
kind = "nat"

[[rules]]
action = "allow"
protocols = ["ftp"]
from = ["internal"]
to = ["external"]
users = ["anna"]
name = "outward"

[[rules]]
action = "deny"
protocols = ["parcel-data"]

[[protocols]]
name = "parcel"
transport = "tcp"
ports = [7000, 7001]
secondary = ["parcel-data", "tcp"]
filters = ["parcel", "ftp"]
id = "00000000-0000-0000-0000-000000000005"

[[protocols]]
name = "parcel-data"
transport = "udp"

[secondary]
ports = "40000-40100"
timeout = 5

[datapath]
kernel = "off"
bulk_threshold = 0

[filters.ftp]
read_only = false

[limits]
max_sessions = 12
idle_timeout = 1.5

[log]
format = "json"
level = "debug"
"""

SMALL = """\
[[listeners]]
name = "a"
bind = "127.0.0.1:2121"
upstream = "ftp.example.org:21"
protocol = "ftp"
"""


def problems(text: str) -> list[str]:
    """Return the lines of the error that *text* gives, without the source's name."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "proxy.toml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("proxy.toml:") for line in lines)
    return [line.removeprefix("proxy.toml:") for line in lines]


def problem(text: str) -> str:
    [line] = problems(text)
    return line


def test_a_full_file_becomes_the_same_configuration_as_in_python() -> None:
    expected = Config(
        listeners=(
            ListenerConfig(
                name="ftp",
                bind=Endpoint("127.0.0.1", 2121),
                upstream=Endpoint("127.0.0.1", 2100),
                protocol="ftp",
                backlog=5,
                advertise="198.51.100.1",
                filters={"ftp": {"read_only": True}},
            ),
            ListenerConfig(
                name="six", kind=ListenerKind.GATEWAY, bind=Endpoint("::1", 2121), protocol="ftp"
            ),
        ),
        networks=(
            Network("internal", ("10.77.0.0/24", "2001:db8::/32"), ("10.77.0.1",)),
            Network("external", ("0.0.0.0/0",)),
        ),
        relations=(Relation("internal", "external", NetworkRelation.NAT),),
        rules=(
            Rule(
                allow=True,
                protocols=("ftp",),
                sources=("internal",),
                targets=("external",),
                users=("anna",),
                name="outward",
            ),
            Rule(allow=False, protocols=("parcel-data",)),
        ),
        protocols=(
            ProtocolDefinition(
                "parcel",
                ports=(7000, 7001),
                secondary=("parcel-data", "tcp"),
                filters=("parcel", "ftp"),
                id=uuid.UUID(int=5),
            ),
            ProtocolDefinition("parcel-data", Transport.UDP),
            *BUILT_IN,
        ),
        secondary=SecondaryConfig(PortRange(40000, 40100), 5.0),
        datapath=DatapathConfig(kernel="off", bulk_threshold=0),
        filters={"ftp": {"read_only": False}},
        limits=Limits(max_sessions=12, idle_timeout=1.5),
        log=LogConfig("json", "debug"),
    )
    assert parse(FULL) == expected


def test_what_is_left_out_has_its_default() -> None:
    config = parse(SMALL)
    assert config == Config(
        (
            ListenerConfig(
                "a", Endpoint("127.0.0.1", 2121), "ftp", upstream=HostName("ftp.example.org", 21)
            ),
        )
    )
    assert config.limits == Limits()
    assert isinstance(parse(FULL).secondary.timeout, float)
    assert parse(FULL).protocols[1].id == protocol_id("parcel-data")


def test_one_port_is_a_range() -> None:
    assert parse(SMALL + '[secondary]\nports = "5000"').secondary.ports == PortRange(5000, 5000)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("backlog", "backlgo", '[[listeners]] "ftp" backlgo: unknown key; did you mean "backlo'),
        ("max_sessions", "max_sesions", '[limits] max_sesions: unknown key; did you mean "max'),
        ("[limits]", "[limit]", 'limit: unknown key; did you mean "limits"?'),
        ('prefixes = ["0', 'prefix = ["0', "[networks.external] prefix: unknown key; did yo"),
        ('users = ["anna"]', "zz = 1", '[[rules]] "outward" zz: unknown key; there is act'),
        ('"forward"', '"sock"', '[[listeners]] "ftp" kind: must be one of forward, gateway, red'),
        ("backlog = 5", 'source = "me"', '[[listeners]] "ftp" source: must be one of proxy, cli'),
        ("backlog = 5", "send_proxy = 3", '[[listeners]] "ftp" send_proxy: must be one of 0, 1'),
        ("backlog = 5", 'trusted = ["x"]', '[[listeners]] "ftp" trusted, item 1: '),
        ('"forward"', '"forwrd"', '[[listeners]] "ftp" kind: must be one of forward, gateway'),
        ('"127.0.0.1:2121"', '"127.0.0.1"', "[[listeners]] \"ftp\" bind: '127.0.0.1' is not o"),
        ('"127.0.0.1:2121"', '"localhost:1"', "[[listeners]] \"ftp\" bind: 'localhost' is not "),
        ('"127.0.0.1:2121"', "2121", '[[listeners]] "ftp" bind: must be a string, not 2121'),
        ("backlog = 5", "backlog = 0", '[[listeners]] "ftp" backlog: must be more than 0, not'),
        ("backlog = 5", "backlog = true", '[[listeners]] "ftp" backlog: must be a whole numbe'),
        ("backlog = 5", 'backlog = "5"', '[[listeners]] "ftp" backlog: must be a whole number'),
        ("backlog = 5", "backlog = 5.0", '[[listeners]] "ftp" backlog: must be a whole number'),
        ('name = "six"', 'name = "ftp"', '[[listeners]] "ftp" name: another listener has th'),
        ('name = "six"', 'name = ""', '[[listeners]] "" name: must not be empty'),
        ('"ftp"\nbacklog', '"ftpp"\nbacklog', '[[listeners]] "ftp" protocol: there is no prot'),
        ('"10.77.0.0/24"', '"10.77.0.1/24"', "[networks.internal] prefixes, item 1: '10.77."),
        ('"10.77.0.1"]', '"x"]', "[networks.internal] addresses, item 1: 'x' is not an IP a"),
        ('to = "external"', 'to = "externl"', "[[relations]] number 1 to: there is no networ"),
        ('kind = "nat"', 'kind = "same"', "[[relations]] number 1 kind: must be one of nat, "),
        ('"allow"', '"alow"', '[[rules]] "outward" action: must be one of allow, deny, not "'),
        ('["ftp"]', '["ftpp"]', '[[rules]] "outward" protocols: there is no protocol "ftpp";'),
        ('["internal"]', '"internal"', '[[rules]] "outward" from: must be a list, not "inter'),
        ('["internal"]', "[5]", '[[rules]] "outward" from, item 1: must be a string, not 5'),
        (
            '"198.51.100.1"',
            '"here"',
            "[[listeners]] \"ftp\" advertise: 'here' is not an IP address",
        ),
        ('"198.51.100.1"', '"0.0.0.0"', '[[listeners]] "ftp" advertise: 0.0.0.0 is no address to'),
        ('"198.51.100.1"', '"ff02::1"', '[[listeners]] "ftp" advertise: ff02::1 is no address to'),
        ('"198.51.100.1"', "5", '[[listeners]] "ftp" advertise: must be a string, not 5'),
        ('"198.51.100.1"', '"2001:db8::1"', '[[listeners]] "ftp" advertise: must be an IPv4 ad'),
        ('"ftp"\n\n[networks', '"udp"\n\n[networks', '[[listeners]] "six" protocol: a gateway l'),
        ('name = "parcel"', 'name = ""', '[[protocols]] "" name: must not be empty'),
        ('name = "parcel"', 'name = "ftp"', '[[protocols]] "ftp" name: "ftp" is built in and ca'),
        ('"tcp"\nports', '"sctp"\nports', '[[protocols]] "parcel" transport: must be one of tc'),
        ("[7000, 7001]", "7000", '[[protocols]] "parcel" ports: must be a list, not 7000'),
        ("[7000, 7001]", '["7000-"]', '[[protocols]] "parcel" ports, item 1: must be a range such'),
        ("[7000, 7001]", "[0]", '[[protocols]] "parcel" ports, item 1: port 0 is outside 1-65535'),
        ('["parcel-data", "tcp"]', '["parcel-dat"]', '[[protocols]] "parcel" secondary: there is'),
        ("-000000000005", "", '[[protocols]] "parcel" id: must be a UUID such as "00000000-0000-'),
        ("ports = [7000", "port = [7000", '[[protocols]] "parcel" port: unknown key; did you me'),
        ("40000-40100", "40100-40000", "[secondary] ports: the port range 40100-40000 ends b"),
        ("40000-40100", "0-40000", "[secondary] ports: the port range 0-40000 is not within"),
        ("40000-40100", "all", '[secondary] ports: must be a range such as "40000-49999", no'),
        ("timeout = 5", "timeout = -1", "[secondary] timeout: must be more than 0, not -1"),
        ("timeout = 5", "timeout = inf", "[secondary] timeout: must be a number, not inf"),
        ("timeout = 5", "timeout = nan", "[secondary] timeout: must be a number, not nan"),
        ('"off"', '"of"', '[datapath] kernel: must be one of auto, off, require, not "of"; d'),
        ("= 0", "= -1", "[datapath] bulk_threshold: must not be negative, as -1 is"),
        ("max_sessions = 12", "max_buffer = 1", "[limits] max_buffer: must be at least 16384"),
        ('"json"', '"xml"', '[log] format: must be one of console, json, not "xml"'),
    ],
)
def test_mistakes_are_named_with_line_table_and_remedy(old: str, new: str, expected: str) -> None:
    line = FULL[: FULL.index(old)].count("\n") + 1
    assert problem(FULL.replace(old, new, 1)).startswith(f"{line}: {expected}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('upstream = "127.0.0.1:2100"', "", '1: [[listeners]] "ftp" upstream: a forward listener'),
        ('name = "six"', "", "13: [[listeners]] number 2 name: missing"),
        ("[filters.ftp]\nread_only = false", "[filters]\nftp = 1", "64: [filters] ftp: must be a"),
    ],
)
def test_what_is_missing_is_looked_for_at_the_head_of_its_table(
    old: str, new: str, expected: str
) -> None:
    assert problem(FULL.replace(old, new, 1)).startswith(expected)


def test_all_mistakes_are_reported_in_the_order_of_their_lines() -> None:
    text = FULL.replace("max_sessions", "max_session").replace('"allow"', "1").replace("5\n", "x=1")
    assert "not TOML" in problem(text)
    text = FULL.replace("max_sessions", "max_session").replace('"allow"', "1").replace("::1", "::z")
    assert [line.split(":")[0] for line in problems(text)] == ["16", "32", "67"]


def test_two_protocols_of_one_name() -> None:
    assert problem(FULL.replace('"parcel"\n', '"parcel-data"\n', 1)) == (
        '52: [[protocols]] "parcel-data" name: another protocol has this name'
    )


@pytest.mark.parametrize(
    ("bind", "advertise", "version"),
    [
        ("[::]:21", "198.51.100.1", 6),
        ("[::]:21", "::ffff:198.51.100.1", 6),  # the same host
        ("0.0.0.0:21", "2001:db8::1", 4),
    ],
)
def test_clients_of_one_version_are_not_told_an_address_of_the_other(
    bind: str, advertise: str, version: int
) -> None:
    text = SMALL.replace("127.0.0.1:2121", bind) + f'advertise = "{advertise}"\n'
    assert problem(text) == (
        f'6: [[listeners]] "a" advertise: must be an IPv{version} address: '
        f"nobody else can come to {bind}"
    )


def test_tables_of_the_wrong_shape() -> None:
    assert "listeners: must be an array of tables" in problem(
        SMALL.replace("[[listeners]]", "[listeners]")
    )
    assert "networks: must be a table, not 5" in problem("networks = 5\n" + SMALL)
    assert "networks: must be a table" in problem(SMALL + "[[networks]]\nname = 'a'")


@pytest.mark.parametrize("text", ["", "listeners = []", "# nothing"])
def test_a_file_without_listeners(text: str) -> None:
    assert problem(text) == "1: listeners: at least one [[listeners]] table is needed"


@pytest.mark.parametrize(
    ("text", "line"), [("a = ", 1), ("a = 1\nb = [\n", 2), ("a = 1\n\na = 2", 3), ("\n[x", 2)]
)
def test_text_that_is_not_toml(text: str, line: int) -> None:
    assert problem(text).startswith(f"{line}: not TOML: ")


def test_open_relays_are_refused() -> None:
    text = SMALL.replace('upstream = "ftp.example.org:21"', 'kind = "gateway"')
    assert parse(text).listeners[0].kind is ListenerKind.GATEWAY
    open_relay = text.replace("127.0.0.1", "0.0.0.0")
    assert problem(open_relay).startswith(
        '3: [[listeners]] "a" bind: without rules a gateway listener on'
    )
    assert len(parse(open_relay + '[[rules]]\naction = "deny"').rules) == 1


def test_problems_found_by_a_later_check_have_their_lines() -> None:
    def check(config: Config) -> None:
        raise ConfigError("x", [(("filters", "ftp", "read_only"), "no good")])

    with pytest.raises(ConfigError, match=r"^p\.toml:64: \[filters\.ftp\] read_only: no good$"):
        parse(FULL, "p.toml", check)


def test_problems_without_a_place_are_reported_all_the_same() -> None:
    def check(config: Config) -> None:
        raise ConfigError("something is wrong")

    with pytest.raises(ConfigError, match=r"^p\.toml: something is wrong$"):
        parse(FULL, "p.toml", check)


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(SMALL, encoding="utf-8")
    assert load(path) == parse(SMALL)


def test_load_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"proxy\.toml: not UTF-8 text: byte 0 is wrong"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.toml")
