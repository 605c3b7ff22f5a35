"""Counts the TCP connections that anybody tries to make to a namespace, also to closed ports."""

from __future__ import annotations

import re

from .namespaces import Network, Side
from .processes import find_program

RULES = """\
table inet fwproxy-seen {
    chain input {
        type filter hook input priority 0;
        tcp flags & (syn | ack) == syn counter
    }
}
"""


def start_counting(net: Network, side: Side) -> None:
    """Count from now on."""
    net.run(side, [find_program("nft") or "nft", "-f", "-"], standard_input=RULES)


def count(net: Network, side: Side) -> int:
    """How many there have been."""
    rules = net.run(side, [find_program("nft") or "nft", "list", "ruleset"])
    (found,) = re.findall(r"counter packets (\d+)", rules)
    return int(found)
