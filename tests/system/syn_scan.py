"""A scan of many ports from a third namespace, in its own name or in that of somebody else.

Whoever bears the address gets the answers, and remembers who has sent them; an answer that nobody
has asked for is dropped there, so that neither side learns of it.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from .ends import knock
from .namespaces import Network, Side
from .processes import find_program
from .proxy import wait_until
from .terms import Family

PROGRAM = Path(__file__).with_name("programs") / "syn_scan.py"
BARRIER = 21
"""The port that is asked last; it answers in any network here."""
SOURCE_PORTS = range(61000, 62000)
"""Above those that the kernel takes for outgoing connections."""

SEEN = f"""\
table inet fwproxy-scan {{
    set opened {{ typeof tcp dport . tcp sport; flags dynamic; size 65535; }}
    set refused {{ typeof tcp dport . tcp sport; flags dynamic; size 65535; }}
    chain prerouting {{
        type filter hook prerouting priority -300;
        tcp dport != {SOURCE_PORTS[0]}-{SOURCE_PORTS[-1]} accept
        tcp flags & (syn | ack) == syn | ack add @opened {{ tcp dport . tcp sport }} drop
        tcp flags & rst == rst add @refused {{ tcp dport . tcp sport }} drop
    }}
}}
"""


@attrs.frozen
class Answers:
    """Who has said what."""

    opened: set[int]
    refused: set[int]


@attrs.define
class Scanner:
    """Scans from the stranger's namespace of a network."""

    net: Network
    _source_ports: itertools.count[int] = attrs.field(
        factory=lambda: itertools.count(SOURCE_PORTS[0])
    )

    def prepare(self, sides: Sequence[Side]) -> None:
        """Let these sides remember what is answered to them."""
        for side in sides:
            self.net.run(side, [nft(), "-f", "-"], standard_input=SEEN)

    def scan(self, side: Side, target: str, family: Family, ports: range) -> Answers:
        """Ask at all ports of a target in the name of a side."""
        # Packets that wait for the neighbour's address would be too many.
        knock(target, BARRIER, self.net.namespace(Side.STRANGER))
        source_port = next(self._source_ports)
        where = [self.net.address(side, family), source_port, target, ports[0], len(ports)]
        self.net.run(Side.STRANGER, [sys.executable, PROGRAM, *map(str, where)])
        return wait_until(lambda: self._answers(side, source_port), "the last port has answered")

    def _answers(self, side: Side, source_port: int) -> Answers | None:
        found = json.loads(self.net.run(side, [nft(), "-j", "list", "table", "inet", TABLE]))
        sets = [entry["set"] for entry in found["nftables"] if "set" in entry]
        ports = {
            each["name"]: {
                pair["concat"][1]
                for pair in each.get("elem", [])
                if pair["concat"][0] == source_port
            }
            for each in sets
        }
        if BARRIER not in ports["opened"] | ports["refused"]:
            return None
        return Answers(ports["opened"] - {BARRIER}, ports["refused"] - {BARRIER})


TABLE = "fwproxy-scan"


def nft() -> str:
    """The program."""
    return find_program("nft") or "nft"
