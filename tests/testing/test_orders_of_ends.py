"""Two ends speak, end and break at the same time: what comes of it depends on no order."""

from __future__ import annotations

import itertools

import pytest
from shouting import ShoutFilter

from fwproxy.testing import Peer, Script
from fwproxy.testing.outcome import left

ACTS = ("", "says", "ends", "resets", "says ends", "says resets")
PATHS = pytest.mark.parametrize("filters", [(), (ShoutFilter,)], ids=["splice", "user"])


def act(peer: Peer, acts: str, words: bytes) -> None:
    """Do what the test says."""
    for each in acts.split():
        if each == "says":
            peer.send(words)
        elif each == "ends":
            peer.end()
        else:
            peer.reset()


def play(
    filters: tuple[type[ShoutFilter], ...], client: str, server: str, *, is_reversed: bool
) -> tuple[bytes, bytes, str, str]:
    """Return what both have heard and how they were left."""
    with Script(*filters) as script:
        script.arrange = lambda descriptors: sorted(descriptors, reverse=is_reversed)
        with script.at_once():
            act(script.client, client, b"LAST WORDS")
            act(script.server, server, b"GOODBYE")
        ends = script.client, script.server
        return ends[0].take(), ends[1].take(), left(ends[0]), left(ends[1])


@PATHS
@pytest.mark.parametrize(("client", "server"), list(itertools.product(ACTS, ACTS)))
def test_nothing_depends_on_which_end_is_noticed_first(
    filters: tuple[type[ShoutFilter], ...], client: str, server: str
) -> None:
    first = play(filters, client, server, is_reversed=False)
    assert play(filters, client, server, is_reversed=True) == first
    if "resets" not in client:
        assert first[0] == (b"GOODBYE" if "says" in server else b"")
    if "resets" not in server:
        assert first[1] == (b"LAST WORDS" if "says" in client else b"")


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_client_that_reads_slowly_gets_the_rest_after_a_reset(*, is_reversed: bool) -> None:
    with Script() as script:
        script.client.stall(room=3)
        script.server.send(b"GOODBYE")
        assert script.client.take() == b"GOO"
        script.arrange = lambda descriptors: sorted(descriptors, reverse=is_reversed)
        with script.at_once():
            script.client.send(b"WHAT?")
            script.server.send(b" FOR EVER")
            script.server.reset()
        assert not script.client.is_reset
        script.client.read_on()
        assert script.client.take() == b"DBYE FOR EVER"
        assert script.client.is_reset
