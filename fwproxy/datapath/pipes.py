"""A bounded pool of pipes for splice(2).

Big pipes count against a limit per user (`fs.pipe-user-pages-soft`), so a stream takes one only
while it is bulky, gives it back as soon as it is empty, and copies through a buffer without one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)


class Pipe:
    """Two descriptors with `level` of up to `size` bytes in between, `moved` since it was taken."""

    __slots__ = ("level", "moved", "reader", "size", "writer")

    def __init__(self, size: int) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.level = 0
        self.moved = 0
        try:
            self.size: int = fcntl.fcntl(self.writer, F_SETPIPE_SZ, size)
        except OSError:  # over the user's limit (pipe(7)): what pipe2 gave must do
            self.size = fcntl.fcntl(self.writer, getattr(fcntl, "F_GETPIPE_SZ", 1032))

    def close(self) -> None:
        """Close both ends; what is inside is lost."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """At most `max_pipes` pipes, in use and spare together."""

    def __init__(self, max_pipes: int, size: int, max_spare: int = 16) -> None:
        self._max_pipes = max_pipes
        self._max_spare = max_spare
        self._size = size
        self._spare: list[Pipe] = []
        self.in_use = 0

    def take(self) -> Pipe | None:
        """Return an empty pipe, or None when the pool or the descriptors are used up."""
        if self.in_use >= self._max_pipes:
            return None
        pipe: Pipe | None = self._spare.pop() if self._spare else None
        if pipe is None:
            with contextlib.suppress(OSError):
                pipe = Pipe(self._size)
        if pipe is not None:
            self.in_use += 1
            pipe.moved = 0
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take a pipe back; one that still holds bytes is closed with them."""
        self.in_use -= 1
        if pipe.level or len(self._spare) >= self._max_spare:
            pipe.close()
        else:
            self._spare.append(pipe)

    def close(self) -> None:
        """Close the spare pipes."""
        while self._spare:
            self._spare.pop().close()
