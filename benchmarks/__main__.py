"""``python -m benchmarks``: measure fwproxy beside HAProxy, nginx and no proxy at all."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import psutil
from rich.console import Console
from rich.markup import escape

from benchmarks.contenders import Contender, max_connections
from benchmarks.kernel import MEASUREMENTS as KERNEL_MEASUREMENTS
from benchmarks.measurements import MEASUREMENTS as RELAY_MEASUREMENTS
from benchmarks.measurements import (
    QUICK,
    WARM_CONNECTIONS,
    Measurement,
    Sample,
    Settings,
    Stage,
)
from benchmarks.processes import BenchError, raise_file_limit
from benchmarks.report import Result, as_json, environment, show
from benchmarks.ways import MEASUREMENTS as WAYS_MEASUREMENTS

MEASUREMENTS = (*RELAY_MEASUREMENTS, *WAYS_MEASUREMENTS, *KERNEL_MEASUREMENTS)
GROUPS = ("ways", "kernel")  # names that stand for all measurements that begin so

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Progress:
    """One line on standard error for each sample."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(f"[dim]{seconds:6.1f} s[/dim]  {escape(text)}")

    def sample(self, measurement: Measurement, at: str, contender: Contender, s: Sample) -> None:
        figures = ", ".join(
            f"{s[figure.key]:,.{figure.digits}f} {figure.label}"
            for figure in measurement.figures
            if figure.key in s
        )
        self.say(f"{measurement.name} {at} {contender.name}: {figures}")


def measure(stage: Stage, result: Result, progress: Progress) -> None:
    """All rounds of one measurement, the contenders taken in turn."""
    measurement = result.measurement
    for contender in measurement.contenders:
        reason = contender.missing()
        if reason is not None:
            result.absent[contender.name] = reason
            progress.say(f"{measurement.name}: without {contender.name}: {reason}")
    rounds = 1 if measurement.once else stage.settings.rounds
    for number in range(1, rounds + 1):
        for contender in measurement.contenders:
            if contender.name in result.absent:
                continue
            try:
                sample = measurement.sample(stage, contender)
            except BenchError as error:
                result.absent[contender.name] = str(error)
                progress.say(f"{measurement.name}: {contender.name} failed: {error}")
                continue
            result.samples.setdefault(contender.name, []).append(sample)
            progress.sample(measurement, f"{number}/{rounds}", contender, sample)


def arguments() -> argparse.Namespace:
    names = [measurement.name for measurement in MEASUREMENTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(
            "Measure fwproxy beside HAProxy, nginx, Dante and no proxy at all, on the loopback "
            "address; and its kernel path beside the kernel's own FTP helper, in network "
            "namespaces, as root. A contender that is not installed is left out and named. "
            "Nothing passes or fails: the aims are printed beside the figures."
        ),
        epilog=f"Measurements: {', '.join(names)}.",
    )
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds of each measurement")
    parser.add_argument("--idle", type=positive, metavar="N", help="idle connections (2000)")
    parser.add_argument(
        "--pinholes", type=positive, metavar="S", help="seconds of 200 pinholes each (10)"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, under a minute")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*names, *GROUPS],
        metavar="NAME",
        help="only this measurement, or kernel or ways for all of theirs; may be given several "
        "times",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there, too")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def settings_of(options: argparse.Namespace, progress: Progress) -> Settings:
    settings = QUICK if options.quick else Settings()
    if options.rounds is not None:
        settings = replace(settings, rounds=options.rounds)
    if options.idle is not None:
        settings = replace(settings, idle=options.idle)
    if options.pinholes is not None:
        settings = replace(settings, pinhole_seconds=options.pinholes)
    # A proxy needs two files for each connection, and the proxies some more for themselves.
    raise_file_limit(4 * (settings.idle + WARM_CONNECTIONS) + 20_000)
    most = max_connections() - WARM_CONNECTIONS - 50
    if settings.idle > most:
        progress.say(f"idle: {most} connections, more the limit of open files does not allow")
        settings = replace(settings, idle=most)
    return replace(settings, connects=min(settings.connects, most))


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Unwind once, so that every child is ended; let nothing disturb that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    options = arguments()
    for each in SIGNALS:
        signal.signal(each, interrupt)
    progress = Progress()
    wanted = options.only or [each.name for each in MEASUREMENTS]
    chosen = [m for m in MEASUREMENTS if {m.name, m.name.partition("-")[0]} & set(wanted)]
    results: list[Result] = []
    interrupted = False
    settings = settings_of(options, progress)
    facts = environment()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as workspace, ExitStack() as stack:
            stage = Stage(settings, Path(workspace), stack)
            for measurement in chosen:
                results.append(Result(measurement))
                measure(stage, results[-1], progress)
    except KeyboardInterrupt:
        interrupted = True
        progress.say("interrupted")
    finally:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    show(console, facts, results, settings)
    if options.json is not None:
        report = as_json(facts, results, settings)
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
