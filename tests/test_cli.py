"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fwproxy import cli, demo, registry, users
from fwproxy.address import Endpoint
from fwproxy.version import __version__


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], prog_name="fwproxy")


def write_config(directory: Path, port: int, server: Endpoint, more: str = "") -> Path:
    path = directory / "proxy.toml"
    path.write_text(
        f'[[listeners]]\nname = "ftp"\nbind = "127.0.0.1:{port}"\nupstream = "{server}"\n'
        f'protocol = "ftp"\n{more}',
        encoding="utf-8",
    )
    return path


def test_version() -> None:
    assert invoke("--version").output == f"fwproxy {__version__}\n"


@pytest.mark.parametrize(
    "command", [[], ["run"], ["check"], ["filters"], ["demo"], ["passwd"], ["setup-rules"]]
)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(command: list[str], option: str) -> None:
    result = invoke(*command, option)
    assert result.exit_code == 0
    assert result.output.startswith("Usage: fwproxy")
    assert "..." not in result.output.partition("Commands:")[2], "a summary is cut off"


@pytest.mark.parametrize(
    "args",
    [
        ["fly"],
        ["run", "--config", "/no/such/file"],
        ["run", "--loop", "trio"],
        ["check"],
        ["demo", "--listen", "localhost"],
    ],
)
def test_wrong_usage_is_exit_code_2(args: list[str]) -> None:
    assert invoke(*args).exit_code == 2


def test_check_of_a_right_file(tmp_path: Path) -> None:
    path = write_config(tmp_path, 2121, Endpoint("::1", 21), "[limits]\nmax_sessions = 10\n")
    result = invoke("check", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "  ftp: forward, ftp, on 127.0.0.1:2121 to [::1]:21\n" in result.stdout
    assert result.stdout.endswith(f"{path} is right\n")


def test_check_warns_of_what_is_probably_not_meant(tmp_path: Path) -> None:
    path = write_config(tmp_path, 40001, Endpoint("::1", 21), "[limits]\nmax_sessions = 10\n")
    result = invoke("check", path)
    assert result.exit_code == 0
    assert result.stderr.startswith('warning: listener "ftp" is on port 40001, inside the pool')


def test_check_of_a_wrong_file(tmp_path: Path) -> None:
    more = "[filters.ftp]\nred_only = true\n[limits]\nmax_sesions = 1\n"
    path = write_config(tmp_path, 0, Endpoint("127.0.0.1", 1), more)
    result = invoke("check", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f'fwproxy: {path}:9: [limits] max_sesions: unknown key; did you mean "max_sessions"?\n'
    )
    path = write_config(tmp_path, 0, Endpoint("127.0.0.1", 1), "[filters.ftp]\nred_only = true\n")
    assert invoke("check", path).stderr == (
        f'fwproxy: {path}:7: [filters.ftp] red_only: unknown key; did you mean "read_only"?\n'
    )


def test_filters_for_people_and_programs() -> None:
    assert re.search(r"^ftp for ftp, from fwproxy \S+$", invoke("filters").output, re.MULTILINE)
    [ftp] = [
        each for each in json.loads(invoke("filters", "--json").output) if each["name"] == "ftp"
    ]
    assert ftp["protocols"] == ["ftp"]
    assert ftp["error"] is None
    assert {"name": "read_only", "default": "false", "values": "true | false"} in ftp["settings"]


def test_filters_shows_what_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = registry.Offer("sip", "m:[C]", "extra 1", None, "ImportError: no [module]")
    monkeypatch.setattr(registry, "offers", lambda: (offer,))
    assert "cannot be used: ImportError: no [module]" in invoke("filters").output
    assert json.loads(invoke("filters", "--json").output)[0]["error"] == offer.error


def test_run_with_a_wrong_file_is_exit_code_2(tmp_path: Path) -> None:
    path = write_config(tmp_path, 0, Endpoint("127.0.0.1", 1), "[limit]\n")
    result = invoke("run", "--config", path)
    assert result.exit_code == 2
    assert result.stderr == f'fwproxy: {path}:6: limit: unknown key; did you mean "limits"?\n'


def test_without_a_file_the_proxy_is_where_the_documentation_says() -> None:
    assert Endpoint("127.0.0.1", 2121) == demo.LISTEN


def test_passwd_makes_a_file_that_check_likes(tmp_path: Path) -> None:
    path, config = tmp_path / "users", tmp_path / "proxy.toml"
    config.write_text(
        f'[[listeners]]\nname = "s"\nkind = "socks"\nbind = "[::1]:0"\nusers = "{path}"\n'
    )
    assert ":5: " in invoke("check", config).stderr, "there is no file yet"
    for user, password in [("bert", "sesame"), ("anna", "changed")]:
        given = CliRunner().invoke(
            cli.main, ["passwd", str(path), user, "--stdin"], input=f"{password}\n"
        )
        assert (given.exit_code, given.output) == (0, "")
    found = users.read(path)
    assert found["anna"].is_of(b"changed")
    assert found["bert"].is_of(b"sesame")
    assert invoke("check", config).exit_code == 0
    assert invoke("passwd", path, "bert", "--delete").exit_code == 0
    assert list(users.read(path)) == ["anna"]
    assert invoke("passwd", path, "bert", "--delete").exit_code == 1


def test_passwd_asks_twice_and_shows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "users"
    args = ["passwd", str(path), "anna"]
    assert CliRunner().invoke(cli.main, args, input="one\ntwo\n").exit_code == 1
    assert not path.exists()
    given = CliRunner().invoke(cli.main, args, input="secret\nsecret\n")
    assert given.exit_code == 0
    assert "secret" not in given.output
    assert users.read(path)["anna"].is_of(b"secret")


@pytest.mark.parametrize(("user", "password"), [("a:b", "x"), ("anna", ""), ("anna", "x" * 256)])
def test_passwd_refuses_what_nobody_could_log_in_with(
    tmp_path: Path, user: str, password: str
) -> None:
    args = ["passwd", str(tmp_path / "users"), user, "--stdin"]
    assert CliRunner().invoke(cli.main, args, input=f"{password}\n").exit_code == 2
    assert not (tmp_path / "users").exists()


def test_setup_rules_prints_what_a_configuration_needs(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(
        '[[listeners]]\nname = "t"\nkind = "tproxy"\nbind = "[::]:8188"\n'
        '[[rules]]\naction = "deny"\n'
    )
    result = invoke("setup-rules", path, "--interface", "lan0")
    assert result.exit_code == 0
    assert 'iifname != { "lan0" } return' in result.output
    assert "tproxy ip6 to :8188" in result.output
    assert "# ip -6 rule add" in result.output
    assert "# ip -4" not in result.output


def test_setup_rules_of_a_configuration_without_transparent_listeners(tmp_path: Path) -> None:
    path = write_config(tmp_path, 0, Endpoint("127.0.0.1", 1))
    result = invoke("setup-rules", path)
    assert result.exit_code == 2
    assert "no listener of the kinds redirect or tproxy" in result.stderr
    assert invoke("setup-rules", path, "--apply", "--undo").exit_code == 2
