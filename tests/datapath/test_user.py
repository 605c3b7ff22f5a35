"""The path through data filters: order, splits, backpressure, ends and every kind of failure."""

import asyncio
import contextlib
import hashlib
import random
import socket

import attrs
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import Peer, advance, eventually, turns
from wires import running_deadlines, running_poller, tcp_pair

from fwproxy import DataFilter
from fwproxy.datapath.poll import SCRATCH_SIZE
from fwproxy.datapath.user import FilterRelay

KIB, MIB = 1 << 10, 1 << 20
BUFFER = 64 * KIB
NAMES = (b"a", b"b", b"c")


@attrs.define
class Chain:
    """A relay through filters with a scripted client and server at its ends."""

    client: Peer
    server: Peer
    relay: FilterRelay
    ends: list
    detached: list

    @property
    def error(self):
        ((_, _, error),) = self.ends
        return error

    @property
    def is_broken(self):
        ((_, broken, _),) = self.ends
        return broken

    async def ended(self):
        await eventually(lambda: self.ends)
        return self.ends[0][0]

    def time_passes(self, seconds):
        advance(self.relay.deadlines, seconds)

    async def ask(self, data, size):
        await self.client.send(data)
        return await self.server.read(size)


@contextlib.asynccontextmanager
async def chain(
    *filters, max_buffer=BUFFER, filter_timeout=30, linger=10, small=False, with_server=True
):
    async with running_poller() as poller, running_deadlines() as deadlines:
        ends, detached = [], []
        client_side, client = tcp_pair(small=small)
        server_side, server = tcp_pair(small=small)
        for each in filters:
            each.detach = lambda each=each: detached.append(each)
        relay = FilterRelay(
            poller,
            deadlines,
            [(each, f"context {number}") for number, each in enumerate(filters)],
            "the connection",
            client_side,
            server_side if with_server else None,
            max_buffer=max_buffer,
            filter_timeout=filter_timeout,
            linger=linger,
            on_done=lambda *end: ends.append(end),
        )
        made = Chain(client, server, relay, ends, detached)
        try:
            relay.start()
            yield made
            relay.close()
            assert detached == list(filters)
            await turns()
        finally:
            for each in (relay, client, server, client_side, server_side):
                each.close()


class Tag(DataFilter):
    """Puts its name around every piece, and before the end of the stream."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def data_from_client(self, data):
        self.to_server.send(b"%b(%b)" % (self.name, data))

    def data_from_server(self, data):
        self.to_client.send(b"%b(%b)" % (self.name, data))

    def end_from_client(self):
        self.to_server.send(b"%b." % self.name)
        self.to_server.half_close()

    def end_from_server(self):
        self.to_client.send(b"%b." % self.name)
        self.to_client.half_close()


class LaterTag(Tag):
    """The same, but it takes its time over everything."""

    async def data_from_client(self, data):
        await asyncio.sleep(0)
        super().data_from_client(data)

    async def data_from_server(self, data):
        await asyncio.sleep(0.001)
        super().data_from_server(data)

    async def end_from_client(self):
        await asyncio.sleep(0)
        super().end_from_client()

    async def end_from_server(self):
        await asyncio.sleep(0)
        super().end_from_server()


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


# Backpressure.


async def settled(made: Chain) -> int:
    """Wait until nothing more is read from the client, and return how much was."""
    count = -1
    while count != made.relay.client_bytes:
        count = made.relay.client_bytes
        await turns(200)
    return count


async def test_a_reader_that_does_not_read_stops_the_writer():
    async with chain(DataFilter(), DataFilter(), small=True) as made:
        sending = asyncio.ensure_future(made.client.send(b"x" * 4 * MIB))
        read = await settled(made)
        assert made.relay._server.pending <= BUFFER
        assert read < MIB
        assert not sending.done()
        assert len(await made.server.read(4 * MIB)) == 4 * MIB
        await sending


class Gate(DataFilter):
    """Handles nothing until it is opened, and counts how many handlers run at once."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.running = 0
        self.most = 0
        self.started = 0

    async def data_from_client(self, data):
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await self.opened.wait()
        self.running -= 1
        self.to_server.send(data)


