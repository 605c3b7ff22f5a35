"""The path without data filters: copies first, splice for bulk, and every kind of end."""

import asyncio
import contextlib
import hashlib
import random
import socket

import attrs
import pytest
from rig import Peer, eventually, turns
from wires import running_poller, tcp_pair

from fwproxy.datapath.pipes import PipePool
from fwproxy.datapath.poll import SCRATCH_SIZE
from fwproxy.datapath.splice import SpliceRelay

MIB = 1 << 20
PATHS = pytest.mark.parametrize(
    "settings",
    [{"bulk_threshold": 0}, {"bulk_threshold": 256 * 1024}, {"max_pipes": 0}],
    ids=["splice at once", "splice later", "copies only"],
)


@attrs.define
class Wire:
    """A relay with a scripted client and server at its ends, and what it has said."""

    client: Peer
    server: Peer
    relay: SpliceRelay
    pipes: PipePool
    ends: list

    @property
    def reason(self):
        ((reason, _, _),) = self.ends
        return reason

    @property
    def is_broken(self):
        ((_, broken, _),) = self.ends
        return broken

    async def ended(self):
        await eventually(lambda: self.ends)
        return self.reason


@contextlib.asynccontextmanager
async def wire(*, bulk_threshold=256 * 1024, max_pipes=8, pipe_size=MIB, small=False, start=True):
    async with running_poller() as poller:
        pipes, ends = PipePool(max_pipes, pipe_size), []
        client_side, client = tcp_pair(small=small)
        server_side, server = tcp_pair(small=small)
        relay = SpliceRelay(
            poller,
            client_side,
            server_side,
            pipes=pipes,
            bulk_threshold=bulk_threshold,
            on_done=lambda *end: ends.append(end),
        )
        made = Wire(client, server, relay, pipes, ends)
        if start:
            relay.start()
        try:
            yield made
            relay.close()
            assert pipes.in_use == 0
            assert client_side.fileno() == server_side.fileno() == -1
        finally:
            for each in (relay, client, server, pipes):
                each.close()


async def pour(peer: Peer, size: int, seed: int) -> str:
    """Send pseudo-random bytes, say the end, and return their digest."""
    digest, block = hashlib.sha256(), random.Random(seed).randbytes(MIB)
    for start in range(0, size, MIB):
        piece = block[: min(MIB, size - start)]
        digest.update(piece)
        await peer.send(piece)
        block = block[1:] + block[:1]
    peer.half_close()
    return digest.hexdigest()


async def drink(peer: Peer) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while data := await peer.receive():
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


@PATHS
async def test_fifty_mebibytes_both_ways_at_once(settings):
    size = 50 * MIB
    async with wire(**settings) as made:
        up, down, at_server, at_client = await asyncio.gather(
            pour(made.client, size, 1),
            pour(made.server, size, 2),
            drink(made.server),
            drink(made.client),
        )
        assert at_server == (size, up)
        assert at_client == (size, down)
        assert await made.ended() == "closed"
        assert not made.is_broken
        assert (made.relay.client_bytes, made.relay.server_bytes) == (size, size)


@PATHS
@pytest.mark.parametrize("size", [0, 1, SCRATCH_SIZE - 1, SCRATCH_SIZE, SCRATCH_SIZE + 1, 3 * MIB])
async def test_every_size_arrives_and_then_its_end(settings, size):
    async with wire(**settings) as made:
        sent, (count, received) = await asyncio.gather(
            pour(made.client, size, 3), drink(made.server)
        )
        assert (count, received) == (size, sent)
        assert not made.ends  # the other way is still open
        await made.server.send(b"answer")
        made.server.half_close()
        assert await made.client.read_all() == b"answer"
        assert await made.ended() == "closed"


@PATHS
async def test_data_and_its_end_may_have_come_before_the_start(settings):
    async with wire(**settings, start=False) as made:
        await made.client.send(b"x" * 1000)
        made.client.half_close()
        made.relay.start()
        assert await made.server.read_all() == b"x" * 1000


async def test_a_former_owner_may_have_seen_the_edges():
    """A dialled socket is watched by its dial until the relay takes over."""

    class Former:
        seen = 0

        def on_ready(self, fd, events):
            self.seen += 1

        def on_broken(self, error):
            raise error

    async with wire(start=False) as made:
        former = Former()
        made.relay.poller.watch(made.relay._client_fd, former)
        await made.client.send(b"early")
        made.client.half_close()
        await eventually(lambda: former.seen)
        await turns()
        made.relay.start()
        assert await made.server.read_all() == b"early"


async def test_tiny_writes_arrive_in_order():
    async with wire() as made:
        expected = b"".join(bytes([n % 256]) for n in range(500))
        for n in range(500):
            await made.client.send(bytes([n % 256]))
        assert await made.server.read(500) == expected
        assert made.pipes.in_use == 0


async def test_question_and_answer_in_turn():
    async with wire() as made:
        for n in range(50):
            await made.client.send(b"%d?" % n)
            assert await made.server.read(len(b"%d?" % n)) == b"%d?" % n
            await made.server.send(b"%d!" % n)
            assert await made.client.read(len(b"%d!" % n)) == b"%d!" % n


@pytest.mark.parametrize(("threshold", "spliced"), [(0, True), (MIB, True), (16 * MIB, False)])
async def test_a_stream_takes_a_pipe_when_it_proves_bulky(threshold, spliced):
    async with wire(bulk_threshold=threshold) as made:
        taken = []
        take = made.pipes.take
        made.pipes.take = lambda: taken.append(made.relay.client_bytes) or take()
        await asyncio.gather(pour(made.client, 8 * MIB, 5), drink(made.server))
        assert bool(taken) is spliced
        assert not taken or taken[0] >= threshold


