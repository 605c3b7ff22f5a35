"""The command `fwproxy`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
import click
from rich.console import Console

from fwproxy import log, registry, users
from fwproxy.address import Endpoint
from fwproxy.config import file as config_file
from fwproxy.config.config import Config
from fwproxy.demo import LISTEN, DemoServer, check, demo_config
from fwproxy.errors import ConfigError, FwproxyError, InvalidArgumentError
from fwproxy.firewall import Firewall
from fwproxy.problems import Problem
from fwproxy.service import catalogue, routing
from fwproxy.service import run as service
from fwproxy.service import setup_rules as rules
from fwproxy.service.host import open_files_shortage
from fwproxy.service.overview import overview, warnings
from fwproxy.version import __version__

FAILURE, USAGE = 1, 2

_MAIN_EPILOG = """\b
Examples:
  fwproxy run                        an FTP proxy in front of a demo server
  fwproxy check /etc/fwproxy.toml    is this configuration right?
  fwproxy run --config /etc/fwproxy.toml

\b
Exit codes:
  0  success
  1  failure: an address is in use, a check found an error
  2  wrong usage, or a configuration that `run` cannot use
"""
_RUN_EPILOG = """\b
Examples:
  fwproxy run
  fwproxy run --config proxy.toml --log-format json
"""
_CHECK_EPILOG = """\b
Example:
  fwproxy check proxy.toml
"""
_RULES_EPILOG = """\b
Examples:
  fwproxy setup-rules proxy.toml --interface lan0
  fwproxy setup-rules proxy.toml --interface lan0 --apply
  fwproxy setup-rules proxy.toml --undo
"""
_USERS_EPILOG = """\b
Examples:
  fwproxy passwd /etc/fwproxy-users alice
  fwproxy passwd /etc/fwproxy-users alice --stdin < password-file
  fwproxy passwd /etc/fwproxy-users alice --delete
"""
_DEMO_EPILOG = """\b
Examples:
  fwproxy demo --listen 127.0.0.1:2122
  fwproxy demo --check
