"""For people who write filters: a session without a socket, and every split of its input.

`Script` runs filters in a real firewall whose network, clock and event loop the test plays.
`docs/writing-filters.md` shows how. `fwproxy.testing.strategies` has strategies for hypothesis.

`loop` turns when told, `sockets` are what the engine believes to be the system's, `peers` are
their other ends, `network` brings them together, `recording` writes down what filters call.
"""

from __future__ import annotations

from fwproxy.testing.network import Answer, Dialled, Network
from fwproxy.testing.outcome import Outcome
from fwproxy.testing.peers import DatagramPeer, Peer
from fwproxy.testing.recording import Call
from fwproxy.testing.script import Script
from fwproxy.testing.scripted_firewall import CLIENT, PROXY_INSIDE, PROXY_OUTSIDE, SERVER
from fwproxy.testing.splits import assert_all_alike, assert_splits_agree, every_split

__all__ = [
    "CLIENT",
    "PROXY_INSIDE",
    "PROXY_OUTSIDE",
    "SERVER",
    "Answer",
    "Call",
    "DatagramPeer",
    "Dialled",
    "Network",
    "Outcome",
    "Peer",
    "Script",
    "assert_all_alike",
    "assert_splits_agree",
    "every_split",
]
