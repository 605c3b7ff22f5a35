"""Logging: structlog set up for people or for machines. Only the command line calls `configure`.

The rest of the library takes loggers from `get_logger` and never configures, so that a program
that embeds fwproxy decides itself. Lines cost a few microseconds; one that cannot be written (a
full disk, a reader that went away) is dropped and never disturbs a session.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from fwproxy.config.config import LogConfig

_COLOURS = {
    "debug": "\x1b[2m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}
_RESET = "\x1b[0m"
_MOST_LINES = 256
"""Lines that may wait for the end of the loop's turn."""


def get_logger(**context: object) -> FilteringBoundLogger:
    """Return a logger, with *context* in each of its lines.

    Where nobody has configured structlog, lines go to the standard library's logger `fwproxy`,
    which says nothing below a warning until its host wants more.
    """
    if structlog.is_configured():
        return cast(FilteringBoundLogger, structlog.get_logger("fwproxy", **context))
    logger = structlog.wrap_logger(
        logging.getLogger("fwproxy"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast(FilteringBoundLogger, logger.bind(**context))


def configure(config: LogConfig, stream: IO[Any]) -> None:
    """Send the log of fwproxy, and warnings of the libraries it uses, to *stream*.

    Args:
        config: the format and the lowest level.
        stream: a text or binary file, such as `sys.stderr`; colours are for terminals.
    """
    writer = _Writer(stream)
    atexit.register(writer.flush)
    render = _json_renderer() if config.format == "json" else _console_renderer(_colourful(stream))
    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(config.level),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward(writer, render))
    root.setLevel(logging.WARNING)


def _colourful(stream: IO[Any]) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")


class _Writer:
    """What structlog calls a logger: writes rendered lines, unbuffered if that is possible.

    The lines of one turn of the event loop are written together at its end, since a system call
    for each is what a line costs most. Without a loop each is written at once.
    """

    def __init__(self, stream: IO[Any]) -> None:
        binary = getattr(stream, "buffer", stream)
        self._is_text = isinstance(binary, io.TextIOBase)
        self._file = getattr(binary, "raw", binary)
        self._lines: list[bytes] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        stream.flush()

    def msg(self, line: bytes) -> None:
        """Write *line* soon."""
        if self._lines and self._loop is not None and not self._loop.is_running():
            self.flush()  # the loop that was to write them has ended
        is_first = not self._lines
        self._lines.append(line)
        if is_first:  # one question, which is a system call, for all lines of a turn
            self._loop = asyncio._get_running_loop()  # noqa: SLF001 - as documented, or None
            if self._loop is not None:
                self._loop.call_soon(self.flush)
        if self._loop is None or len(self._lines) >= _MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what waits, or drop it when that is impossible."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        text = b"".join(lines)
        try:
            self._file.write(text.decode(errors="replace") if self._is_text else text)
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = exception = msg


_Renderer = Callable[[object, str, EventDict], bytes]
"""A processor of structlog, which makes a line for a logger, a level and an event."""


def _clock() -> Callable[[], str]:
    """Return a function that tells the time in UTC as ISO 8601 with milliseconds."""
    second, prefix = -1, ""

    def now() -> str:
        nonlocal second, prefix
        whole, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
        if whole != second:
            prefix = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            second = whole
        return f"{prefix}.{milliseconds:03d}Z"

    return now


def _json_renderer() -> _Renderer:
    now = _clock()

    def render(_: object, level: str, event: EventDict) -> bytes:
        if "exc_info" in event:
            _add_traceback(event)
        line = {"time": now(), "level": level, "event": event.pop("event", ""), **event}
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
        except orjson.JSONEncodeError:  # half a surrogate pair, a number of more than 64 bits
            return f"{json.dumps(line, default=str)}\n".encode("ascii")

    return render


def _console_renderer(colours: bool) -> _Renderer:  # noqa: FBT001 - one private caller
    now = _clock()

    def render(_: object, level: str, event: EventDict) -> bytes:
        if "exc_info" in event:
            _add_traceback(event)
        trace = event.pop("exception", "")
        colour, reset = (_COLOURS.get(level, ""), _RESET) if colours else ("", "")
        parts = [now(), f"{colour}{level:<7}{reset}", _plain(event.pop("event", ""))]
        parts += [f"{key}={_value(value)}" for key, value in event.items() if value is not None]
        lines = [" ".join(parts), *(f"    {_plain(row)}" for row in trace.splitlines())]
        return "".join(f"{row}\n" for row in lines).encode("utf-8", "backslashreplace")

    return render


def _plain(value: object) -> str:
    """Return the text with everything escaped that a terminal would obey."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _value(value: object) -> str:
    text = _plain(value)
    if text and " " not in text and '"' not in text:
        return text
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


def _add_traceback(event: EventDict) -> None:
    info = event.pop("exc_info", None)
    if info is None:
        return
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["exception"] = "".join(traceback.format_exception(error)).rstrip()


class _Forward(logging.Handler):
    """Takes what libraries log with the standard library's logging."""

    def __init__(self, writer: _Writer, render: _Renderer) -> None:
        super().__init__(logging.WARNING)
        self._writer = writer
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: EventDict = {"event": record.getMessage(), "logger": record.name}
        except (TypeError, ValueError):  # its arguments do not fit its text
            event = {"event": str(record.msg), "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        self._writer.msg(self._render(None, record.levelname.lower(), event))