"""
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class _EndpointType(click.ParamType[Endpoint]):
    """HOST:PORT, with an IPv6 host in brackets."""

    name = "address"

    def convert(self, value: Any, param: Any, ctx: Any) -> Endpoint:
        """Read the address."""
        if isinstance(value, Endpoint):
            return value
        try:
            return Endpoint.parse(value)
        except InvalidArgumentError as error:
            self.fail(str(error), param, ctx)


@contextmanager
def _one_line_errors(config_code: int = USAGE) -> Iterator[None]:
    """Turn expected errors into a line on standard error and an exit code."""
    try:
        yield
    except ConfigError as error:
        _fail(str(error), config_code)
    except FwproxyError as error:
        _fail(str(error), FAILURE)
    except OSError as error:
        _fail(error.strerror or str(error), FAILURE)


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"fwproxy: {line}", err=True)
    raise SystemExit(code)


_PROCESS_OPTIONS = (
    click.option(
        "--log-format",
        type=click.Choice(["console", "json"]),
        help="Lines for people or for machines; overrides the file.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="The lowest level that is logged; overrides the file.",
    ),
    click.option(
        "--loop",
        type=click.Choice(list(service.LOOPS)),
        default=next(iter(service.LOOPS)),
        show_default=True,
        help="The event loop.",
    ),
)
_Command = TypeVar("_Command", bound=Callable[..., None])


def _process_options(command: _Command) -> _Command:
    """Add the options of every command that runs a proxy."""
    for option in reversed(_PROCESS_OPTIONS):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_MAIN_EPILOG)
@click.version_option(__version__, prog_name="fwproxy", message="%(prog)s %(version)s")
def main() -> None:
    """An application proxy that opens exactly the secondary connections a protocol asks for."""


@main.command(epilog=_RUN_EPILOG)
@click.option("--config", "path", type=_FILE, help="The configuration, a TOML file.")
@_process_options
def run(path: Path | None, log_format: str | None, log_level: str | None, loop: str) -> None:
    """Run the proxy until SIGTERM, SIGINT or SIGHUP.

    Without a file it listens for FTP on 127.0.0.1:2121, in front of a demo server of its own, and
    prints the command that fetches a file through it. The first signal lets running sessions
    finish, for up to limits.stop_timeout seconds; a second one closes them at once.
    """
    with _one_line_errors():
        if path is None:
            _run_demo(LISTEN, log_format, log_level, loop)
        else:
            config = config_file.load(path, _check)
            config = _with_log(config, log_format, log_level)
            for shortage in open_files_shortage(config):
                log.get_logger().warning("too few open files", reason=shortage)
            service.run(config, loop)


@main.command("check", epilog=_CHECK_EPILOG)
@click.argument("path", metavar="FILE", type=_FILE)
def check_file(path: Path) -> None:
    """Check a configuration and summarise it.

    The settings of filters are checked too. Exit code 1 means that there are errors; each is a
    line on standard error. Warnings are for what is allowed but probably not meant, and do not
    change the exit code.
    """
    with _one_line_errors(FAILURE):
        config = config_file.load(path, _check)
    for line in overview(config):
        click.echo(line)
    for warning in warnings(config):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{path} is right")


@main.command(epilog=_USERS_EPILOG)
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("user")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password, one line.")
@click.option("--delete", is_flag=True, help="Remove the user.")
def passwd(path: Path, user: str, *, from_stdin: bool, delete: bool) -> None:
    """Set the password of a user who may log in.

    FILE is what `users` of a listener names; it is made if it is not there. It holds what scrypt
    makes of the passwords, never the passwords; a running proxy notices the change by itself.
    """
    with _one_line_errors():
        known = users.read(path) if path.exists() else {}
        if delete:
            if known.pop(user, None) is None:
                _fail(f"{path} has no user {user!r}", FAILURE)
        else:
            name = _user_name(user)  # before anybody types a password for it
            known[name] = users.PasswordHash.make(_password(from_stdin=from_stdin))
        users.write(path, known)


@main.command("setup-rules", epilog=_RULES_EPILOG)
@click.argument("path", metavar="FILE", type=_FILE)
@click.option(
    "--interface",
    "interfaces",
    multiple=True,
    metavar="NAME",
    help="Where clients come from; may be repeated. The default is all but lo.",
)
@click.option("--apply", "do_apply", is_flag=True, help="Make the rules; they replace older ones.")
@click.option("--undo", is_flag=True, help="Take the rules back.")
def setup_rules(path: Path, interfaces: tuple[str, ...], *, do_apply: bool, undo: bool) -> None:
    """Print the nftables rules of transparent listeners.

    They bring clients' packets to `redirect` and `tproxy` listeners: one nftables table and, for
    tproxy, a routing rule and a route. With --apply they are made, with --undo taken back; both
    need root.
    """
    with _one_line_errors():
        if do_apply and undo:
            raise click.UsageError("either --apply or --undo")
        found = rules.set_up(config_file.load(path), interfaces)
        if found is None:
            _fail(f"{path} has no listener of the kinds redirect or tproxy", USAGE)
        if do_apply or undo:
            routing.undo(found)
            if do_apply:
                routing.apply(found)
        else:
            click.echo(found.ruleset, nl=False)
            for command in found.commands:
                click.echo(f"# ip {' '.join(command)}")


def _user_name(user: str) -> str:
    try:
        return users.check_name(user)
    except ValueError as error:
        _fail(str(error), USAGE)


def _password(*, from_stdin: bool) -> bytes:
    password: str
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if not password or len(password.encode()) > users.MAX_PASSWORD:
        _fail(f"a password has 1 to {users.MAX_PASSWORD} bytes", USAGE)
    return password.encode()


@main.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON array instead of a table.")
def filters(*, as_json: bool) -> None:
    """List the installed filters.

    For each: the protocols that it is for, its settings with their defaults, and its package.
    """
    offers = registry.offers()
    if as_json:
        click.echo(catalogue.as_json(offers))
    else:
        Console(highlight=False).print(*catalogue.tables(offers), sep="\n")


@main.command(epilog=_DEMO_EPILOG)
@click.option("--check", "only_check", is_flag=True, help="Fetch a file in every way, and end.")
@click.option(
    "--listen",
    type=_EndpointType(),
    default=str(LISTEN),
    show_default=True,
    help="Where to listen.",
)
@_process_options
def demo(
    *, only_check: bool, listen: Endpoint, log_format: str | None, log_level: str | None, loop: str
) -> None:
    """Run the proxy in front of a demo FTP server.

    Or, with --check, see whether the proxy works on this host. The check fetches a file through
    the proxy with PORT, PASV, EPRT and EPSV and compares its SHA-256; it uses free ports, and its
    exit code says whether all was right.
    """
    with _one_line_errors():
        if not only_check:
            _run_demo(listen, log_format, log_level, loop)
            return
        _with_log(Config(()), log_format, log_level or "warning")
        with asyncio.Runner(loop_factory=service.LOOPS[loop]) as runner:
            raise SystemExit(runner.run(check(click.echo)))


def _check(config: Config) -> None:
    """Look at what a configuration names outside of it."""
    registry.check(config)
    problems: list[Problem] = []
    for number, listener in enumerate(config.listeners):
        try:
            if listener.users is not None:
                users.read(Path(listener.users))
        except ConfigError as error:
            problems.append((("listeners", number, "users"), str(error)))
    if problems:
        raise ConfigError("\n".join(problem for _, problem in problems), problems)


def _run_demo(listen: Endpoint, log_format: str | None, log_level: str | None, loop: str) -> None:
    with DemoServer() as server:
        config = _with_log(demo_config(listen, server.address), log_format, log_level)
        service.run(config, loop, _show_command)


def _show_command(firewall: Firewall) -> None:
    address = firewall.listeners["ftp"].address
    click.echo("The proxy runs in front of a demo server. Fetch a file through it with:")
    click.echo(f"  curl ftp://{address}/README.txt")


def _with_log(config: Config, log_format: str | None, log_level: str | None) -> Config:
    """Set up logging, with what the command line overrides."""
    overrides: dict[str, Any] = {"format": log_format, "level": log_level}
    changed = {key: value for key, value in overrides.items() if value is not None}
    config = attrs.evolve(config, log=attrs.evolve(config.log, **changed))
    log.configure(config.log, sys.stderr)
    return config
