"""The path through data filters: ends and resets, and a server that comes late or never."""

import asyncio
import socket

import pytest
from filter_chain import BUFFER, MIB, chain, settled
from rig import eventually, turns
from tags import Tag
from wires import tcp_pair

from fwproxy import DataFilter
from fwproxy.datapath.poll import SCRATCH_SIZE

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


class Slow(DataFilter):
    """Takes its time over what the server says."""

    async def data_from_server(self, data):
        await asyncio.sleep(0.01)
        self.to_client.send(data)


@pytest.mark.parametrize("kind", [DataFilter, Slow])
@pytest.mark.parametrize("then_ends", [False, True])
async def test_what_was_said_before_a_reset_arrives_although_the_other_speaks_first(
    kind, then_ends
):
    async with chain(kind()) as made:
        await turns()  # so that nothing else is to be noticed
        made.client.sock.send(b"what?")
        if then_ends:
            made.client.half_close()
        made.server.sock.send(b"421 Goodbye")
        made.server.reset()
        assert await made.client.read(11) == b"421 Goodbye"
        assert await made.client.is_cut_off()
        assert (await made.ended()).startswith("broken")


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
