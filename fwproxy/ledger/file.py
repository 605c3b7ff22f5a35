"""The ledger as JSON lines in a file, written by a thread so that no disk can stop the proxy.

Lines wait in a queue with a bound. What does not fit there, and what the disk does not take, is
lost; how much is said in the log, and in the file itself when it can be written again.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

_MODE = 0o640
_GATHER = 0.05
"""Seconds that a line waits for others."""

_REPORT_EVERY = 10.0
"""Seconds between two reports of lost lines."""

_CLOSE_PATIENCE = 5.0
"""Seconds that the last lines get when the proxy stops: a hanging disk does not hang it."""


class LedgerFile:
    """One file that grows by a line for each permission that begins or has ended.

    Args:
        path: the file; what is in it stays.
        queue: how many lines may wait for the disk.
        report: is told how many lines were lost, and why, in the writer's thread.

    Raises:
        OSError: it cannot be opened; the message names it.
    """

    def __init__(self, path: str, queue: int, report: Callable[[int, str], None]) -> None:
        self.path = path
        self.run = uuid.uuid4().hex[:12]
        self._most = queue
        self._report = report
        self._fd = _open(path)
        self._lines: list[bytes] = []
        self._lost, self._lost_why = 0, ""
        self._unsaid = 0
        self._reported = -_REPORT_EVERY
        self._torn, self._cut = False, b""
        self._is_reopening = self._is_closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="fwproxy ledger", daemon=True)
        self._thread.start()

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Let a line be written soon."""
        line = {"time": _now(), "event": event, "run": self.run, **fields}
        with self._wake:
            if len(self._lines) >= self._most:
                self._lost += 1
                self._lost_why = "the queue is full (ledger.queue)"
                return
            self._lines.append(_encoded(line))
            if len(self._lines) == 1:
                self._wake.notify()

    def reopen(self) -> None:
        """Open the path anew before the next line."""
        with self._wake:
            self._is_reopening = True
            self._wake.notify()

    def finish(self) -> None:
        """Write what is left, and close the file; returns at once."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()

    def join(self) -> None:
        """Wait until that is done, unless it takes too long."""
        self._thread.join(_CLOSE_PATIENCE)

    def close(self) -> None:
        """Do both."""
        self.finish()
        self.join()

    # In the thread of the writer, from here on.

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._lines or self._is_reopening or self._is_closing):
                    self._wake.wait()
                # Those that come now are written together with the first one.
                self._wake.wait_for(lambda: self._is_closing or self._is_reopening, _GATHER)
                lines, self._lines = self._lines, []
                reopening, self._is_reopening = self._is_reopening, False
                closing = self._is_closing
            if reopening:
                self._reopen()
            self._write(lines)
            self._say_what_was_lost(at_once=closing)
            if closing and not self._lines:
                break
        os.close(self._fd)

    def _reopen(self) -> None:
        try:
            fd = _open(self.path)
        except OSError as error:
            self._report(0, str(error))
            return
        os.close(self._fd)
        self._fd, self._torn = fd, False

    def _write(self, lines: list[bytes]) -> None:
        """Write what the disk takes, in whole lines, and count the rest."""
        if not lines:
            return
        if self._unsaid and self._put(_encoded(self._loss())) is None:
            self._unsaid = 0
        error = self._put(b"".join(lines))
        if error is not None:
            with self._wake:
                self._lost += self._cut.count(b"\n")
                self._lost_why = f"{self.path}: {error.strerror}"

    def _loss(self) -> dict[str, object]:
        return {"time": _now(), "event": "lost", "run": self.run, "lines": self._unsaid}

    def _put(self, data: bytes) -> OSError | None:
        """Write *data*, after the end of a line that was cut off; what is not written is `_cut`."""
        view = memoryview(b"\n" * self._torn + data)
        done = 0
        try:
            while done < len(view):
                done += os.write(self._fd, view[done:])
        except OSError as error:
            if done:
                self._torn = view[done - 1] != ord("\n")
            self._cut = bytes(view[done:])
            return error
        self._torn = False
        return None

    def _say_what_was_lost(self, *, at_once: bool) -> None:
        now = time.monotonic()
        with self._wake:
            lost, why = self._lost, self._lost_why
            if not lost or (now - self._reported < _REPORT_EVERY and not at_once):
                return
            self._lost = 0
        self._unsaid += lost
        self._reported = now
        self._report(lost, why)


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, _MODE)  # does not wait for the reader of a pipe
    except OSError as error:
        raise OSError(error.errno, f"ledger file {path}: {error.strerror}") from error
    os.set_blocking(fd, True)
    return fd


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # half a surrogate pair in a peer's word
        sound = {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v
                 for k, v in line.items()}  # fmt: skip
        return orjson.dumps(sound, default=str, option=orjson.OPT_APPEND_NEWLINE)
