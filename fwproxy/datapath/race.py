"""Connecting to the one of a server's addresses that answers first ("happy eyeballs", RFC 8305)."""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Callable, Sequence

from fwproxy.address import Endpoint
from fwproxy.clock import Deadline, Deadlines
from fwproxy.datapath.dial import Dial
from fwproxy.datapath.poll import Poller

Won = Callable[[Endpoint, socket.socket | None, OSError | None], None]
"""Gets the target and its connected socket, or the last target and why there is no socket."""


def alternating(targets: Sequence[Endpoint]) -> list[Endpoint]:
    """Let the IP versions take turns, that of the first address first (RFC 8305 section 4)."""
    first = [each for each in targets if each.version == targets[0].version]
    rest = [each for each in targets if each.version != targets[0].version]
    pairs = itertools.zip_longest(first, rest)
    return [each for pair in pairs for each in pair if each is not None]


class Race:
    """One attempt to connect to several addresses.

    Each is tried when the one before it has failed, or has kept everybody waiting for a while.

    Args:
        poller: as for `Dial`.
        deadlines: for the delay.
        targets: the addresses, in the order to try them; one at least.
        source_of: where to leave from for a target, as for `Dial`.
        on_done: called exactly once, perhaps before the constructor returns, never after `cancel`.
        delay: seconds that an address has until the next one is tried as well.
        foreign: as for `Dial`.
    """

    __slots__ = (
        "_deadline", "_deadlines", "_delay", "_dials", "_foreign", "_on_done", "_poller",
        "_source_of", "_waiting", "is_done",
    )  # fmt: skip

    def __init__(
        self,
        poller: Poller,
        deadlines: Deadlines,
        targets: Sequence[Endpoint],
        source_of: Callable[[Endpoint], Endpoint | None],
        on_done: Won,
        *,
        delay: float,
        foreign: bool = False,
    ) -> None:
        self._poller = poller
        self._deadlines = deadlines
        self._waiting = deque(targets)
        self._source_of = source_of
        self._on_done = on_done
        self._delay = delay
        self._foreign = foreign
        self._dials: dict[Endpoint, Dial] = {}
        self._deadline: Deadline | None = None
        self.is_done = False
        self._try_next()

    def _try_next(self) -> None:
        """Begin with one more address."""
        self._stop_waiting()
        target = self._waiting.popleft()

        def dialled(sock: socket.socket | None, error: OSError | None) -> None:
            self._dials.pop(target, None)
            if sock is not None:
                self._end()
                self._on_done(target, sock, None)
            elif self._waiting:
                self._try_next()
            elif not self._dials:
                self._end()
                self._on_done(target, None, error)

        dial = Dial(self._poller, target, self._source_of(target), dialled, foreign=self._foreign)
        if dial.is_done:
            return
        self._dials[target] = dial
        if self._waiting:
            self._deadline = self._deadlines.after(self._delay, self._try_next)

    def cancel(self) -> None:
        """Give up; harmless when it is done."""
        self._end(abort=True)

    def _end(self, *, abort: bool = False) -> None:
        self.is_done = True
        self._stop_waiting()
        dials, self._dials = self._dials, {}
        for dial in dials.values():
            dial.cancel(abort=abort)

    def _stop_waiting(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()
