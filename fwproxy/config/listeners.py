"""The configuration of a listener, and what in it does not fit together."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs

from fwproxy.address import Destination, Endpoint, Transport, parse_prefix
from fwproxy.bounds import positive
from fwproxy.errors import ConfigError, InvalidArgumentError
from fwproxy.policy.rules import Rule
from fwproxy.policy.scope import Scope
from fwproxy.problems import no_such
from fwproxy.protocol import ProtocolDefinition


def frozen_tables(
    tables: Mapping[str, Mapping[str, Any]],
) -> Mapping[str, Mapping[str, Any]]:
    """Make tables that nobody can change."""
    return MappingProxyType({name: MappingProxyType(dict(t)) for name, t in tables.items()})


def _reachable(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    try:
        address = Endpoint(value)
    except InvalidArgumentError as error:
        raise ConfigError.at((), str(error), attribute.name) from None
    if address.is_unspecified or address.ip.is_multicast:
        raise ConfigError.at((), f"{value} is no address to connect to", attribute.name)


def _prefixes(_: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for number, prefix in enumerate(value):
        try:
            parse_prefix(prefix)
        except InvalidArgumentError as error:
            raise ConfigError.at((number,), str(error), attribute.name) from None


class ListenerKind(enum.Enum):
    """How clients come in."""

    FORWARD = "forward"
    """Every client goes to one fixed upstream."""
    GATEWAY = "gateway"
    """The client names the server inside the protocol (FTP: `USER user@host`)."""
    REDIRECT = "redirect"
    """Transparent: nftables REDIRECT, and the kernel tells the original destination."""
    TPROXY = "tproxy"
    """Transparent: nftables TPROXY, and the original destination is the socket's own address."""
    SOCKS = "socks"
    """The client names the server by SOCKS 4, 4a or 5."""
    HTTP = "http"
    """The client names the server by HTTP CONNECT."""
    MIXED = "mixed"
    """By either of the two."""


EXPLICIT = frozenset({ListenerKind.SOCKS, ListenerKind.HTTP, ListenerKind.MIXED})
"""The client says where it wants to go before its protocol begins."""

ANY_PORT = EXPLICIT | {ListenerKind.REDIRECT, ListenerKind.TPROXY}
"""One listener serves every port, so that the port can tell the protocol."""

_RELAYS = EXPLICIT | {ListenerKind.GATEWAY, ListenerKind.TPROXY}
"""The client chooses the server, and nothing but rules says which."""

_IN_KERNEL = frozenset({ListenerKind.FORWARD, ListenerKind.GATEWAY, ListenerKind.REDIRECT})
"""Kinds whose secondary connections the kernel data path knows."""

_DATAGRAMS = frozenset({ListenerKind.FORWARD, ListenerKind.TPROXY})
"""Clients may come with datagrams; those of SOCKS ask for it first."""


@attrs.frozen(slots=True)
class ListenerConfig:
    """One way in.

    Attributes:
        name: what log, ledger and error messages call it.
        kind: how clients come in.
        bind: the address to listen on; port 0 takes any free one.
        protocol: the name of a protocol definition. None, where the listener serves any port, is
            the first definition with the server's port, or else plain TCP or UDP.
        upstream: the server, for `forward` only.
        filters: settings that override `[filters.NAME]` for this listener.
        backlog: how many connections the kernel may hold until they are accepted.
        advertise: the IP address that clients are told as the proxy's, where it is not the one
            that their connections arrive at (NAT, a container).
        users: a file of user names and passwords, made by `fwproxy passwd`; clients must log in.
            For `socks`, `http`, `mixed` and `gateway`.
        source: whom servers see as the source: an address of the `proxy`, or the `client`. The
            latter is for `tproxy`, and needs CAP_NET_ADMIN.
        proxy_protocol: whether clients come through a load balancer that sends a PROXY header:
            `off`; `accept` from the prefixes in `trusted`, others come directly; `require`.
        trusted: prefixes of the load balancers whose PROXY headers are believed.
        send_proxy: the version of the PROXY header that servers get: 1, 2, or 0 for none.
        use_filters: the filters that read its connections, instead of those of the protocol.
        secondary: what its filters may open.
    """

    name: str
    bind: Endpoint
    protocol: str | None = None
    kind: ListenerKind = ListenerKind.FORWARD
    upstream: Destination | None = None
    filters: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, converter=frozen_tables)
    backlog: int = attrs.field(default=1024, validator=positive)
    advertise: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(_reachable)
    )
    users: str | None = None
    source: Literal["proxy", "client"] = "proxy"
    proxy_protocol: Literal["off", "accept", "require"] = "off"
    trusted: tuple[str, ...] = attrs.field(default=(), validator=_prefixes)
    send_proxy: Literal[0, 1, 2] = 0
    use_filters: tuple[str, ...] | None = None
    secondary: Scope | None = None

    @property
    def why_not_in_kernel(self) -> str:
        """Why the kernel cannot carry what comes with its clients; empty where it can."""
        if self.kind not in _IN_KERNEL:
            return f"clients come by {self.kind.value}"
        if self.send_proxy:
            return "servers get a PROXY header"
        if self.proxy_protocol != "off":
            return "clients come through a load balancer"
        return ""

    def may_be_under(self, rule: Rule) -> bool:
        """Tell whether a rule may decide on this listener's connections."""
        return self.protocol is None or not rule.protocols or self.protocol in rule.protocols


