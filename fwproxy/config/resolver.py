"""The settings of name resolution, `[resolver]`."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import attrs

from fwproxy.address import Endpoint, split_host_port
from fwproxy.bounds import not_negative, positive
from fwproxy.errors import ConfigError

DNS_PORT = 53


def parse_server(text: str) -> Endpoint:
    """Read the address of a DNS server, with or without its port.

    Raises:
        InvalidArgumentError: *text* has another form, or is a name: nobody could be asked for it.
    """
    if text.count(":") > 1 and not text.startswith("["):
        return Endpoint(text, DNS_PORT)
    return Endpoint(*split_host_port(text, DNS_PORT))


def _kind(_: object, attribute: attrs.Attribute[str], kind: str) -> None:
    if kind not in {"system", "dns"}:
        raise ConfigError.at((), f"must be system or dns, not {kind!r}", attribute.name)
    if kind == "dns" and not _has_dnspython():
        problem = "dns needs dnspython: pip install 'fwproxy[dns]'"
        raise ConfigError.at((), problem, attribute.name)


def _has_dnspython() -> bool:
    try:
        return importlib.util.find_spec("dns.asyncresolver") is not None
    except ModuleNotFoundError:
        return False


def _servers(_: object, attribute: attrs.Attribute[Any], servers: tuple[Endpoint, ...]) -> None:
    for server in servers:
        if server.is_unspecified or not server.port:
            raise ConfigError.at((), f"nobody can be asked at {server}", attribute.name)


@attrs.frozen(slots=True)
class ResolverConfig:
    """Whom names are asked of.

    Attributes:
        kind: the `system`, which says neither how long an answer holds nor takes a question back;
            or servers by `dns`, which say so. The latter needs `fwproxy[dns]`.
        servers: DNS servers, asked in this order; without any, those of /etc/resolv.conf.
        timeout: seconds until a name is given up, however many servers there are.
        attempt_timeout: seconds that a server has until the next one is asked, or the same one
            again.
        max_ttl: the most seconds that an answer holds, whatever its TTL; 0 asks every time.
    """

    kind: Literal["system", "dns"] = attrs.field(default="system", validator=_kind)
    servers: tuple[Endpoint, ...] = attrs.field(default=(), validator=_servers)
    timeout: float = attrs.field(default=5.0, validator=positive)
    attempt_timeout: float = attrs.field(default=1.0, validator=positive)
    max_ttl: float = attrs.field(default=3600.0, validator=not_negative)
