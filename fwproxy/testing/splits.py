"""The ways to cut an input into pieces: how a stream was cut must never change what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

from fwproxy.testing.outcome import Outcome
from fwproxy.testing.script import Script

_T = TypeVar("_T")


def every_split(data: bytes) -> Iterator[list[bytes]]:
    """Yield the whole, byte by byte, and every way to cut it in two."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(1, len(data)):
        yield [data[:i], data[i:]]


def assert_all_alike(do: Callable[[Sequence[bytes]], _T], splits: Iterable[Sequence[bytes]]) -> _T:
    """Do the same with each split; return what it leads to, which is the same for all.

    Raises:
        AssertionError: a split leads to something else; the message has the pieces.
    """
    first, *others = splits
    wanted = do(first)
    for pieces in others:
        found = do(pieces)
        assert found == wanted, (  # noqa: S101 - this is a test's own
            f"cut into {[bytes(piece) for piece in pieces]!r}:\n{found!r}\ninstead of\n{wanted!r}"
        )
    return wanted


def assert_splits_agree(
    make: Callable[[], Script],
    data: bytes,
    *,
    speaker: Literal["client", "server"] = "client",
    before: Callable[[Script], object] | None = None,
    after: Callable[[Script], object] | None = None,
    splits: Iterable[Sequence[bytes]] | None = None,
) -> Outcome:
    """Let one side say *data* in every split; return the outcome, which is the same for all.

    Args:
        make: makes a script with its client connected.
        data: what is said.
        speaker: who says it.
        before: does what has to come before.
        after: does what shall come after, such as the other side's answer.
        splits: the ways to cut; None is `every_split(data)`.

    Raises:
        AssertionError: bytes, calls, permissions or the state of an end depend on the cuts.
    """

    def say(pieces: Sequence[bytes]) -> Outcome:
        with make() as script:
            if before is not None:
                before(script)
            (script.client if speaker == "client" else script.server).send(*pieces)
            if after is not None:
                after(script)
            script.take_failures()  # they show in how the ends were left
            return script.outcome()

    return assert_all_alike(say, every_split(data) if splits is None else splits)
