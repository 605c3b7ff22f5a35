"""Configuration files: TOML to the frozen `Config`, with every problem named by line and table."""

from __future__ import annotations

import tomllib
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NewType

import attrs
from cattrs.gen import override

from fwproxy.address import Endpoint, parse_ip, parse_prefix
from fwproxy.bounds import PortRange
from fwproxy.config.config import Config
from fwproxy.config.listeners import ListenerConfig, ListenerKind
from fwproxy.config.resolver import ResolverConfig, parse_server
from fwproxy.config.structure import converter, name_keys, one_of, spelled, string, structure
from fwproxy.config.toml_lines import line_of, scan
from fwproxy.errors import ConfigError, InvalidArgumentError
from fwproxy.policy.networks import Network, NetworkRelation, Relation
from fwproxy.policy.rules import Rule
from fwproxy.policy.times import WeekTime
from fwproxy.problems import Place, describe, shown
from fwproxy.protocol import BUILT_IN, ProtocolDefinition

_Prefix = NewType("_Prefix", str)
_Address = NewType("_Address", str)
_DnsServer = NewType("_DnsServer", Endpoint)


def load(path: str | Path, check: Callable[[Config], object] | None = None) -> Config:
    """Read a configuration file.

    Args:
        path: the TOML file.
        check: looks at the finished configuration and raises `ConfigError` for what it finds
            wrong; its problems are reported with their lines, like those found here.

    Raises:
        ConfigError: the file is not one of fwproxy; the message has one line per problem.
        OSError: it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: byte {error.start} is wrong") from error
    return parse(text, str(path), check)


def parse(
    text: str, source: str = "configuration", check: Callable[[Config], object] | None = None
) -> Config:
    """Read a configuration from TOML text; *source* is what messages call it, see `load`.

    Raises:
        ConfigError: the text is not a configuration; the message has one line per problem.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(source, text, str(error))) from None
    try:
        config = structure({"listeners": [], **data}, Config)
        if check is not None:
            check(config)
    except ConfigError as error:
        raise _located(error, text, data, source) from None
    return config


def _syntax(source: str, text: str, message: str) -> str:
    what, at, rest = message.partition(" (at ")
    if at and rest.startswith("line "):
        line = rest.removeprefix("line ").split(",")[0]
    else:
        line = str(text.rstrip().count("\n") + 1)
    return f"{source}:{line}: not TOML: {what}"


def _located(error: ConfigError, text: str, data: Mapping[str, Any], source: str) -> ConfigError:
    lines = scan(text)
    messages = []
    for place, problem in error.problems:
        line = line_of(lines, place)
        where = describe(place, data)
        messages.append(
            (line or 0, ": ".join(filter(None, [f"{source}:{line or 1}", where, problem])))
        )
    messages.sort(key=lambda pair: pair[0])
    message = "\n".join(each for _, each in messages) or f"{source}: {error}"
    return ConfigError(message, error.problems)


@attrs.frozen
class _NetworkTable:
    prefixes: tuple[_Prefix, ...] = ()
    addresses: tuple[_Address, ...] = ()


def _networks(value: Any, _: Any) -> tuple[Network, ...]:
    tables = converter.structure(value, dict[str, _NetworkTable])
    return tuple(
        Network(name, tuple(table.prefixes), tuple(table.addresses))
        for name, table in tables.items()
    )


def _listeners(value: Any, _: Any) -> tuple[ListenerConfig, ...]:
    if value == []:
        raise ConfigError("at least one [[listeners]] table is needed")
    return converter.structure(value, tuple[ListenerConfig, ...])


def _listener_kind(value: Any, _: Any) -> ListenerKind:
    kinds = [kind.value for kind in ListenerKind]
    return ListenerKind(one_of(value, kinds))


def _protocols(value: Any, _: Any) -> tuple[ProtocolDefinition, ...]:
    """Add the file's protocols to the built-in ones; they come first, so that places hold."""
    own = converter.structure(value, tuple[ProtocolDefinition, ...])
    built_in = {protocol.name for protocol in BUILT_IN}
    problems: list[tuple[Place, str]] = [
        ((number, "name"), f'"{protocol.name}" is built in and cannot be defined anew')
        for number, protocol in enumerate(own)
        if protocol.name in built_in
    ]
    if problems:
        raise ConfigError(problems[0][1], problems)
    return (*own, *BUILT_IN)


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ConfigError(
            f'must be a UUID such as "{uuid.UUID(int=0)}", not {shown(text)}'
        ) from None


def _name(value: Any, _: Any) -> str:
    if not string(value, str):
        raise ConfigError("must not be empty")
    return str(value)


def _dns_servers(value: Any, _: Any) -> tuple[Endpoint, ...]:
    return tuple(converter.structure(value, tuple[_DnsServer, ...]))


def _relation_kind(value: Any, _: Any) -> NetworkRelation:
    return NetworkRelation(one_of(value, ["nat", "route"]))


def _action(value: Any, _: Any) -> bool:
    return bool(one_of(value, ["allow", "deny"]) == "allow")


def _protocol_ports(value: Any, _: Any) -> tuple[int | str, ...]:
    """Let the definition read numbers and ranges."""
    if not isinstance(value, list):
        raise ConfigError(f"must be a list, not {shown(value)}")
    problems: list[tuple[Place, str]] = []
    for number, item in enumerate(value):
        if type(item) not in {int, str}:
            problem = f"must be a whole number or a range, not {shown(item)}"
            problems.append(((number,), problem))
            continue
        try:
            ProtocolDefinition("", ports=(item,))
        except (ConfigError, InvalidArgumentError) as error:
            problems.append(((number,), str(error)))
    if problems:
        raise ConfigError(problems[0][1], problems)
    return tuple(value)


def _sound(parse: Callable[[str], object]) -> Callable[[Any, Any], str]:
    def hook(value: Any, _: Any) -> str:
        parse(string(value, str))
        return str(value)

    return hook


name_keys(
    Config,
    listeners=override(struct_hook=_listeners),
    networks=override(struct_hook=_networks),
    protocols=override(struct_hook=_protocols),
)
name_keys(
    ListenerConfig,
    name=override(struct_hook=_name),
    kind=override(struct_hook=_listener_kind),
)
name_keys(
    ProtocolDefinition,
    name=override(struct_hook=_name),
    ports=override(struct_hook=_protocol_ports),
)
name_keys(ResolverConfig, servers=override(struct_hook=_dns_servers))
name_keys(
    Relation,
    source=override(rename="from"),
    target=override(rename="to"),
    kind=override(struct_hook=_relation_kind),
)
name_keys(
    Rule,
    allow=override(rename="action", struct_hook=_action),
    sources=override(rename="from"),
    targets=override(rename="to"),
)
converter.register_structure_hook(_Prefix, _sound(parse_prefix))
converter.register_structure_hook(_Address, _sound(parse_ip))
converter.register_structure_hook(_DnsServer, spelled(parse_server))
converter.register_structure_hook(PortRange, spelled(PortRange.parse))
converter.register_structure_hook(WeekTime, spelled(WeekTime.parse))
converter.register_structure_hook(uuid.UUID, spelled(_uuid))