async def test_while_a_handler_runs_its_direction_is_not_read():
    gate = Gate()
    async with chain(DataFilter(), gate) as made:
        sending = asyncio.ensure_future(made.client.send(b"x" * 4 * MIB))
        await eventually(lambda: gate.started)
        assert await settled(made) <= SCRATCH_SIZE
        await made.server.send(b"the other way goes on")
        assert await made.client.read(21) == b"the other way goes on"
        gate.opened.set()
        assert len(await made.server.read(4 * MIB)) == 4 * MIB
        await sending
        assert gate.most == 1


async def test_the_end_waits_for_the_handler_before_it():
    gate = Gate()
    async with chain(gate) as made:
        await made.client.send(b"last words")
        made.client.half_close()
        await eventually(lambda: gate.started)
        await turns()
        assert not made.relay._server.finished
        gate.opened.set()
        assert await made.server.read_all() == b"last words"


class Double(DataFilter):
    """Makes two pieces out of each."""

    def data_from_client(self, data):
        half = len(data) // 2
        self.to_server.send(data[:half])
        self.to_server.send(data[half:])


async def test_pieces_queue_up_before_a_busy_neighbour_in_order():
    gate = Gate()
    async with chain(Double(), gate) as made:
        await made.client.send(b"12345678")
        await eventually(lambda: gate.started)
        assert made.relay._stages[1].waiting_size(0) == 4
        gate.opened.set()
        assert await made.server.read(8) == b"12345678"
        assert gate.most == 1


class Flood(DataFilter):
    """Makes far more than it is given."""

    def __init__(self, size: int) -> None:
        self.size = size

    def data_from_client(self, data):
        self.to_server.send(b"x" * self.size)


async def test_a_filter_that_overflows_the_socket_ends_the_connection():
    async with chain(Flood(8 * MIB), small=True) as made:
        await made.client.send(b"go")
        assert "BufferFullError" in await made.ended()
        assert "max_buffer" in str(made.error)
        assert made.is_broken
        assert await made.client.is_cut_off()


async def test_a_filter_that_overflows_its_neighbour_ends_the_connection():
    gate = Gate()

    class Twice(Flood):
        def data_from_client(self, data):
            super().data_from_client(data)
            super().data_from_client(data)

    async with chain(Twice(BUFFER + 1), gate) as made:
        await made.client.send(b"go")
        assert "BufferFullError" in await made.ended()
        assert type(made.error.__class__) is type


async def test_what_a_filter_may_have_waiting_is_exactly_the_bound():
    gate = Gate()

    class Exact(DataFilter):
        def data_from_client(self, data):
            for size in (1, BUFFER):
                self.to_server.send(b"x" * size)

    async with chain(Exact(), gate) as made:
        await made.client.send(b"go")
        await eventually(lambda: gate.started)
        assert made.relay._stages[1].waiting_size(0) == BUFFER
        assert not made.ends
        gate.opened.set()
        assert len(await made.server.read(1 + BUFFER)) == 1 + BUFFER


# Failures: bytes never pass unseen.

PLACES = ["data_from_client", "data_from_server", "end_from_client", "end_from_server"]


def failing(place: str, *, later: bool, error: BaseException) -> DataFilter:
    def fail(*_):
        raise error

    async def fail_later(*_):
        await asyncio.sleep(0)
        raise error

    made = DataFilter()
    setattr(made, place, fail_later if later else fail)
    return made


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("error", [ValueError("a fault"), asyncio.CancelledError()])
@pytest.mark.parametrize("position", [0, 1])
async def test_a_filter_that_raises_ends_the_connection(place, later, error, position):
    filters = [DataFilter(), DataFilter()]
    filters[position] = failing(place, later=later, error=error)
    async with chain(*filters) as made:
        near, far = made.client, made.server
        if place.endswith("server"):
            near, far = far, near
        if place.startswith("data"):
            await near.send(b"seen by nobody")
        else:
            near.half_close()
        assert "DataFilter failed" in await made.ended()
        assert made.is_broken
        assert made.error is error or isinstance(error, asyncio.CancelledError)
        assert await far.is_cut_off()
        assert made.detached == filters


