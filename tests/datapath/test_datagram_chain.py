"""Datagrams through data filters: boundaries, order, bounds and every kind of failure."""

import asyncio
import contextlib

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import advance, eventually, turns
from tags import LaterTag, Tag
from wires import running_deadlines

from fwproxy import DataFilter, Endpoint, Ends
from fwproxy.clock import Deadlines
from fwproxy.datapath.datagram_chain import DatagramChain
from fwproxy.datapath.way import Way
from fwproxy.errors import AddressNotAllowedError, BadContextError

UP, DOWN = Way.UP, Way.DOWN
CLIENT, SERVER, OTHER = Endpoint("10.0.0.8", 5), Endpoint("192.0.2.1", 53), Endpoint("192.0.2.2", 7)
ENDS, OTHERS = Ends(CLIENT, SERVER), Ends(CLIENT, OTHER)


@attrs.define
class Made:
    """A chain, and what has come out of it."""

    chain: DatagramChain
    left: list
    failures: list
    faults: list
    ways: list

    def time_passes(self, seconds):
        advance(self.chain.deadlines, seconds)

    async def ended(self):
        await eventually(lambda: self.failures)
        return self.failures[0]


def make_chain(deadlines, *filters, emulated=False, ways=(ENDS,), **limits):
    left, failures, faults = [], [], []
    known = list(ways)

    def leave(way, data, ends):
        if ends not in known:
            raise AddressNotAllowedError(f"no way {ends}")
        left.append((way, data, ends))

    def failed(reason, error):
        failures.append((reason, error))
        chain.close()

    chain = DatagramChain(
        deadlines,
        "the connection",
        leave=leave,
        only_way=lambda: known[0] if len(known) == 1 else None,
        on_failed=failed,
        report=faults.append,
        **({"max_waiting": 3, "max_buffer": 100, "filter_timeout": 30} | limits),
    )
    made = Made(chain, left, failures, faults, known)
    chain.set_filters([(each, number) for number, each in enumerate(filters)], emulated=emulated)
    return made


@contextlib.asynccontextmanager
async def running(*filters, **settings):
    async with running_deadlines() as deadlines:
        made = make_chain(deadlines, *filters, **settings)
        yield made
        made.chain.close()
        await turns()


async def test_the_defaults_pass_every_datagram_on_even_an_empty_one():
    async with running(DataFilter(), DataFilter()) as made:
        for data in (b"one", b"", b"x" * 60_000):
            made.chain.deliver(UP, data, ENDS)
            made.chain.deliver(DOWN, data, ENDS)
        assert made.left == [
            (way, data, ENDS) for data in (b"one", b"", b"x" * 60_000) for way in (UP, DOWN)
        ]


@pytest.mark.parametrize("kinds", [(Tag, Tag, Tag), (LaterTag,) * 3, (Tag, LaterTag, Tag)])
async def test_a_chain_works_from_client_to_server_and_back(kinds):
    names = (b"a", b"b", b"c")
    async with running(*(kind(name) for kind, name in zip(kinds, names, strict=True))) as made:
        made.chain.deliver(UP, b"x", ENDS)
        made.chain.deliver(DOWN, b"y", ENDS)
        await eventually(lambda: len(made.left) == 2)
        assert sorted(made.left) == [(UP, b"c(b(a(x)))", ENDS), (DOWN, b"a(b(c(y)))", ENDS)]


async def test_a_filter_is_told_its_sides_its_connection_and_its_context():
    filters = [DataFilter(), DataFilter()]
    async with running(*filters) as made:
        assert [each.connection for each in filters] == ["the connection"] * 2
        assert [each.context for each in filters] == [0, 1]
        for each in filters:
            each.to_server.half_close()  # which means nothing
            assert each.to_server.pending == 0
        assert not made.failures


async def test_a_filter_learns_the_ends_and_sends_to_others():
    class Router(DataFilter):
        def datagram_from_client(self, data, ends):
            seen.append(ends)
            self.to_server.send_to(data, ends.with_server(OTHER))

        def datagram_from_server(self, data, ends):
            seen.append(ends)
            self.to_client.send_to(data, ENDS)

    seen = []
    async with running(Router(), ways=(ENDS, OTHERS)) as made:
        made.chain.deliver(UP, b"x", ENDS)
        made.chain.deliver(DOWN, b"y", OTHERS)
        assert made.left == [(UP, b"x", OTHERS), (DOWN, b"y", ENDS)]
        assert seen == [ENDS, OTHERS]


async def test_a_way_that_there_is_not_is_an_error_to_the_filter():
    caught = []

    class Stray(DataFilter):
        def data_from_client(self, data):
            with pytest.raises(AddressNotAllowedError):
                self.to_server.send_to(data, OTHERS)
            caught.append(data)

    async with running(Stray()) as made:
        made.chain.deliver(UP, b"x", ENDS)
        assert caught == [b"x"]
        assert not made.left
        assert not made.failures


