"""In whatever order things are noticed: what ends well at the ends, ends well through the proxy."""

from __future__ import annotations

import random

from conversions import between
from hypothesis import given, settings
from hypothesis import strategies as st
from orders import Scene, Transfer

SETUPS = {"4": ["PORT", "EPRT", "PASV", "EPSV"], "6": ["EPRT", "EPSV"]}


@st.composite
def transfers(draw: st.DrawFn, client: str) -> list[Transfer]:
    """Some transfers of a client."""
    return draw(
        st.lists(
            st.builds(
                Transfer,
                setup=st.sampled_from(SETUPS[client]),
                verb=st.sampled_from(["RETR", "STOR"]),
                content=st.sampled_from([b"", b"x", b"some bytes"]),
                is_refused=st.sampled_from([False] * 5 + [True]),
                is_early=st.booleans(),
                ends_first=st.booleans(),
            ),
            min_size=1,
            max_size=4,
        )
    )


def play(versions: str, mode: str, wanted: list[Transfer], rng: random.Random, **how: bool) -> None:
    """Play a session, and see that everything has come and been said in its order."""
    with between(versions, data_mode=mode, greeted=False) as script:
        script.server(b"220 Ready\r\n")
        scene = Scene(script, versions, wanted, rng)
        scene.play(**how)
        assert scene.codes == [220, *(code for each in wanted for code in each.codes), 221]
        assert scene.arrived == [None if each.is_refused else each.content for each in wanted]
        assert script.play.client.has_ended
        assert script.play.server.has_ended
        assert not script.open


@settings(max_examples=300)
@given(
    st.data(),
    st.sampled_from(["44", "44", "46", "64", "66"]),
    st.sampled_from(["client", "active", "passive"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_no_order_of_what_is_noticed_loses_a_transfer(
    data, versions, mode, is_pipelined, leaves_early, seed
):
    wanted, rng = data.draw(transfers(versions[0])), random.Random(seed)
    play(versions, mode, wanted, rng, is_pipelined=is_pipelined, leaves_early=leaves_early)
