"""Log lines for people and for machines, and that writing them never disturbs anybody."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from fwproxy import log
from fwproxy.address import Endpoint
from fwproxy.config.config import LogConfig

Level = Literal["debug", "info", "warning", "error"]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Undo what `configure` does to the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class BrokenFile(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(
    style: Literal["console", "json"], level: Level = "info", stream: io.StringIO | None = None
) -> io.StringIO:
    stream = stream or io.StringIO()
    log.configure(LogConfig(style, level), stream)
    return stream


def test_json_has_one_object_a_line_with_time_level_and_event_first() -> None:
    stream = configured("json")
    logger = log.get_logger(session=7).bind(listener="ftp")
    logger.info("opened", client=Endpoint("10.0.0.8", 1553), bytes=12, ok=True, none=None, f=0.5)
    logger.warning('odd "text"\n\x1b[2J', parts=[1, {"a": Endpoint("::1", 2)}])
    first, second = json_lines(stream)
    assert list(first)[:3] == ["time", "level", "event"]
    time = datetime.fromisoformat(first.pop("time"))
    assert timedelta() <= datetime.now(UTC) - time < timedelta(seconds=60)
    assert first == {
        "level": "info",
        "event": "opened",
        "session": 7,
        "listener": "ftp",
        "client": "10.0.0.8:1553",
        "bytes": 12,
        "ok": True,
        "none": None,
        "f": 0.5,
    }
    assert second["event"] == 'odd "text"\n\x1b[2J'
    assert second["parts"] == [1, {"a": "[::1]:2"}]
    assert second["level"] == "warning"


def test_json_time_is_utc_with_milliseconds() -> None:
    stream = configured("json")
    log.get_logger().info("x")
    assert re.search(r'"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"', stream.getvalue())


def test_names_of_files_that_are_not_unicode_are_kept_as_escapes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        log.configure(LogConfig("json"), file)
        log.get_logger().info("name", file=b"caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape"))
    assert json.loads(path.read_bytes())["file"] == "caf\udce9 é"


def test_console_is_one_line_without_anything_a_terminal_obeys() -> None:
    stream = configured("console")
    log.get_logger(session=7).info("opened", name="a b\x1b[2J\n", empty="", quote='a"b')
    [line] = stream.getvalue().splitlines()
    assert line.endswith(r'info    opened session=7 name="a b\x1b[2J\n" empty="" quote="a\"b"')
    assert "\x1b" not in line


def test_console_has_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = configured("console", stream=Terminal())
    log.get_logger().error("broken")
    assert "\x1b[31merror" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    stream = configured("console", stream=Terminal())
    log.get_logger().error("broken")
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("style", ["console", "json"])
def test_tracebacks(style: Literal["console", "json"]) -> None:
    stream = configured(style)
    log.get_logger().error("given", exc_info=ValueError("the cause"))
    try:
        int("the cause")
    except ValueError:
        log.get_logger().exception("current")
    assert "ValueError: the cause" in stream.getvalue()
    assert "ValueError: invalid literal" in stream.getvalue()
    if style == "json":
        assert "Traceback" in json_lines(stream)[1]["exception"]


def test_levels_below_the_configured_one_cost_no_line() -> None:
    stream = configured("json", "warning")
    log.get_logger().info("quiet")
    log.get_logger().debug("quiet")
    log.get_logger().warning("loud")
    assert [each["event"] for each in json_lines(stream)] == ["loud"]


def test_warnings_of_libraries_have_the_same_format() -> None:
    stream = configured("json", "debug")
    library = logging.getLogger("some.library")
    library.info("quiet %s", "x")
    library.warning("loud %s", "x")
    library.error("failed", exc_info=KeyError("k"))
    loud, failed = json_lines(stream)
    assert (loud["event"], loud["level"], loud["logger"]) == ("loud x", "warning", "some.library")
    assert failed["exception"].endswith("KeyError: 'k'")


def test_a_library_whose_arguments_do_not_fit_its_text_is_logged_all_the_same() -> None:
    stream = configured("json")
    root = logging.getLogger()
    [handler] = [each for each in root.handlers if type(each).__module__ == "fwproxy.log"]
    handler.handle(root.makeRecord("lib", logging.ERROR, "", 0, "%d", ("no number",), None))
    assert [each["event"] for each in json_lines(stream)] == ["%d"]


def test_configuring_twice_does_not_double_the_lines() -> None:
    first, second = configured("json"), configured("json")
    logging.getLogger("some.library").warning("once")
    assert first.getvalue() == ""
    assert len(json_lines(second)) == 1


def test_a_log_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    configured("json", stream=BrokenFile())
    log.get_logger().info("lost")
    with (tmp_path / "log").open("w") as file:
        log.configure(LogConfig("json"), file)
    log.get_logger().info("lost too: the file is closed")
    with Path("/dev/full").open("w") as full:
        log.configure(LogConfig("json"), full)
        log.get_logger().info("lost as well: the disk is full")


def test_importing_the_library_configures_nothing() -> None:
    assert not structlog.is_configured()
    assert "fwproxy.log" in sys.modules
    assert not any(type(each).__module__ == "fwproxy.log" for each in logging.getLogger().handlers)
