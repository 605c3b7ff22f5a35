"""The nftables rules, routing rules and routes that bring clients' packets to the proxy.

Pure text: what `fwproxy setup-rules` prints or hands to nft(8) and ip(8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from fwproxy.address import Transport
from fwproxy.config.config import Config
from fwproxy.config.listeners import ListenerConfig, ListenerKind

TABLE = "fwproxy-ways"
"""The nftables table, which holds nothing else and goes as a whole."""
MARK = 0x6677
"""On packets for transparent sockets, so that they are routed to this host."""
ROUTES = 26231
"""The routing table for these packets."""
PREFERENCE = 26231
"""Of the routing rule that leads there."""

_TRANSPARENT = frozenset({ListenerKind.REDIRECT, ListenerKind.TPROXY})
_NEW_TCP = "tcp flags & (fin | syn | rst | ack) == syn"


@attrs.frozen(slots=True)
class SetUp:
    """What is to be done, and how it is taken back.

    Attributes:
        ruleset: for `nft -f -`; it replaces what an earlier one has made.
        commands: for ip(8), without its name.
        undo_ruleset: for `nft -f -`; it succeeds whether the table is there or not.
        undo_commands: for ip(8); they fail where nothing is there.
    """

    ruleset: str
    commands: tuple[tuple[str, ...], ...]
    undo_ruleset: str
    undo_commands: tuple[tuple[str, ...], ...]


def set_up(config: Config, interfaces: Sequence[str] = ()) -> SetUp | None:
    """Return what a configuration needs; None if it has no transparent listener.

    Args:
        config: the configuration; its listeners have ports other than 0.
        interfaces: where clients come from; none is every one but the loopback interface.
    """
    listeners = [each for each in config.listeners if each.kind in _TRANSPARENT]
    if not listeners:
        return None
    lines = [f"table inet {TABLE} {{}}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    tproxies = [each for each in listeners if each.kind is ListenerKind.TPROXY]
    if tproxies:
        lines += _chain("filter", "mangle", _tproxy_rules(config, tproxies, interfaces))
    redirects = [each for each in listeners if each.kind is ListenerKind.REDIRECT]
    if redirects:
        lines += _chain("nat", "dstnat", _redirect_rules(config, redirects, interfaces))
    families = sorted({each.bind.version for each in tproxies})
    return SetUp(
        "\n".join([*lines, "}", ""]),
        tuple(command for family in families for command in _routes("add", family)),
        f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n",
        tuple(command for family in families for command in _routes("del", family)),
    )


def _chain(kind: str, priority: str, rules: Iterable[str]) -> list[str]:
    head = f"        type {kind} hook prerouting priority {priority}; policy accept;"
    name = "arrivals" if kind == "filter" else "destinations"
    return [f"    chain {name} {{", head, *(f"        {rule}" for rule in rules), "    }"]


def _tproxy_rules(
    config: Config, listeners: Iterable[ListenerConfig], interfaces: Sequence[str]
) -> Iterator[str]:
    taken = f"meta mark set {MARK:#x} accept"
    # Packets of connections that the proxy has, also to and from addresses of other hosts.
    for each in ("tcp", "udp"):
        yield f"meta l4proto {each} socket transparent 1 {taken}"
    yield f"{_from(interfaces)} return"
    yield "fib daddr type { local, broadcast, multicast } return"
    for listener in listeners:
        bind = listener.bind
        family = "ipv6" if bind.version == 6 else "ipv4"
        host = "" if bind.is_unspecified else f"[{bind.host}]" if bind.version == 6 else bind.host
        to = f"tproxy {'ip6' if bind.version == 6 else 'ip'} to {host}:{bind.port}"
        for transport, ports in _ports(config, listener):
            new = _NEW_TCP if transport is Transport.TCP else "ct state new"
            only = f" {transport.value} dport {{ {ports} }}" if ports else ""
            yield (f"meta nfproto {family} meta l4proto {transport.value}{only} {new} {to} {taken}")


def _redirect_rules(
    config: Config, listeners: Iterable[ListenerConfig], interfaces: Sequence[str]
) -> Iterator[str]:
    pool = config.secondary.ports
    yield f"{_from(interfaces)} return"
    yield "fib daddr type { local, broadcast, multicast } return"
    for listener in listeners:
        family = "ipv6" if listener.bind.version == 6 else "ipv4"
        # Ports of the pool are where filters let clients come: they stay as they are.
        yield f"meta nfproto {family} tcp dport {pool} redirect"
        for _, ports in _ports(config, listener):
            only = f"tcp dport {{ {ports} }}" if ports else "meta l4proto tcp"
            yield f"meta nfproto {family} {only} redirect to :{listener.bind.port}"


def _from(interfaces: Sequence[str]) -> str:
    """Return what matches packets that do not come from clients."""
    if not interfaces:
        return 'iifname "lo"'
    names = ", ".join(f'"{name}"' for name in interfaces)
    return f"iifname != {{ {names} }}"


def _ports(config: Config, listener: ListenerConfig) -> Iterator[tuple[Transport, str]]:
    """Yield the servers' ports that a listener is for; none are all."""
    if listener.protocol is None:
        yield Transport.TCP, ""
        if listener.kind is ListenerKind.TPROXY:
            yield Transport.UDP, ""
        return
    for protocol in config.protocols_of(listener):
        yield protocol.transport, ", ".join(map(str, protocol.ports))


def _routes(verb: str, family: int) -> tuple[tuple[str, ...], ...]:
    everywhere = "::/0" if family == 6 else "0.0.0.0/0"
    rule = ("pref", str(PREFERENCE), "fwmark", f"{MARK:#x}", "lookup", str(ROUTES))
    route = ("local", everywhere, "dev", "lo", "table", str(ROUTES))
    return (f"-{family}", "rule", verb, *rule), (f"-{family}", "route", verb, *route)
