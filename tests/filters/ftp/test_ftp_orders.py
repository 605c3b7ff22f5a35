"""In whatever order things are noticed: what ends well at the ends, ends well through the proxy."""

from __future__ import annotations

import random

from conversions import between
from hypothesis import given, settings
from hypothesis import strategies as st
from orders import FATES, Scene, Transfer

SETUPS = {"4": ["PORT", "EPRT", "PASV", "EPSV"], "6": ["EPRT", "EPSV"]}
VERSIONS = st.sampled_from(["44", "44", "46", "64", "66"])
MODES = st.sampled_from(["client", "active", "passive"])


@st.composite
def transfers(draw: st.DrawFn, client: str, fates: list[str]) -> list[Transfer]:
    """Some transfers of a client."""
    transfer = st.builds(
        Transfer,
        setup=st.sampled_from(SETUPS[client]),
        verb=st.sampled_from(["RETR", "STOR"]),
        content=st.sampled_from([b"", b"x", b"some bytes"]),
        fate=st.sampled_from(fates),
        is_early=st.booleans(),
        ends_first=st.booleans(),
    )
    return draw(st.lists(transfer, min_size=1, max_size=4))


def play(versions: str, mode: str, wanted: list[Transfer], seed: int, **how: bool) -> None:
    """Play a session, and see that everything has come and been said in its order."""
    with between(versions, data_mode=mode, greeted=False) as script:
        script.server(b"220 Ready\r\n")
        scene = Scene(script, versions, wanted, random.Random(seed))
        scene.play(**how)
        codes = scene.codes
        assert codes.pop(0) == 220
        for number, each in enumerate(wanted):
            each.tell(codes)
            # What has broken must not look as if it were complete.
            assert scene.arrived[number] == (each.content if each.fate == "succeeds" else None)
        assert codes == [221]
        assert script.play.client.has_ended
        assert script.play.server.has_ended
        assert not script.open


@settings(max_examples=300)
@given(st.data(), VERSIONS, MODES, st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_no_order_of_what_is_noticed_loses_a_transfer(
    data, versions, mode, is_pipelined, leaves_early, seed
):
    wanted = data.draw(transfers(versions[0], ["succeeds"] * 4 + ["is refused"]))
    play(versions, mode, wanted, seed, is_pipelined=is_pipelined, leaves_early=leaves_early)


@settings(max_examples=300)
@given(st.data(), VERSIONS, MODES, st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_a_transfer_that_fails_takes_no_other_with_it_in_any_order(
    data, versions, mode, is_pipelined, leaves_early, seed
):
    wanted = data.draw(transfers(versions[0], ["succeeds"] * 4 + list(FATES)))
    play(versions, mode, wanted, seed, is_pipelined=is_pipelined, leaves_early=leaves_early)
