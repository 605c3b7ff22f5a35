"""Prints the table of ways in that README.md has: `python tests/shown.py`.

It is made of the tests that are marked with what they show (`tests.system.ways.shows`), so that
there is nothing in it that is not tried. `test_readme.py` compares.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import defaultdict
from pathlib import Path

import pytest

WAYS = {
    "forward": "`forward`",
    "published": "the same, published",
    "gateway": "`gateway`",
    "gateway with users": "the same, with users",
    "redirect": "`redirect`",
    "tproxy": "`tproxy`",
    "SOCKS 4": "SOCKS 4",
    "SOCKS 4a": "SOCKS 4a",
    "SOCKS 5": "SOCKS 5",
    "HTTP": "CONNECT",
    "behind HAProxy": "behind HAProxy",
}
"""The columns, and their titles."""
PROTOCOLS = ("FTP", "HTTP", "HTTPS", "SSH", "TCP", "DNS", "UDP")


class Collector:
    """Notes what collected tests show: protocols by client and way."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for mark in item.iter_markers("shows"):
                assert mark.kwargs["way"] in WAYS, item.nodeid
                assert mark.kwargs["protocol"] in PROTOCOLS, item.nodeid
                self.cells[client_of(item, mark)][mark.kwargs["way"]].add(mark.kwargs["protocol"])


def client_of(item: pytest.Item, mark: pytest.Mark) -> str:
    client: str = mark.kwargs["client"] or "{client}"
    if "{client}" not in client:
        return client
    parameters = item.callspec.params  # type: ignore[attr-defined]  # only functions are marked
    case = parameters.get("case") or parameters.get("combination")
    kind = case.client if case else parameters["client_kind"]
    return client.format(client=kind.name)


def table() -> str:
    """Collect the system tests, and make the table of what they show."""
    collector = Collector()
    directory = Path(__file__).parent / "system"
    args = ["--collect-only", "--quiet", "-p", "no:cacheprovider", str(directory)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(args, plugins=[collector])
    assert code == pytest.ExitCode.OK, said.getvalue()
    rows = [["client", *WAYS.values()], ["---"] * (len(WAYS) + 1)]
    for client, cells in sorted(collector.cells.items(), key=lambda item: item[0].lower()):
        found = [", ".join(each for each in PROTOCOLS if each in cells[way]) for way in WAYS]
        rows.append([client, *found])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(table())