async def test_send_goes_along_the_way_of_the_datagram_at_hand():
    """Also where two coroutines run at the same time, and in a task begun by one of them."""
    go = asyncio.Event()

    class Slow(DataFilter):
        async def data_from_client(self, data):
            await go.wait()
            self.to_server.send(b"up " + data)
            self.to_client.send(b"back " + data)
            await asyncio.create_task(self.later(data))

        async def data_from_server(self, data):
            await go.wait()
            self.to_client.send(b"down " + data)

        async def later(self, data):
            self.to_server.send(b"later " + data)

    async with running(Slow(), ways=(ENDS, OTHERS)) as made:
        made.chain.deliver(UP, b"x", ENDS)
        made.chain.deliver(DOWN, b"y", OTHERS)
        await turns()
        go.set()
        await eventually(lambda: len(made.left) == 4)
        assert set(made.left) == {
            (UP, b"up x", ENDS),
            (DOWN, b"back x", ENDS),
            (UP, b"later x", ENDS),
            (DOWN, b"down y", OTHERS),
        }


async def test_outside_of_a_handler_send_takes_the_only_way_or_asks_for_one():
    each = DataFilter()
    async with running(each) as made:
        each.to_client.send(b"x")
        assert made.left == [(DOWN, b"x", ENDS)]
        made.ways.append(OTHERS)
        with pytest.raises(BadContextError):
            each.to_client.send(b"y")
        made.ways.clear()
        with pytest.raises(BadContextError):
            each.to_client.send(b"y")


async def test_what_is_at_hand_in_one_connection_says_nothing_about_another():
    """A filter that joins two connections must not send along the way of the wrong one."""
    far = DataFilter()

    class Joint(DataFilter):
        def data_from_client(self, data):
            far.to_server.send(data)

    async with running(Joint(), ways=(OTHERS,)) as one, running(far, ways=(ENDS,)) as other:
        one.chain.deliver(UP, b"x", OTHERS)
        assert other.left == [(UP, b"x", ENDS)]
        assert not one.left
        other.ways.append(OTHERS)  # now it must say where to
        one.chain.deliver(UP, b"y", OTHERS)
        assert "BadContextError" in one.failures[0][0]
        assert len(other.left) == 1


@pytest.mark.parametrize(("max_waiting", "max_buffer", "kept"), [(3, 100, 3), (30, 10, 2)])
async def test_what_waits_for_a_coroutine_is_bounded_and_the_rest_is_lost(
    max_waiting, max_buffer, kept
):
    go = asyncio.Event()

    class Slow(DataFilter):
        async def data_from_client(self, data):
            await go.wait()
            self.to_server.send(data)

    slow = Slow()
    async with running(slow, max_waiting=max_waiting, max_buffer=max_buffer) as made:
        for number in range(10):
            made.chain.deliver(UP, b"%04d" % number, ENDS)
            made.chain.deliver(DOWN, b"%04d" % number, ENDS)
        assert made.chain.dropped == 10 - 1 - kept
        assert [data for way, data, _ in made.left] == [b"%04d" % n for n in range(10)]
        made.left.clear()
        go.set()
        await eventually(lambda: len(made.left) == 1 + kept)
        assert made.left == [(UP, b"%04d" % number, ENDS) for number in range(1 + kept)]
        made.chain.deliver(UP, b"more", ENDS)
        await eventually(lambda: len(made.left) == 2 + kept)


async def test_pending_tells_what_waits_at_the_next_filter():
    class Slow(DataFilter):
        async def data_from_client(self, data):
            await asyncio.Event().wait()

    first = DataFilter()
    async with running(first, Slow()) as made:
        for data in (b"handled", b"ab", b"cde"):
            made.chain.deliver(UP, data, ENDS)
        assert first.to_server.pending == 5
        assert first.to_client.pending == 0


class Fault(DataFilter):
    def data_from_client(self, data):
        raise ValueError("a fault")


class LaterFault(DataFilter):
    async def data_from_client(self, data):
        await asyncio.sleep(0)
        raise ValueError("a fault")


class Cancelled(DataFilter):
    async def data_from_client(self, data):
        raise asyncio.CancelledError


class FaultAtTheStart(DataFilter):
    def set_sockets(self, internal, external, connection, context):
        raise ValueError("a fault")


@pytest.mark.parametrize("kind", [Fault, LaterFault, Cancelled, FaultAtTheStart])
async def test_a_filter_that_fails_ends_the_connection_and_nothing_passes(kind):
    let_go = []

    class Before(DataFilter):
        def detach(self):
            let_go.append(self)

    async with running(Before(), kind(), Before()) as made:
        made.chain.deliver(UP, b"x", ENDS)
        reason, error = await made.ended()
        assert reason.startswith(f"filter {kind.__name__} failed: ")
        assert isinstance(error, ValueError | asyncio.CancelledError)
        made.chain.deliver(UP, b"y", ENDS)
        assert not made.left
        assert len(let_go) == 2
        assert len(made.failures) == 1


