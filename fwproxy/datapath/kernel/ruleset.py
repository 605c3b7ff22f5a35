"""What other tables may do to connections that the kernel carries, read from a printed ruleset.

Such connections are forwarded: no `input` and no `output` chain sees them, and `forward` chains
do. A chain is taken to drop something if anything in it, or in a chain that it asks, says so; what
else that depends on, no look can tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

OWN_TABLE = re.compile(r"inet \S+_\d+_\d+_\d+_\d+$")
"""A table of a proxy, of this one or of another."""
BEFORE_TRANSLATION = -101
"""Priorities below see the same packets, whoever carries the connection."""

_FAMILIES = {"ip", "ip6", "inet"}
_PRIORITIES = {
    "raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100,
}  # fmt: skip
_BEGINNING = re.compile(r"(table|chain) (.+?) \{")
_HOOK = re.compile(r"type \S+ hook (\S+) .*?priority (-?\w+)(?: ([+-]) (\d+))?;(?: policy (\w+))?")
_QUOTED = re.compile(r'"[^"]*"')
_DROPS = re.compile(r"\b(drop|reject|queue|synproxy|DROP|REJECT|NFQUEUE|SYNPROXY)\b|\bvmap @")
_ASKS = re.compile(r"\b(?:jump|goto) (\S+)")
_MEDDLES = re.compile(
    r"\bnotrack\b|\bct (mark|event|timeout|zone|original zone|reply zone) set\b|\bflow add\b"
    r"|\b(CONNMARK|CONNSECMARK|CT|NOTRACK|TPROXY)\b"
)
"""What keeps conntrack from telling the proxy of its connections, or from keeping them; in capital
letters where iptables has translated it for nftables."""
_TARGET = re.compile(r'\bxt target "(\w+)"')
_HARMLESS_TARGETS = {"MASQUERADE", "SNAT", "DNAT", "REDIRECT", "LOG", "NFLOG", "TCPMSS", "TTL"}
"""Of those that nft does not understand; it prints no more than their names."""

_FORWARDED = {"forward", "postrouting"}
_AT_HOME = {"input", "output"}


@attrs.define(slots=True)
class Chain:
    """A chain as it is printed.

    Attributes:
        table: family and name of its table.
        name: its own.
        hook: where packets come to it from; empty where other chains ask it.
        priority: among those of the hook.
        drops: whether it drops what no rule of it decides about.
        rules: in words.
    """

    table: str
    name: str
    hook: str = ""
    priority: int = 0
    drops: bool = False
    rules: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        return f"{self.table} {self.name}"


def chains(ruleset: str) -> Iterator[Chain]:
    """Yield the chains through which IP packets go, those of proxies left out."""
    table, chain = "", None
    for line in map(str.strip, ruleset.splitlines()):
        begun = _BEGINNING.match(line)
        if begun and begun[1] == "table":
            table, chain = begun[2], None
        elif begun:
            chain = Chain(table, begun[2])
        elif chain is None:
            continue
        elif line == "}":
            if table.split()[0] in _FAMILIES and not OWN_TABLE.match(table):
                yield chain
            chain = None
        elif hooked := _HOOK.match(line):
            chain.hook, chain.drops = hooked[1], hooked[5] == "drop"
            chain.priority = _priority(hooked[2], f"{hooked[3] or '+'}{hooked[4] or 0}")
        elif line:
            chain.rules.append(line)


def _priority(name: str, offset: str) -> int:
    return (_PRIORITIES[name] if name in _PRIORITIES else int(name)) + int(offset)


def obstacles(ruleset: str, mark: int) -> Iterator[str]:
    """Yield what may keep a ruleset from treating connections with a mark as user space's.

    Where a `forward` chain lets them through before anything else, somebody has arranged for
    them, and what is said to packets of the host itself does not count.
    """
    found = {(each.table, each.name): each for each in chains(ruleset)}
    is_arranged = False
    at_home = []
    for chain in found.values():
        yield from _meddling(chain)
        if _accepts(chain, mark):
            is_arranged = is_arranged or chain.hook == "forward"
        elif not chain.hook or not _may_drop(chain, found, set()):
            continue
        elif chain.hook in _FORWARDED or (
            chain.hook == "prerouting" and chain.priority >= BEFORE_TRANSLATION
        ):
            yield (
                f"the chain {chain} may drop what is forwarded: let it accept ct mark {mark:#x} "
                "before anything else"
            )
        elif chain.hook in _AT_HOME:
            at_home.append(chain)
    if not is_arranged:
        for chain in at_home:
            yield (
                f"the chain {chain} may drop what comes to the proxy or leaves it, and does not "
                "see what is forwarded: a forward chain that accepts "
                f"ct mark {mark:#x} before anything else says that it need not"
            )


def _accepts(chain: Chain, mark: int) -> bool:
    """Tell whether the first thing that a chain does is to accept what has the mark."""
    first = chain.rules[0] if chain.rules else ""
    words = re.match(r"ct mark (0x[0-9a-f]+)(?: counter(?: packets \d+ bytes \d+)?)? accept", first)
    return words is not None and int(words[1], 16) == mark


def _meddling(chain: Chain) -> Iterator[str]:
    for rule in chain.rules:
        targets = set(_TARGET.findall(rule)) - _HARMLESS_TARGETS
        said = _MEDDLES.search(_QUOTED.sub("", rule))
        if said or targets:
            what = said[0] if said else ", ".join(sorted(targets))
            yield f"the chain {chain} may change what conntrack knows ({what})"
            return


def _may_drop(chain: Chain, found: dict[tuple[str, str], Chain], seen: set[str]) -> bool:
    if chain.drops:
        return True
    if chain.name in seen:
        return False
    seen.add(chain.name)
    for rule in chain.rules:
        words = _QUOTED.sub("", rule)
        if _DROPS.search(words):
            return True
        for name in _ASKS.findall(words):
            asked = found.get((chain.table, name.rstrip(",")))
            if asked is None or _may_drop(asked, found, seen):
                return True
    return False
