"""The path through data filters: every kind of failure, closing and aborting; no byte is unseen."""

import asyncio

import filter_chain
import pytest
from filter_chain import Gate, chain
from rig import eventually, turns
from tags import Tag
from wires import tcp_pair

from fwproxy import DataFilter

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
        patch.setattr(filter_chain, "tcp_pair", remembered)
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
