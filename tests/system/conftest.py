"""Fixtures for the system tests, and the table of combinations at the end of a run."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .client_kind import Client
from .kernel_gateway import Site, forwarding_network, with_server
from .matrix import Combination, Samples, Workspace
from .namespaces import Network, missing, network
from .place import Place, place_for
from .processes import find_program
from .server_kind import FTPServer, ServerKind
from .table import print_table
from .terms import LOOPBACK, Family
from .ways import by_dante

StartServer = Callable[[type[ServerKind], Family], FTPServer]
SkipIfMissing = Callable[[type[ServerKind], type[Client]], None]
RecordCombination = Callable[..., None]  # see record_combination


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in this directory as a system test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.system)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which combinations passed."""
    print_table(terminalreporter)


@pytest.fixture(scope="session")
def samples() -> Iterator[Samples]:
    """The files that all servers serve; not below pytest's directory, which only root may enter."""
    root = Path(tempfile.mkdtemp(prefix="fwproxy-samples-"))
    try:
        yield Samples.create(root)
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def start_server(samples: Samples) -> Iterator[StartServer]:
    """A function that gives the one server of a kind and IP version on loopback."""
    running: dict[tuple[type[ServerKind], Family], FTPServer] = {}
    with contextlib.ExitStack() as stack:

        def start(kind: type[ServerKind], family: Family) -> FTPServer:
            if (kind, family) not in running:
                server = stack.enter_context(kind.start(samples.root, LOOPBACK[family]))
                running[kind, family] = server
            return running[kind, family]

        yield start


@pytest.fixture
def workspace(samples: Samples) -> Iterator[Workspace]:
    """The samples and an empty directory, removed afterwards with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="fwproxy-local-") as name:
        yield Workspace(samples, Path(name))


@pytest.fixture(scope="session")
def needs_network() -> None:
    """Skip where namespaces cannot be made."""
    if lack := missing():
        pytest.skip(f"network namespaces need {lack}")


@pytest.fixture(scope="module")
def net(needs_network: None) -> Iterator[Network]:
    """A client, a proxy and a server, each in a network namespace; tests leave it as it is."""
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def place(needs_network: None, samples: Samples) -> Iterator[Place]:
    """A proxy whose clients ask it for servers, and servers that they have no route to."""
    with place_for(samples) as made:
        yield made


@pytest.fixture
def socksify(place: Place, tmp_path: Path) -> tuple[str, ...]:
    """The command that puts Dante's client library before a program's own sockets."""
    if find_program("socksify") is None:
        pytest.skip("package missing: dante-client")
    return by_dante(place.door("socks"), tmp_path)


@pytest.fixture
def skip_if_missing() -> SkipIfMissing:
    """A function that skips unless a server and a client are installed."""

    def skip(server: type[ServerKind], client: type[Client]) -> None:
        for lack in (server.missing(), client.missing()):
            if lack:
                pytest.skip(f"package missing: {lack}")

    return skip


@pytest.fixture
def record_combination(
    record_property: Callable[[str, object], None], skip_if_missing: SkipIfMissing
) -> RecordCombination:
    """A function that enters the test in the table; it skips where a package is missing.

    It also does where *on_this_host*, outside of any namespace, something hinders the client.
    """

    def record(suite: str, combination: Combination, *, on_this_host: bool = False) -> None:
        label = combination.build_client().label
        cell = [suite, label, combination.server.name, combination.mode, combination.families]
        record_property("combination", [str(word) for word in cell])
        skip_if_missing(combination.server, combination.client)
        hindrance = combination.client.hindrance(combination.client_family)
        if on_this_host and hindrance:
            pytest.skip(hindrance)

    return record


@pytest.fixture(scope="module")
def site(samples: Samples, needs_network: None) -> Iterator[Site]:
    """A host that forwards, and counts what it forwards."""
    with forwarding_network() as net, with_server(net, samples) as found:
        yield found