@pytest.mark.parametrize("place", PLACES)
async def test_a_handler_that_takes_too_long_ends_the_connection(place):
    cancelled = []

    async def hang(*_):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(place)

    slow = DataFilter()
    setattr(slow, place, hang)
    async with chain(slow, filter_timeout=30) as made:
        near = made.server if place.endswith("server") else made.client
        if place.startswith("data"):
            await near.send(b"x")
        else:
            near.half_close()
        await eventually(lambda: any(made.relay.busy))
        await turns()
        made.time_passes(29)
        await turns()
        assert not made.ends
        made.time_passes(2)
        assert "TimeoutError" in await made.ended()
        await eventually(lambda: cancelled)


class Broken(DataFilter):
    def set_sockets(self, internal, external, connection, context):
        raise ValueError("a fault")


@pytest.mark.parametrize("position", [0, 1])
async def test_a_filter_that_refuses_its_sockets_ends_the_connection(position):
    filters = [DataFilter(), DataFilter()]
    filters[position] = Broken()
    async with chain(*filters) as made:
        assert await made.ended() == "filter Broken failed: ValueError: a fault"
        assert made.is_broken
        assert await made.client.is_cut_off()
        assert await made.server.is_cut_off()


async def test_a_filter_may_speak_before_it_is_spoken_to():
    class Greeting(DataFilter):
        def set_sockets(self, internal, external, connection, context):
            super().set_sockets(internal, external, connection, context)
            internal.send(b"welcome ")
            external.send(b"here comes ")

    async with chain(Tag(b"a"), Greeting(), Tag(b"b")) as made:
        assert await made.client.read(11) == b"a(welcome )"
        assert await made.server.read(14) == b"b(here comes )"


@pytest.mark.parametrize("side", ["client", "server"])
async def test_speaking_first_to_one_who_has_gone_ends_the_connection(side):
    class Greeting(DataFilter):
        def set_sockets(self, internal, external, connection, context):
            super().set_sockets(internal, external, connection, context)
            gone.reset()
            for _ in range(2):
                (internal if side == "client" else external).send(b"welcome")

    async def meet():
        nonlocal gone
        async with chain(Greeting()) as made:
            return await made.ended()

    gone = None
    made = []
    original = tcp_pair

    def remembered(*, small=False):
        nonlocal gone
        made.append(original(small=small))
        if len(made) == (1 if side == "client" else 2):
            gone = made[-1][1]
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "tcp_pair", remembered)
        assert "broken" in await meet()


async def test_a_filter_that_fails_to_let_go_is_reported():
    faults = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    first, second = DataFilter(), DataFilter()
    async with chain(first, second) as made:

        def fail():
            made.detached.append(first)
            raise ValueError("a fault")

        first.detach = fail
        made.relay.close()
    assert [str(fault) for fault in faults] == ["a fault"]


async def test_closing_cancels_what_runs_and_tells_nobody():
    gate = Gate()
    async with chain(gate) as made:
        await made.client.send(b"x")
        await eventually(lambda: gate.started)
        made.relay.close(abort=True)
        made.relay.close(abort=True)
        assert await made.client.is_cut_off()
        await turns()
        assert gate.running == 1  # it never got to the end
        assert not made.ends


async def test_a_filter_may_close_the_connection_from_within():
    class Closing(DataFilter):
        def data_from_client(self, data):
            relay.close()
            self.to_server.send(data)
            self.to_client.send(data)
            self.to_server.half_close()

    async with chain(Closing(), DataFilter()) as made:
        relay = made.relay
        await made.client.send(b"x")
        assert await made.server.read_all() == b""
        assert not made.ends


@pytest.mark.parametrize("position", [0, 1])
async def test_a_filter_may_abort(position):
    class Aborting(DataFilter):
        def data_from_client(self, data):
            (self.to_client if position else self.to_server).abort()

    filters = [DataFilter(), DataFilter()]
    filters[position] = Aborting()
    async with chain(*filters) as made:
        await made.client.send(b"x")
        assert await made.ended() == "aborted by a filter"
        assert await made.client.is_cut_off()
        assert await made.server.is_cut_off()


# Ends.


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_reset_reaches_the_other_side(side):
    async with chain(DataFilter()) as made:
        assert await made.ask(b"x", 1) == b"x"
        near, far = made.client, made.server
        if side == "server":
            near, far = far, near
        near.reset()
        assert (await made.ended()).startswith("broken")
        assert await far.is_cut_off()


