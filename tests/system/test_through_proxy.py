"""Every client with every server through the proxy, in every mode and mixture of IP versions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import RecordCombination, StartServer
from .ftp_servers import SERVERS
from .matrix import (
    ALL_FAMILIES,
    MEDIUM,
    NCFTP_NEEDS_SIZE,
    ONE_MIB,
    SMALL_SIZES,
    WGET_LISTS_WITH_OPTION,
    Combination,
    Workspace,
    combinations,
    exercise,
)
from .proxy import Line, Listener, Proxy, running_proxy
from .server_kind import ServerKind
from .terms import LOOPBACK, Family, Operation
from .ways import shows

# The proxy mends the others: it never sends EPSV with a protocol, nor EPRT without an address.
REFUSALS = (WGET_LISTS_WITH_OPTION, NCFTP_NEEDS_SIZE)
FAMILIES: tuple[Family, ...] = (4, 6)
DATA_CONNECTIONS = {
    Operation.LIST: 1,
    Operation.FETCH: 2,
    Operation.RESUME: 1,
    Operation.STORE: 2,
    Operation.FETCH_MANY: len(SMALL_SIZES),
}


def listener_name(server: type[ServerKind], server_family: Family, client_family: Family) -> str:
    return f"{server.name}-{client_family}-{server_family}"


@pytest.fixture(scope="module")
def proxy(start_server: StartServer) -> Iterator[Proxy]:
    """The one proxy of this process, with a listener for each server and IP version."""
    listeners = [
        Listener(listener_name(kind, family, client), LOOPBACK[client], start_server(kind, family))
        for kind in SERVERS
        if not kind.missing()
        for family in sorted(kind.families)
        for client in FAMILIES
    ]
    with running_proxy(listeners) as proxy:
        yield proxy
        proxy.finish()


@shows("forward", "FTP")
@pytest.mark.parametrize("combination", list(combinations(ALL_FAMILIES, REFUSALS)), ids=str)
def test_client_and_server_meet_in_the_proxy(
    combination: Combination,
    start_server: StartServer,
    proxy: Proxy,
    workspace: Workspace,
    record_combination: RecordCombination,
) -> None:
    record_combination("proxy", combination, on_this_host=True)
    kind, family = combination.server, combination.server_family
    listener = listener_name(kind, family, combination.client_family)
    target = proxy.target(listener, start_server(kind, family))
    start = len(proxy.lines())
    exercise(combination.build_client(), target, workspace, combination.operations(REFUSALS))
    proxy.await_rest()
    check_log(proxy.lines()[start:], combination)


def check_log(lines: list[Line], combination: Combination) -> None:
    """Make sure that nothing went wrong, and that each connection says how its bytes went."""
    assert not [line for line in lines if line["level"] not in {"debug", "info"}]
    ended = [line for line in lines if line["event"] == "connection closed" and line["path"]]
    control = [line for line in ended if line["protocol"] == "ftp"]
    assert control
    assert {line["path"] for line in control} == {"user"}
    assert all(line["client_bytes"] and line["server_bytes"] for line in control)
    data = [line for line in ended if line["protocol"] == "ftp-data"]
    operations = combination.operations(REFUSALS)
    assert len(data) >= sum(DATA_CONNECTIONS[operation] for operation in operations)
    assert {(line["path"], line["reason"]) for line in data} == {("splice", "closed")}
    assert sum(line["server_bytes"] for line in data) > ONE_MIB
    assert Operation.STORE not in operations or sum(line["client_bytes"] for line in data) > MEDIUM
