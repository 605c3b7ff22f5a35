"""The table of combinations that a run prints at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import pytest

# Suite, client, server, mode, families.
Cell: TypeAlias = tuple[str, str, str, str, str]

MARKS = {"passed": "ok", "failed": "FAIL", "error": "FAIL", "skipped": "skip"}
UNSUPPORTED = "."
WIDTH = 5


def print_table(reporter: pytest.TerminalReporter) -> None:
    """Print a table for every suite and mode, clients against servers and families."""
    results = dict(_results(reporter))
    for suite, mode in _distinct((suite, mode) for suite, _, _, mode, _ in results):
        reporter.write_sep("-", f"{suite}, {mode} mode")
        cells = {
            (client, server, families): mark
            for (of_suite, client, server, of_mode, families), mark in results.items()
            if (of_suite, of_mode) == (suite, mode)
        }
        for line in _lines(cells):
            reporter.write_line(line)


def _results(reporter: pytest.TerminalReporter) -> Iterator[tuple[Cell, str]]:
    # Workers of pytest-xdist send their reports here, and with them the recorded properties.
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            for key, value in getattr(report, "user_properties", ()):  # not where collecting failed
                if key == "combination":
                    suite, client, server, mode, families = value
                    yield (suite, client, server, mode, families), MARKS[outcome]


def _lines(cells: dict[tuple[str, str, str], str]) -> Iterator[str]:
    clients = sorted({client for client, _, _ in cells})
    servers = sorted({server for _, server, _ in cells})
    families = sorted({pair for _, _, pair in cells}, key=_same_first)
    first = max(map(len, clients)) + 1
    group = max(WIDTH * len(families), *(len(server) + 1 for server in servers))
    yield " " * first + "".join(f" {server:<{group}}" for server in servers)
    pairs = "".join(f"{pair:<{WIDTH}}" for pair in families)
    yield " " * first + f" {pairs:<{group}}" * len(servers)
    for client in clients:
        line = f"{client:<{first}}"
        for server in servers:
            marks = (cells.get((client, server, pair), UNSUPPORTED) for pair in families)
            row = "".join(f"{mark:<{WIDTH}}" for mark in marks)
            line += f" {row:<{group}}"
        yield line.rstrip()


def _same_first(pair: str) -> tuple[bool, str]:
    client, _, server = pair.partition("-")
    return client != server, pair


def _distinct(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(set(pairs), key=lambda pair: (pair[0], pair[1] != "passive"))