async def test_a_reset_after_the_client_has_said_its_end_is_noticed():
    async with chain(DataFilter()) as made:
        made.client.half_close()
        assert await made.server.read_all() == b""
        made.client.reset()
        assert (await made.ended()).startswith("broken")
        with pytest.raises(ConnectionError):
            await made.server.send(b"to nobody")


class Farewell(DataFilter):
    """Ends both streams by itself."""

    def data_from_client(self, data):
        self.to_client.send(b"bye")
        self.to_client.half_close()
        self.to_server.half_close()


async def test_when_both_have_been_told_the_end_they_may_take_their_time():
    """Closing on unread bytes would reset the connection and may lose the last reply."""
    async with chain(Farewell(), linger=10) as made:
        await made.client.send(b"QUIT")
        assert await made.client.read_all() == b"bye"
        assert await made.server.read_all() == b""
        await made.client.send(b"one thing more")
        await made.server.send(b"from here too")
        await turns()
        made.time_passes(9)
        assert not made.ends
        made.client.half_close()
        made.server.half_close()
        assert await made.ended() == "closed"
        assert not made.is_broken


async def test_who_does_not_end_in_time_is_closed_upon():
    async with chain(Farewell(), linger=10) as made:
        await made.client.send(b"QUIT")
        assert await made.client.read_all() == b"bye"
        made.time_passes(11)
        assert await made.ended() == "closed"


async def test_a_reset_after_both_have_been_told_the_end_is_an_end():
    async with chain(Farewell(), linger=10) as made:
        await made.client.send(b"QUIT")
        assert await made.client.read_all() == b"bye"
        made.client.reset()
        made.server.reset()
        assert await made.ended() == "closed"
        assert not made.is_broken


@pytest.mark.parametrize("position", [0, 1])
async def test_what_is_sent_after_the_end_is_dropped(position):
    class Talkative(DataFilter):
        def data_from_client(self, data):
            for _ in range(2):
                self.to_server.half_close()
                self.to_server.send(data)

    filters = [Tag(b"a"), Tag(b"a")]
    filters[position] = Talkative()
    async with chain(*filters) as made:
        await made.client.send(b"x")
        assert await made.server.read_all() == (b"" if position else b"a.")


async def test_urgent_data_is_part_of_the_stream():
    async with chain(DataFilter()) as made:
        made.client.sock.send(b"before")
        made.client.sock.send(b"!", socket.MSG_OOB)
        made.client.sock.send(b"after")
        assert await made.server.read(12) == b"before!after"


# Without a server, or not yet.


async def test_a_filter_can_play_the_server():
    class Echo(DataFilter):
        def data_from_client(self, data):
            self.to_client.send(data)

        def end_from_client(self):
            self.to_client.half_close()
            self.to_server.half_close()

    async with chain(Echo(), with_server=False) as made:
        await made.client.send(b"hello")
        assert await made.client.read(5) == b"hello"
        made.client.half_close()
        assert await made.client.read_all() == b""
        assert await made.ended() == "closed"


async def test_what_is_for_the_server_waits_for_it_within_bounds():
    async with chain(DataFilter(), with_server=False) as made:
        sending = asyncio.ensure_future(made.client.send(b"x" * 4 * MIB))
        assert await settled(made) <= BUFFER + SCRATCH_SIZE
        near, far = tcp_pair()
        made.relay.attach_server(near)
        assert len(await far.read(4 * MIB)) == 4 * MIB
        await sending
        await far.send(b"answer")
        assert await made.client.read(6) == b"answer"
        far.close()


async def test_a_server_that_has_gone_again_ends_the_connection():
    async with chain(DataFilter(), with_server=False) as made:
        await made.client.send(b"x")
        await eventually(lambda: made.relay._server.pending)
        near, far = tcp_pair()
        far.reset()
        made.relay.attach_server(near)
        assert (await made.ended()).startswith("broken")
        assert near.fileno() == -1


async def test_how_much_waits_is_told():
    gate = Gate()
    seen = []

    class Asking(Double):
        def data_from_client(self, data):
            super().data_from_client(data)
            seen.append(self.to_server.pending)

    async with chain(Asking(), gate) as made:
        await made.client.send(b"12345678")
        await eventually(lambda: seen)
        assert seen == [4]
        gate.opened.set()
        assert await made.server.read(8) == b"12345678"
        assert made.relay._server.pending == 0
