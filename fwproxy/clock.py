"""Time as an argument: deadlines that a clock drives, so that tests move it by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

RESOLUTION = 0.25
"""Seconds that a deadline may come late."""


class Deadline:
    """One moment in the future and what happens then.

    Moving it to later, as every idle time-out does all the time, only sets `when`.
    """

    __slots__ = ("_slot", "_wheel", "callback", "when")

    def __init__(self, wheel: Deadlines, when: float, callback: Callable[[], None]) -> None:
        self._wheel = wheel
        self.when = when
        self.callback = callback
        self._slot = -1

    def reset(self, when: float) -> None:
        """Move it; a cancelled deadline becomes live again."""
        self.when = when
        slot = int(when / RESOLUTION) + 1
        if self._slot < 0 or slot < self._slot:
            self._wheel.place(self, slot)

    def cancel(self) -> None:
        """Drop it; harmless when it has passed already."""
        if self._slot >= 0:
            self._wheel.remove(self)


class Deadlines:
    """A wheel of slots of `RESOLUTION` seconds: adding, moving and dropping cost the same always.

    `run_due(now)` calls what has come due. In a running proxy `start` makes the loop call it;
    a test calls it with whatever time it likes.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._slots: dict[int, set[Deadline]] = {}
        self._next_slot = int(now() / RESOLUTION)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def after(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        """Call *callback* once, *seconds* from now or up to `RESOLUTION` later."""
        when = self.now() + seconds
        deadline = Deadline(self, when, callback)
        self.place(deadline, int(when / RESOLUTION) + 1)
        return deadline

    def place(self, deadline: Deadline, slot: int) -> None:
        """Put a deadline into a slot, out of the one where it is."""
        if deadline._slot >= 0:  # noqa: SLF001 - the wheel and its deadlines are one thing
            self.remove(deadline)
        slot = max(slot, self._next_slot)
        deadline._slot = slot  # noqa: SLF001
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = {deadline}
        else:
            entries.add(deadline)

    def remove(self, deadline: Deadline) -> None:
        """Take a deadline out of its slot."""
        slot = deadline._slot  # noqa: SLF001
        deadline._slot = -1  # noqa: SLF001
        entries = self._slots[slot]
        entries.discard(deadline)
        if not entries:
            del self._slots[slot]

    def run_due(self, now: float) -> None:
        """Call everything that is due at *now*.

        Raises:
            ExceptionGroup: callbacks raised; all the others have been called.
        """
        current = int(now / RESOLUTION)
        if current - self._next_slot > len(self._slots):
            due = sorted(slot for slot in self._slots if slot <= current)
        else:
            due = [slot for slot in range(self._next_slot, current + 1) if slot in self._slots]
        self._next_slot = current + 1
        errors: list[Exception] = []
        for slot in due:
            self._run_slot(slot, now, errors)
        if errors:
            raise ExceptionGroup("deadlines failed", errors)

    def _run_slot(self, slot: int, now: float, errors: list[Exception]) -> None:
        for deadline in tuple(self._slots.get(slot, ())):
            if deadline._slot != slot:  # noqa: SLF001 - cancelled by one before it
                continue
            self.remove(deadline)
            if deadline.when > now:
                deadline.reset(deadline.when)
                continue
            try:
                deadline.callback()
            except Exception as error:  # noqa: BLE001 - one's own fault, not everybody's
                errors.append(error)

    def start(
        self, loop: asyncio.AbstractEventLoop, before: Callable[[], None] | None = None
    ) -> None:
        """Let the loop drive the wheel until `stop`.

        Args:
            loop: calls the wheel.
            before: called each time before anything is due. After the process was held up, what
                came in time has so been noticed before somebody takes it to be late.
        """

        def tick() -> None:
            self._timer = loop.call_later(RESOLUTION, tick)
            if before is not None:
                before()
            self.run_due(self.now())

        self._timer = loop.call_later(RESOLUTION, tick)

    def stop(self) -> None:
        """Take the wheel off the loop; what is not due stays undone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