async def test_an_exhausted_pool_means_copies_until_a_pipe_is_free():
    async with wire(bulk_threshold=0, max_pipes=1) as made:
        held = made.pipes.take()
        assert (await asyncio.gather(pour(made.client, 4 * MIB, 6), drink(made.server)))[1][0]
        assert made.pipes.in_use == 1
        made.pipes.give_back(held)
        taken = []
        take = made.pipes.take
        made.pipes.take = lambda: taken.append(take()) or taken[-1]
        sent, got = await asyncio.gather(pour(made.server, 4 * MIB, 7), drink(made.client))
        assert got == (4 * MIB, sent)
        assert any(taken)


async def test_a_reader_that_does_not_read_stops_the_writer():
    """What the relay itself holds is bounded by one read or one pipe."""
    for settings in ({"max_pipes": 0}, {"bulk_threshold": 0, "pipe_size": 64 * 1024}):
        async with wire(small=True, **settings) as made:
            sending = asyncio.ensure_future(pour(made.client, 8 * MIB, 8))
            count = -1
            while count != made.relay.client_bytes:  # until nothing moves any more
                count = made.relay.client_bytes
                await turns(200)
            direction = made.relay._upstream
            assert direction.blocked
            assert len(direction.pending or b"") <= SCRATCH_SIZE
            assert direction.pipe is None or direction.pipe.level <= direction.pipe.size
            assert count < MIB
            assert not sending.done()
            assert await drink(made.server) == (8 * MIB, await sending)


@PATHS
async def test_a_reset_by_the_client_reaches_the_server(settings):
    async with wire(**settings) as made:
        await made.client.send(b"half of a")
        assert await made.server.read(9) == b"half of a"
        made.client.reset()
        assert await made.server.is_cut_off()
        assert "client to server" in await made.ended()
        assert made.is_broken


async def test_a_reset_by_the_server_reaches_the_client():
    async with wire() as made:
        await made.server.send(b"half of a")
        assert await made.client.read(9) == b"half of a"
        made.server.reset()
        assert await made.client.is_cut_off()
        assert "server to client" in await made.ended()


@PATHS
@pytest.mark.parametrize("size", [7, 40_000])
async def test_what_was_said_before_a_reset_arrives_although_the_other_speaks_first(settings, size):
    async with wire(**settings) as made:
        said = random.Random(4).randbytes(size)
        await turns()  # so that nothing else is to be noticed
        made.client.sock.send(b"what?")
        made.server.sock.send(said)
        made.server.reset()
        assert await made.client.read(size) == said
        assert await made.client.is_cut_off()
        assert "client to server" in await made.ended()
        assert made.is_broken


async def test_a_reset_in_the_middle_of_bulk_gives_the_pipe_back():
    async with wire(bulk_threshold=0) as made:
        sending = asyncio.ensure_future(pour(made.client, 64 * MIB, 9))
        await eventually(lambda: made.relay._upstream.blocked and made.pipes.in_use)
        made.server.reset()
        await made.ended()
        assert made.is_broken
        assert made.pipes.in_use == 0
        with pytest.raises(ConnectionError):
            await sending


async def test_a_reset_after_the_client_has_said_its_end_is_noticed():
    async with wire() as made:
        made.client.half_close()
        assert await made.server.read_all() == b""
        made.client.reset()
        await made.ended()
        assert made.is_broken
        with pytest.raises(ConnectionError):
            await made.server.send(b"to nobody")


async def test_a_reset_after_the_last_byte_takes_nothing_away():
    """Programs that have seen the end may close with a reset: that is no breakage."""
    async with wire() as made:
        await made.server.send(b"all of it")
        made.server.half_close()
        assert await made.client.read_all() == b"all of it"
        made.client.reset()
        assert await made.ended() == "closed"
        assert not made.is_broken


@pytest.mark.parametrize("abort", [False, True])
async def test_closing_closes_both_and_tells_nobody(abort):
    async with wire() as made:
        made.relay.close(abort=abort)
        made.relay.close(abort=abort)
        assert await made.client.is_cut_off() is abort
        assert await made.server.is_cut_off() is abort
        await turns()
        assert not made.ends


@pytest.mark.parametrize("bulk", [0, 4 * MIB])
@pytest.mark.parametrize("then_ends", [False, True])
async def test_urgent_data_holds_nothing_up(bulk, then_ends):
    """Reading stops at an urgent byte (tcp(7)), which does not mean that nothing is behind it."""
    async with wire(bulk_threshold=0) as made:
        if bulk:
            sending = asyncio.ensure_future(made.client.send(b"b" * bulk))
            assert len(await made.server.read(bulk)) == bulk
            await sending
            assert made.relay._upstream.bulky
        made.client.sock.send(b"before")
        made.client.sock.send(b"!", socket.MSG_OOB)
        made.client.sock.send(b"after")
        if then_ends:
            made.client.half_close()
            assert await made.server.read_all() == b"before!after"
        else:
            assert await made.server.read(12) == b"before!after"


async def test_a_busy_direction_waits_for_its_turn_once():
    async with wire(bulk_threshold=0) as made:
        waiting = []
        defer = made.relay.poller.defer
        made.relay.poller.defer = lambda work: (
            waiting.append(made.relay.poller._deferred.count(work)), defer(work)
        )  # fmt: skip
        await asyncio.gather(pour(made.client, 32 * MIB, 11), drink(made.server))
        assert max(waiting, default=0) == 0
