"""Filters made of line handlers: on their own under every split, and in a running proxy."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import attaching, open_world

from fwproxy import Connection, Handled
from fwproxy.config.config import Limits
from fwproxy.kit.line_filter import Line, LineFilter

LONGEST = 64
LINE = st.binary(max_size=LONGEST).map(
    lambda raw: bytes(byte for byte in raw if byte not in b"\r\n\0")
)
LINES = st.lists(st.tuples(LINE, st.sampled_from([b"\r\n", b"\n"])), max_size=20)
CUTS = st.lists(st.integers(0, 600), max_size=20)


class FakeConnection:
    """What a line filter asks of its connection."""

    def __init__(self) -> None:
        self.session = self
        self.engine = self
        self.limits = Limits(max_line_length=LONGEST)
        self.close_reason: str | None = None

    @property
    def is_closed(self) -> bool:
        return self.close_reason is not None

    def kill(self, reason: str) -> None:
        self.close_reason = reason


class Side:
    """Remembers what a filter sends to one of its sides."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.pending = 0

    def send(self, data: bytes, *, urgent: bool = False) -> None:
        assert not self.ended
        self.data += data

    def half_close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        raise AssertionError("nobody aborts")


class Bench:
    """A line filter between two sides that remember."""

    def __init__(self, line_filter: LineFilter) -> None:
        self.filter = line_filter
        self.client, self.server, self.connection = Side(), Side(), FakeConnection()
        line_filter.set_sockets(
            self.client, self.server, cast("Connection", self.connection), "context"
        )

    def feed(self, pieces: Iterable[bytes], sender: str = "client") -> None:
        """Feed everything, and then the end of the stream."""
        up = sender == "client"
        take = self.filter.data_from_client if up else self.filter.data_from_server
        end = self.filter.end_from_client if up else self.filter.end_from_server
        for piece in pieces:
            if not self.connection.is_closed:
                finish(take(piece))
        if not self.connection.is_closed:
            finish(end())


def finish(handled: Handled) -> None:
    """Run a handler's coroutine, which waits for nothing but the next turn of a loop."""
    if handled is not None:
        steps = cast("Coroutine[None, None, None]", handled)
        with contextlib.suppress(StopIteration):
            while True:
                steps.send(None)


def rewritten(line: bytes) -> Line:
    """What the filters below make of a line: they drop some and change others."""
    if line.startswith(b"drop"):
        return None
    return line[::-1] if len(line) % 2 else line


class Plain(LineFilter):
    def line_from_client(self, line: bytes) -> Line:
        return rewritten(line)

    def line_from_server(self, line: bytes) -> Line:
        return rewritten(line)


class Waiting(LineFilter):
    async def line_from_client(self, line: bytes) -> Line:
        await asyncio.sleep(0)
        return rewritten(line)

    async def line_from_server(self, line: bytes) -> Line:
        return rewritten(line)


class Mixed(Plain):
    """Handlers need not decide once and for all whether they are coroutines."""

    def line_from_client(self, line: bytes) -> Any:
        return rewritten(line) if len(line) % 3 else self._later(line)

    line_from_server = line_from_client

    async def _later(self, line: bytes) -> Line:
        await asyncio.sleep(0)
        return rewritten(line)


KINDS = (Plain, Waiting, Mixed)


