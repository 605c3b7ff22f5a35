"""The README and the reference of the configuration are true.

Configurations parse, defaults are the defaults, and commands exist.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from click.testing import CliRunner

from fwproxy import registry
from fwproxy.cli import main
from fwproxy.config import file as config_file
from fwproxy.config.config import (
    Config,
    DatapathConfig,
    LedgerConfig,
    Limits,
    LogConfig,
    ProcessConfig,
    SecondaryConfig,
    TimesConfig,
)
from fwproxy.config.listeners import ListenerConfig
from fwproxy.config.resolver import ResolverConfig
from fwproxy.config.shared import SharedAllow, SharedConfig, SharedTarget
from fwproxy.config.structure import _keys
from fwproxy.policy.policy import AccessRequest, Relation, Rule
from fwproxy.policy.rules import RuleLimits
from fwproxy.policy.scope import Scope
from fwproxy.protocol import FTP, ProtocolDefinition, protocol_id
from fwproxy_filters.ftp import FtpFilter, FtpSettings

ROOT = Path(__file__).parents[1]
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "docs" / "configuration.md")
}
TEXT = "\n".join(PAGES.values())
SOURCES = [*(ROOT / "fwproxy").rglob("*.py"), *(ROOT / "filters").rglob("*.py")]

LISTENER = '[[listeners]]\nname = "a"\nbind = "127.0.0.1:0"\nprotocol = "ftp"\n'
FORWARD = f'{LISTENER}upstream = "127.0.0.1:21"\n'
NETWORKS = '[networks.one]\nprefixes = ["192.0.2.0/24"]\n[networks.two]\n'
BASES = {
    "[[listeners]]": FORWARD,
    "[networks.NAME]": f"{FORWARD}[networks.NAME]\n",
    "[[relations]]": f'{FORWARD}{NETWORKS}[[relations]]\nfrom = "one"\nto = "two"\nkind = "nat"\n',
    "[[rules]]": f'{FORWARD}{NETWORKS}[[rules]]\naction = "allow"\n',
    "[rules.secondary]": f'{FORWARD}[[rules]]\naction = "allow"\n[rules.secondary]\n',
    "[rules.limits]": f'{FORWARD}[[rules]]\naction = "allow"\n[rules.limits]\n',
    "[times]": f"{FORWARD}[times]\n",
    "[[protocols]]": f'{FORWARD}[[protocols]]\nname = "parcel"\n',
    "[secondary]": f"{FORWARD}[secondary]\n",
    "[shared]": f"{FORWARD}[shared]\n",
    "[[shared.allow]]": f"{FORWARD}[[shared.allow]]\n",
    "[[shared.targets]]": f'{FORWARD}[[shared.targets]]\ntarget = "a.example:9092"\nport = 50001\n',
    "[datapath]": f"{FORWARD}[datapath]\n",
    "[resolver]": f"{FORWARD}[resolver]\n",
    "[limits]": f"{FORWARD}[limits]\n",
    "[process]": f"{FORWARD}[process]\n",
    "[ledger]": f"{FORWARD}[ledger]\n",
    "[log]": f"{FORWARD}[log]\n",
    "[filters.ftp]": f"{FORWARD}[filters.ftp]\n",
}
"""A configuration for each table of the reference that ends in the table with what it requires."""

CLASSES: dict[str, type[Any]] = {
    "[[listeners]]": ListenerConfig,
    "[networks.NAME]": config_file._NetworkTable,
    "[[relations]]": Relation,
    "[[rules]]": Rule,
    "[rules.secondary]": Scope,
    "[rules.limits]": RuleLimits,
    "[times]": TimesConfig,
    "[[protocols]]": ProtocolDefinition,
    "[secondary]": SecondaryConfig,
    "[shared]": SharedConfig,
    "[[shared.allow]]": SharedAllow,
    "[[shared.targets]]": SharedTarget,
    "[datapath]": DatapathConfig,
    "[resolver]": ResolverConfig,
    "[limits]": Limits,
    "[process]": ProcessConfig,
    "[ledger]": LedgerConfig,
    "[log]": LogConfig,
    "[filters.ftp]": FtpSettings,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield the cells of each table, without its head."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
            for row in table.splitlines()
        ]
        yield rows[2:]


def reference() -> Iterator[tuple[str, str, str]]:
    """Yield table, key and default from the reference of the configuration."""
    for section in re.split(r"^## `", TEXT, flags=re.MULTILINE)[1:]:
        name, _, body = section.partition("`\n")
        for key, default, _ in next(tables(body)):
            yield name, key.strip("`"), default


REFERENCE = list(reference())


def parse(text: str) -> Config:
    return config_file.parse(text, check=registry.check)


def test_the_reference_has_all_tables_of_a_configuration() -> None:
    names = {name for name, _, _ in REFERENCE}
    assert names == set(CLASSES)
    keys = {re.sub(r"\W.*", "", name.strip("[]")) for name in names}
    assert keys == set(_keys(Config))


@pytest.mark.parametrize("name", CLASSES)
def test_the_reference_has_every_key_of_a_table_in_order(name: str) -> None:
    described = [key for table, key, _ in REFERENCE if table == name]
    known = _keys(CLASSES[name])
    assert sorted(described) == sorted(known)
    if name not in {"[[listeners]]", "[[rules]]"}:  # where readers want another order
        assert described == known


@pytest.mark.parametrize(("table", "key", "default"), REFERENCE, ids=str)
def test_every_default_is_the_default(table: str, key: str, default: str) -> None:
    base = BASES[table]
    if default == "required":
        with pytest.raises(Exception, match="missing"):
            parse(re.sub(rf"^{key} = .*\n", "", base, flags=re.MULTILINE))
    elif default == "none":
        (attribute,) = (each for each in attrs.fields(CLASSES[table]) if each.name == key)
        assert attribute.default is None
    elif default == "from the name":
        assert parse(base).protocols[0].id == protocol_id("parcel")
    else:
        value = default.strip("`")
        made = parse(f"{base}{key} = {value}\n")
        if table == "[filters.ftp]":
            assert registry.settings_for(FtpFilter, made.filters["ftp"]) == FtpSettings()
        else:
            assert made == parse(base)


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.splitlines()[0])
def test_every_configuration_is_right(block: str) -> None:
    if block.startswith("[project."):
        assert registry.GROUP in block
    else:
        assert parse(block).listeners


def gateway_block() -> str:
    return next(block for block in blocks("toml") if 'kind = "gateway"' in block)


@pytest.mark.parametrize(
    ("server", "allowed"),
    [
        ("198.51.100.9", True),
        ("2001:db8::9", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("10.77.0.1", False),
        ("192.168.5.5", False),
        ("::1", False),
        ("::", False),
        ("::ffff:127.0.0.1", False),
        ("fe80::1", False),
        ("fd00::1", False),
    ],
)
def test_the_gateway_leads_out_and_nowhere_else(server: str, allowed: bool) -> None:  # noqa: FBT001
    policy = parse(gateway_block()).policy()
    assert policy.decide(AccessRequest(FTP, "10.77.0.8", server)).allowed is allowed
    assert not policy.decide(AccessRequest(FTP, "198.51.100.9", server)).allowed


def commands(program: str) -> Iterator[list[str]]:
    """Yield the arguments of a program wherever the README calls it."""
    for block in blocks("console"):
        for line in block.splitlines():
            words = shlex.split(line.split("   #")[0])
            if words[:1] in (["$"], ["#"]) and Path(words[1]).name == program:
                yield words[2:]


def test_every_make_target_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = {args[0] for args in commands("make")} | set(re.findall(r"`make (\w+)", TEXT))
    assert called <= set(targets)
    assert {"run", "test", "bench"} <= called


def test_every_command_exists() -> None:
    assert isinstance(main, click.Group)
    called = [*commands("fwproxy"), *(c.split() for c in re.findall(r"`fwproxy ([^`]+)`", TEXT))]
    options = {name: {o for p in c.params for o in p.opts} for name, c in main.commands.items()}
    for name, *args in called:
        assert {arg for arg in args if arg.startswith("--")} <= options[name]
    assert {name for name, *_ in called} == set(main.commands)


def test_the_nftables_rule_is_accepted() -> None:
    rules = list(commands("nft"))
    assert len(rules) == 3
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nft is None or os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("needs root and the package nftables")
    script = "".join(f"{' '.join(rule)}\n" for rule in rules)
    # In network namespaces of their own, so that nothing of this host changes.
    for text in (script, *blocks("nft")):
        subprocess.run(["unshare", "--net", nft, "-f", "-"], input=text, text=True, check=True)
    ports = parse(FORWARD).secondary.ports
    assert f"{FTP.ports[0]}, {ports}" in script


def test_the_rules_of_tproxy_are_those_that_the_command_prints(tmp_path: Path) -> None:
    (configuration,) = [block for block in blocks("toml") if 'kind = "tproxy"' in block]
    path = tmp_path / "proxy.toml"
    path.write_text(configuration, encoding="utf-8")
    result = CliRunner().invoke(main, ["setup-rules", str(path), "--interface", "lan0"])
    assert result.exit_code == 0
    (table,) = [block for block in blocks("nft") if "fwproxy-ways" in block]
    (routing,) = [block for block in blocks("console") if "ip -4 rule add" in block]
    remake = "table inet fwproxy-ways {}\ndelete table inet fwproxy-ways\n"
    assert result.output == remake + table + routing


def test_code_is_that_of_the_examples() -> None:
    marked = re.findall(
        r"^<!-- from (\S+) -->\n```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
    )
    assert len(marked) == len(blocks("python")) == 2
    for path, code in marked:
        assert code in (ROOT / path).read_text(encoding="utf-8")


def test_the_table_of_ways_in_is_that_of_the_tests() -> None:
    command = [sys.executable, ROOT / "tests" / "shown.py"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert len(shown.splitlines()) > 20
    assert TEXT.partition("<!-- from tests/shown.py -->\n")[2].partition("\n\n")[0] == shown.strip()


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_file_and_anchor_exists() -> None:
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if not target.startswith("https://"):
                name, _, anchor = target.partition("#")
                path = (page.parent / name).resolve() if name else page
                assert path.exists(), target
                assert not anchor or anchor in anchors(path), target
    for path in re.findall(r"\bexamples/\w+\.py", TEXT):
        assert (ROOT / path).exists(), path


def test_every_import_exists() -> None:
    for dotted in re.findall(r"`(fwproxy\.[\w.]+)`", TEXT):
        if dotted == registry.GROUP:
            continue
        module, _, name = dotted.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), dotted


def test_log_lines_to_look_for_are_in_the_source() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    section = TEXT.partition("## Troubleshooting")[2].partition("\n## ")[0]
    said = [found for row in next(tables(section)) for found in re.findall(r"`([^`]+)`", row[0])]
    assert len(said) > 10
    # Variable parts and the system's own words are not in the source.
    known = {
        "cannot be reached: Connection refused": "cannot be reached: ",
        "is not allowed (no rule matches)": "no rule matches",
        "consecutive tcp port(s)": "port(s) of",
        "debug": "debug",
    }
    assert [each for each in said if known.get(each, each) not in text] == []


def test_there_is_one_place_for_figures() -> None:
    assert TEXT.count("<!-- figures -->") == 1
