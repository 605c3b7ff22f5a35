"""The path through data filters: who does not read or is busy holds up who sends, within bounds."""

import asyncio

from filter_chain import BUFFER, MIB, Double, Gate, chain, settled
from rig import eventually, turns

from fwproxy import DataFilter
from fwproxy.datapath.poll import SCRATCH_SIZE

# Backpressure.


async def test_a_reader_that_does_not_read_stops_the_writer():
    async with chain(DataFilter(), DataFilter(), small=True) as made:
        sending = asyncio.ensure_future(made.client.send(b"x" * 4 * MIB))
        read = await settled(made)
        assert made.relay._server.pending <= BUFFER
        assert read < MIB
        assert not sending.done()
        assert len(await made.server.read(4 * MIB)) == 4 * MIB
        await sending


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


# Without a server, or not yet.


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