async def test_a_filter_that_hangs_ends_the_connection():
    class Hang(DataFilter):
        async def data_from_server(self, data):
            await asyncio.Event().wait()

    async with running(Hang(), filter_timeout=5) as made:
        made.chain.deliver(DOWN, b"x", ENDS)
        made.time_passes(4)
        assert not made.failures
        made.time_passes(2)
        reason, error = await made.ended()
        assert "took too long" in reason
        assert isinstance(error, TimeoutError)


async def test_a_filter_may_abort_the_connection():
    each = DataFilter()
    async with running(each) as made:
        each.to_client.abort()
        assert made.failures == [("aborted by a filter", None)]
        each.to_client.abort()
        each.to_client.send(b"x")
        assert not made.left
        assert len(made.failures) == 1


async def test_a_handler_may_end_everything_and_return_work_that_is_never_done():
    started = []

    async def work():
        started.append(1)
        await asyncio.Event().wait()

    class Ends_(DataFilter):  # noqa: N801 - it ends it
        def data_from_client(self, data):
            made.chain.close()
            return asyncio.ensure_future(work())

    async with running(Ends_()) as made:
        made.chain.deliver(UP, b"x", ENDS)
        await turns()
        assert len(made.chain.deadlines) == 0


async def test_a_filter_that_fails_to_let_go_is_reported_and_the_others_are_let_go():
    let_go = []

    class Clings(DataFilter):
        def detach(self):
            let_go.append(self)
            raise ValueError("a fault")

    async with running(Clings(), Clings()) as made:
        made.chain.close()
        made.chain.close()
        assert len(let_go) == 2
        assert len(made.faults) == 2


async def test_nothing_is_behind_the_filter_that_plays_the_server():
    class Player(DataFilter):
        def data_from_client(self, data):
            with pytest.raises(BadContextError):
                self.to_server.send(data)
            self.to_client.send(b"played " + data)

    async with running(Tag(), Player(), emulated=True) as made:
        made.chain.deliver(UP, b"x", ENDS)
        assert made.left == [(DOWN, b"t(played t(x))", ENDS)]


async def test_filters_that_come_later_take_their_places_and_nothing_is_lost():
    slow, go = [], asyncio.Event()

    class Slow(Tag):
        async def data_from_client(self, data):
            await go.wait()
            super().data_from_client(data)

        def set_sockets(self, *args):
            slow.append(self)
            super().set_sockets(*args)

    middle, first, last = Slow(b"m"), Tag(b"f"), Tag(b"l")
    async with running(middle) as made:
        made.chain.deliver(UP, b"x", ENDS)
        made.chain.deliver(UP, b"y", ENDS)
        made.chain.set_filters([(first, "f"), (middle, "m"), (last, "l")])
        assert slow == [middle]  # only once
        assert (first.context, last.context) == ("f", "l")
        made.chain.deliver(UP, b"z", ENDS)
        go.set()
        await eventually(lambda: len(made.left) == 3)
        assert [data for _, data, _ in made.left] == [b"l(m(x))", b"l(m(y))", b"l(m(f(z)))"]


async def test_a_filter_may_speak_when_it_gets_its_sides():
    class Hello(Tag):
        def set_sockets(self, internal, external, connection, context):
            super().set_sockets(internal, external, connection, context)
            external.send_to(b"hello from " + self.name, ENDS)

    async with running(Hello(b"a"), Hello(b"b")) as made:
        assert made.left == [(UP, b"hello from b", ENDS), (UP, b"b(hello from a)", ENDS)]


DATAGRAMS = st.lists(st.tuples(st.sampled_from(list(Way)), st.binary(max_size=9)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(DATAGRAMS, st.lists(st.sampled_from([Tag, LaterTag]), min_size=1, max_size=4))
def test_every_datagram_comes_out_once_whole_and_in_order(datagrams, kinds):
    async def main():
        deadlines = Deadlines(asyncio.get_running_loop().time)
        made = make_chain(
            deadlines, *(kind(b"%d" % n) for n, kind in enumerate(kinds)), max_waiting=100,
            max_buffer=10_000,
        )  # fmt: skip
        for way, data in datagrams:
            made.chain.deliver(way, data, ENDS)
        await eventually(lambda: len(made.left) == len(datagrams))
        made.chain.close()
        await turns()
        for way in Way:
            expected = [data for there, data in datagrams if there is way]
            order = range(len(kinds)) if way is UP else reversed(range(len(kinds)))
            for number in order:
                expected = [b"%d(%b)" % (number, data) for data in expected]
            assert [data for there, data, _ in made.left if there is way] == expected
        assert len(deadlines) == 0

    asyncio.run(main())