def split(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return (data[a:b] for a, b in itertools.pairwise(bounds) if a < b)


def every_split(data: bytes) -> Iterator[list[bytes]]:
    """The whole, byte by byte, and every way to cut it in two."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(1, len(data)):
        yield [data[:i], data[i:]]


@given(st.sampled_from(KINDS), LINES, CUTS, st.sampled_from(["client", "server"]))
def test_segmentation_never_changes_meaning(
    kind: type[LineFilter], lines: list[tuple[bytes, bytes]], cuts: list[int], sender: str
) -> None:
    bench = Bench(kind())
    bench.feed(split(b"".join(line + end for line, end in lines), cuts), sender)
    made = [(rewritten(line), end) for line, end in lines]
    wanted = b"".join(line + end for line, end in made if line is not None)
    far, near = bench.server, bench.client
    if sender == "server":
        far, near = near, far
    assert (far.data, far.ended) == (wanted, True)
    assert (near.data, near.ended) == (b"", False)
    assert bench.connection.close_reason is None


FAULTS = [
    (b"good\r\n" + b"x" * 65 + b"\r\nlate\r\n", "a line is longer than max_line_length, 64 bytes"),
    (b"good\r\n" + b"x" * 200, "a line is longer than max_line_length, 64 bytes"),
    (b"good\r\nb\0d\r\nlate\r\n", "a line holds a NUL"),
    (b"good\r\nb\rd\r\nlate\r\n", "a line holds a bare CR"),
    (b"good\r\nnot ended", "the stream ends inside a line"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("data", "problem"), FAULTS, ids=[problem for _, problem in FAULTS])
@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_fault_ends_the_connection_where_it_is(
    kind: type[LineFilter], data: bytes, problem: str, sender: str
) -> None:
    for pieces in every_split(data):
        bench = Bench(kind())
        bench.feed(pieces, sender)
        far = bench.server if sender == "client" else bench.client
        assert (far.data, far.ended) == (b"good\r\n", False)
        assert bench.connection.close_reason == f"{problem} (from the {sender})"


def test_a_bare_lf_can_be_refused() -> None:
    class Strict(LineFilter):
        accept_lf = False

    for pieces in every_split(b"good\r\nb\nd\r\n"):
        bench = Bench(Strict())
        bench.feed(pieces)
        assert bench.server.data == b"good\r\n"
        assert bench.connection.close_reason == "a line holds a bare LF (from the client)"


def test_without_handlers_every_line_passes() -> None:
    bench = Bench(LineFilter())
    bench.feed([b"A\r\n", b"B\n\r\n"])
    bench.feed([b"C\n"], "server")
    assert (bench.server.data, bench.client.data) == (b"A\r\nB\n\r\n", b"C\n")
    assert bench.filter.context == "context"


@pytest.mark.parametrize("made", [b"one\r\ntwo", b"one\ntwo", b"one\rtwo", b"one\r\n"])
@pytest.mark.parametrize("kind", [Plain, Waiting])
def test_a_handler_cannot_make_more_than_one_line(kind: type[LineFilter], made: bytes) -> None:
    class Careless(kind):  # type: ignore[valid-type, misc]
        def line_from_client(self, line: bytes) -> Line:
            return made

    with pytest.raises(Exception, match="more than one line"):
        Bench(Careless()).feed([b"line\r\n"])


def test_a_handler_sees_the_line_as_it_is() -> None:
    class Seeing(LineFilter):
        def line_from_client(self, line: bytes) -> Line:
            return b"<%b>" % line

    bench = Bench(Seeing())
    bench.feed([b" a \t\r\n", b"\n", b"b\x0b \n"])
    assert bench.server.data == b"< a \t>\r\n<>\n<b\x0b >\n"


def test_a_handler_can_answer_by_itself() -> None:
    class Answering(LineFilter):
        def line_from_client(self, line: bytes) -> Line:
            if line != b"PING":
                return line
            self.to_client.send(b"PONG\r\n")
            return None

    bench = Bench(Answering())
    bench.feed([b"PING\r\nGET\r\n"])
    assert (bench.server.data, bench.client.data) == (b"GET\r\n", b"PONG\r\n")


class Upper(LineFilter):
    async def line_from_client(self, line: bytes) -> Line:
        return line.upper()


async def test_ten_thousand_lines_at_once() -> None:
    async with open_world(attaching(Upper)) as world:
        primary = await world.primary()
        sending = asyncio.ensure_future(primary.client.send(b"a\n" * 10_000))
        assert await primary.server.read(20_000) == b"A\n" * 10_000
        await sending
        primary.client.half_close()
        assert await primary.server.receive() == b""
        await primary.server.send(b"bye\r\n")
        primary.server.half_close()
        assert await primary.client.read_all() == b"bye\r\n"
        await world.ended()


async def test_a_peer_at_fault_is_cut_off_without_a_traceback() -> None:
    async with open_world(attaching(Upper)) as world:
        primary = await world.primary()
        connection = primary.connection
        await primary.client.send(b"good\r\n")
        assert await primary.server.read(6) == b"GOOD\r\n"
        await primary.client.send(b"b\0d\r\n")
        assert await primary.client.is_cut_off()
        assert await primary.server.is_cut_off()
        await world.ended()
        assert connection.close_reason == "a line holds a NUL (from the client)"


class Killing(LineFilter):
    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def line_from_client(self, line: bytes) -> Line:
        self.seen.append(line)
        self.connection.kill()
        return line


async def test_after_a_kill_no_further_line_is_handled() -> None:
    killing = Killing()
    async with open_world(attaching(lambda: killing)) as world:
        primary = await world.primary()
        connection = primary.connection
        await primary.client.send(b"first\r\nlate\r\n")
        assert await primary.server.is_cut_off()
        await world.ended()
        assert connection.close_reason == "killed"
        assert killing.seen == [b"first"]


class Raising(LineFilter):
    def line_from_server(self, line: bytes) -> Line:
        raise LookupError(line.decode())


async def test_a_handler_that_raises_ends_the_connection() -> None:
    async with open_world(attaching(Raising)) as world:
        primary = await world.primary()
        connection = primary.connection
        await primary.server.send(b"secret\r\n")
        assert await primary.client.is_cut_off()
        await world.ended()
        assert connection.close_reason == "filter Raising failed: LookupError: secret"