def misfits(
    listener: ListenerConfig, protocols: Iterable[ProtocolDefinition], *, has_rules: bool
) -> Iterator[tuple[str, str]]:
    """Yield what does not fit together: the key and what is wrong with it."""
    yield from _protocol_misfits(listener, {each.name: each for each in protocols})
    yield from _server_misfits(listener, has_rules=has_rules)
    yield from _client_misfits(listener)


def _protocol_misfits(
    listener: ListenerConfig, protocols: Mapping[str, ProtocolDefinition]
) -> Iterator[tuple[str, str]]:
    if listener.protocol is None:
        if listener.kind not in ANY_PORT:
            yield "protocol", f"a {listener.kind.value} listener needs a protocol"
    elif listener.protocol not in protocols:
        yield "protocol", no_such("protocol", listener.protocol, protocols)
    elif protocols[listener.protocol].transport is Transport.UDP:
        if listener.kind not in _DATAGRAMS:
            yield "protocol", f"a {listener.kind.value} listener cannot take datagrams"
        elif listener.proxy_protocol != "off" or listener.send_proxy:
            yield "protocol", "datagrams have no PROXY header"


def _server_misfits(listener: ListenerConfig, *, has_rules: bool) -> Iterator[tuple[str, str]]:
    forward = listener.kind is ListenerKind.FORWARD
    if forward and listener.upstream is None:
        yield "upstream", "a forward listener needs an upstream"
    if not forward and listener.upstream is not None:
        yield "upstream", f"a {listener.kind.value} listener has no upstream"
    if listener.kind in _RELAYS and not has_rules and not _is_for_own_host(listener):
        yield "bind", _open_relay(listener)
    if listener.source == "client" and listener.kind is not ListenerKind.TPROXY:
        yield "source", f"a {listener.kind.value} listener cannot keep the client's address"


def _client_misfits(listener: ListenerConfig) -> Iterator[tuple[str, str]]:
    if listener.advertise and Endpoint(listener.advertise).version != listener.bind.version:
        bind = listener.bind
        yield "advertise", f"must be an IPv{bind.version} address: nobody else can come to {bind}"
    if listener.users is not None and listener.kind not in EXPLICIT | {ListenerKind.GATEWAY}:
        yield "users", f"nobody can log in at a {listener.kind.value} listener"
    if listener.proxy_protocol != "off" and not listener.trusted:
        yield "trusted", "whose PROXY headers are to be believed must be said"


def _is_for_own_host(listener: ListenerConfig) -> bool:
    """Tell whether only programs on the proxy's host can come; TPROXY leads anybody there."""
    return listener.bind.ip.is_loopback and listener.kind is not ListenerKind.TPROXY


def _open_relay(listener: ListenerConfig) -> str:
    protocols = [listener.protocol] if listener.protocol else []
    named = f' and protocols = ["{protocols[0]}"]' if protocols else ""
    is_led = listener.kind is ListenerKind.TPROXY  # whatever it is bound to
    instead = "" if is_led else ", or bind it to a loopback address"
    return (
        f"without rules a {listener.kind.value} listener on {listener.bind.host} would be an open "
        f'relay; add a [[rules]] with action = "allow"{named} that says who may go where{instead}'
    )
