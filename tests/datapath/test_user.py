"""The path through data filters: what they are told, their order, and every split of the input."""

import asyncio
import hashlib
import random

import pytest
import uvloop
from filter_chain import MIB, chain
from hypothesis import given, settings
from hypothesis import strategies as st
from tags import LaterTag, Tag

from fwproxy import DataFilter

NAMES = (b"a", b"b", b"c")


async def test_a_filter_that_does_nothing_passes_everything_on():
    async with chain(DataFilter()) as made:
        assert await made.ask(b"question", 8) == b"question"
        await made.server.send(b"answer")
        assert await made.client.read(6) == b"answer"
        assert (made.relay.client_bytes, made.relay.server_bytes) == (8, 6)


async def test_a_filter_is_told_its_sides_its_connection_and_its_context():
    filters = [DataFilter(), DataFilter()]
    async with chain(*filters) as made:
        assert [each.connection for each in filters] == ["the connection"] * 2
        assert [each.context for each in filters] == ["context 0", "context 1"]
        assert filters[0].to_client is made.relay._client
        assert filters[1].to_server is made.relay._server


@pytest.mark.parametrize("kinds", [(Tag, Tag, Tag), (LaterTag,) * 3, (Tag, LaterTag, Tag)])
async def test_a_chain_works_from_client_to_server_and_back(kinds):
    async with chain(*(kind(name) for kind, name in zip(kinds, NAMES, strict=True))) as made:
        await made.client.send(b"x")
        assert await made.server.read(10) == b"c(b(a(x)))"
        await made.server.send(b"y")
        assert await made.client.read(10) == b"a(b(c(y)))"
        made.client.half_close()
        assert await made.server.read_all() == b"c(b(a.))c(b.)c."
        made.server.half_close()
        assert await made.client.read_all() == b"a(b(c.))a(b.)a."
        assert await made.ended() == "closed"
        assert not made.is_broken


async def test_one_direction_goes_on_after_the_end_of_the_other():
    async with chain(LaterTag(b"a")) as made:
        made.client.half_close()
        assert await made.server.read_all() == b"a."
        for _ in range(3):
            await made.server.send(b"y")
            assert await made.client.read(4) == b"a(y)"


class Swap(DataFilter):
    """Rewrites a stream byte by byte, so that it must not matter how it is cut."""

    def __init__(self, shift: int, *, later: bool) -> None:
        self.table = bytes((n + shift) % 256 for n in range(256))
        self.later = later

    def data_from_client(self, data):
        return self._pass(self.to_server, data)

    def data_from_server(self, data):
        return self._pass(self.to_client, data)

    def _pass(self, to, data):
        if self.later:
            return self._pass_later(to, data)
        to.send(data.translate(self.table))
        return None

    async def _pass_later(self, to, data):
        await asyncio.sleep(0)
        to.send(data.translate(self.table))


async def carried(pieces: list[bytes], kinds: list[tuple[int, bool]]) -> tuple[bytes, bytes]:
    """Send the same pieces from both sides and return what arrived."""
    async with chain(*(Swap(shift, later=later) for shift, later in kinds)) as made:

        async def speak(peer):
            for piece in pieces:
                await peer.send(piece)
                await asyncio.sleep(0)
            peer.half_close()

        up, down, *_ = await asyncio.gather(
            made.server.read_all(),
            made.client.read_all(),
            speak(made.client),
            speak(made.server),
        )
        assert await made.ended() == "closed"
        return up, down


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=200) | st.just(b"z" * 70_000), max_size=6),
    st.lists(st.tuples(st.integers(0, 255), st.booleans()), min_size=1, max_size=3),
)
def test_every_split_of_the_input_gives_the_same_bytes(loop, pieces, kinds):
    with asyncio.Runner(loop_factory=loop) as runner:
        up, down = runner.run(carried(pieces, kinds))
    shift = sum(shift for shift, _ in kinds)
    expected = b"".join(pieces).translate(bytes((n + shift) % 256 for n in range(256)))
    assert up == down == expected


async def test_much_data_both_ways_through_two_filters():
    blocks = [random.Random(seed).randbytes(MIB) for seed in range(4)]
    whole = hashlib.sha256(b"".join(blocks)).digest()

    async def pour(peer):
        for block in blocks:
            await peer.send(block)
        peer.half_close()

    async with chain(DataFilter(), DataFilter()) as made:
        up, down, *_ = await asyncio.gather(
            made.server.read_all(), made.client.read_all(), pour(made.client), pour(made.server)
        )
    assert hashlib.sha256(up).digest() == hashlib.sha256(down).digest() == whole
