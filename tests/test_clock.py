"""Deadlines against a model, with a clock moved by hand."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import eventually

from fwproxy.clock import RESOLUTION, Deadlines


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def called_by(clock: Clock, deadlines: Deadlines, now: float) -> None:
    clock.now = now
    deadlines.run_due(now)


SECONDS = st.floats(0, 12, allow_nan=False) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
STEP = st.one_of(
    st.tuples(st.just("after"), SECONDS),
    st.tuples(st.just("reset"), st.integers(0, 9), SECONDS),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("pass"), SECONDS),
)


@given(st.lists(STEP, max_size=40))
def test_deadlines_come_once_never_early_and_at_most_the_resolution_late(steps):
    clock = Clock()
    deadlines = Deadlines(clock)
    made, due, called = [], {}, []
    for step, *values in steps:
        if step == "after":
            number = len(made)
            made.append(deadlines.after(values[0], lambda number=number: called.append(number)))
            due[number] = clock.now + values[0]
        elif step == "pass":
            before = len(called)
            called_by(clock, deadlines, clock.now + values[0])
            for number in called[before:]:
                assert due.pop(number) <= clock.now
            assert all(when > clock.now - RESOLUTION for when in due.values())
        elif values[0] < len(made):
            number = values[0]
            if step == "cancel":
                made[number].cancel()
                due.pop(number, None)
            else:
                made[number].reset(clock.now + values[1])
                due[number] = clock.now + values[1]
        assert len(deadlines) == len(due)
    called_by(clock, deadlines, clock.now + 13 + RESOLUTION)
    assert len(deadlines) == 0


def test_a_deadline_may_set_another_and_drop_its_neighbours():
    clock = Clock()
    deadlines, called = Deadlines(clock), []

    def first() -> None:
        called.append("first")
        deadlines.after(0, lambda: called.append("second"))
        for each in both:
            each.cancel()

    both = [deadlines.after(1, first), deadlines.after(1, first)]
    called_by(clock, deadlines, 1002)
    assert called == ["first"]
    called_by(clock, deadlines, 1003)
    assert called == ["first", "second"]
    assert len(deadlines) == 0


def test_a_deadline_can_be_set_anew_after_its_time():
    clock = Clock()
    deadlines, called = Deadlines(clock), []
    deadline = deadlines.after(1, lambda: called.append(clock.now))
    called_by(clock, deadlines, 1002)
    deadline.reset(1005)
    called_by(clock, deadlines, 1004)
    called_by(clock, deadlines, 1006)
    assert called == [1002, 1006]
    deadline.cancel()
    deadline.cancel()


def test_a_deadline_that_fails_takes_no_other_with_it():
    clock = Clock()
    deadlines, called = Deadlines(clock), []

    def fail() -> None:
        raise ValueError("a fault")

    for seconds in (1, 1, 2):
        deadlines.after(seconds, fail)
        deadlines.after(seconds, lambda: called.append(clock.now))
    with pytest.raises(ExceptionGroup) as caught:
        called_by(clock, deadlines, 1005)
    assert len(caught.value.exceptions) == 3
    assert called == [1005] * 3
    assert len(deadlines) == 0


async def test_the_loop_drives_the_wheel_until_it_is_stopped():
    loop = asyncio.get_running_loop()
    deadlines, called = Deadlines(loop.time), []
    deadlines.start(loop)
    deadlines.after(0.01, lambda: called.append("due"))
    await eventually(lambda: called)
    deadlines.after(0, lambda: called.append("never"))
    deadlines.stop()
    deadlines.stop()
    await asyncio.sleep(RESOLUTION * 1.5)
    assert called == ["due"]


async def test_somebody_may_look_before_anything_is_due():
    loop = asyncio.get_running_loop()
    deadlines, done = Deadlines(loop.time), []
    due = deadlines.after(0, lambda: done.append("due"))
    deadlines.start(loop, lambda: (done.append("looked"), due.cancel()))
    await eventually(lambda: done)
    deadlines.stop()
    assert done == ["looked"]


async def test_a_fault_is_reported_to_the_loop_and_the_wheel_turns_on():
    loop = asyncio.get_running_loop()
    deadlines, called, faults = Deadlines(loop.time), [], []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))

    def fail() -> None:
        raise ValueError("a fault")

    deadlines.start(loop)
    deadlines.after(0, fail)
    deadlines.after(RESOLUTION, lambda: called.append("due"))
    await eventually(lambda: called)
    deadlines.stop()
    assert [type(fault) for fault in faults] == [ExceptionGroup]
