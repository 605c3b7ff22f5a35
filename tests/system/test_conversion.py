"""Servers get the mode that the listener is set to, whatever their clients ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, TypeAlias

import attrs
import pytest

from .conftest import RecordCombination, StartServer
from .ftp_clients import Curl, Ftplib, Lftp
from .ftp_servers import VSFTPD, ProFTPD, PureFTPd, PyFTPdLib
from .matrix import Combination, Workspace, combinations, exercise_briefly
from .proxy import Listener, Proxy, running_proxy
from .recorder import Recorder, recording
from .server_kind import ServerKind
from .terms import LOOPBACK, Family, Mode

DataMode: TypeAlias = Literal["active", "passive"]

CLIENTS = {Curl, Lftp, Ftplib}
SERVERS: tuple[type[ServerKind], ...] = (VSFTPD, PureFTPd, ProFTPD, PyFTPdLib)
FAMILIES: tuple[tuple[Family, Family], ...] = ((4, 4), (6, 4), (4, 6))
DATA_MODES: tuple[DataMode, ...] = ("active", "passive")
SETUP = {"active": {"PORT", "EPRT"}, "passive": {"PASV", "EPSV"}}
CLASSIC = {"active": "PORT", "passive": "PASV"}
EXTENDED = {"active": "EPRT", "passive": "EPSV"}
POOL = range(40000, 50000)


@attrs.frozen
class Path:
    """A proxy whose listeners are named for what is converted, and what the servers get of it."""

    proxy: Proxy
    recorders: dict[tuple[str, Family], Recorder]


def listener_name(server: str, families: str, data_mode: str) -> str:
    return f"{server}-{families}-{data_mode}"


@pytest.fixture(scope="module")
def path(start_server: StartServer) -> Iterator[Path]:
    """The one proxy of this process, with a recorder between it and each server."""
    recorders = {}
    with contextlib.ExitStack() as stack:
        listeners = []
        for kind in SERVERS:
            for client, family in FAMILIES if not kind.missing() else ():
                if (kind.name, family) not in recorders:
                    recorder = stack.enter_context(recording(start_server(kind, family)))
                    recorders[kind.name, family] = recorder
                listeners += [
                    Listener(
                        listener_name(kind.name, f"{client}-{family}", data_mode),
                        LOOPBACK[client],
                        recorders[kind.name, family].server,
                        data_mode=data_mode,
                    )
                    for data_mode in DATA_MODES
                ]
        proxy = stack.enter_context(running_proxy(listeners))
        yield Path(proxy, recorders)
        proxy.finish()


def cases() -> list[Combination]:
    """What there is to convert, with each client's own choice of commands."""
    return [
        each
        for each in combinations(FAMILIES, ())
        if each.client in CLIENTS
        and each.server in SERVERS
        and each.commands is each.build_client().commands.DEFAULT
    ]


@pytest.mark.parametrize("data_mode", DATA_MODES)
@pytest.mark.parametrize("case", cases(), ids=str)
def test_the_server_gets_the_mode_of_the_listener(
    case: Combination,
    data_mode: DataMode,
    path: Path,
    workspace: Workspace,
    record_combination: RecordCombination,
) -> None:
    record_combination(f"data_mode {data_mode}", case, on_this_host=True)
    recorder = path.recorders[case.server.name, case.server_family]
    listener = listener_name(case.server.name, case.families, data_mode)
    target = path.proxy.target(listener, recorder.server)
    seen, start = len(recorder.commands), len(path.proxy.lines())
    transfers = exercise_briefly(case.build_client(), target, workspace)
    path.proxy.await_rest()

    setups = [
        command.split(" ", 1)
        for command in recorder.commands[seen:]
        if command.split(" ")[0] in SETUP["active"] | SETUP["passive"]
    ]
    assert len(setups) == transfers
    assert {verb for verb, *_ in setups} == {expected_verb(case, data_mode)}
    if data_mode == "active":
        assert all(says_proxy(*setup, case.server_family) for setup in setups)

    data = path.proxy.logged("connection closed", start, protocol="ftp-data", path="splice")
    assert len(data) == transfers
    # Where both of them wait, the proxy connects to both and nobody needs a permission.
    both_wait = case.mode is Mode.ACTIVE and data_mode == "passive"
    assert all((line["permission"] is None) is both_wait for line in data)


def expected_verb(case: Combination, data_mode: DataMode) -> str:
    """IPv4 servers get what they all know, but where client and server agree on the rest."""
    agree = case.client_family == 4 and case.mode == data_mode
    if case.server_family == 6 or (agree and case.client is Curl):
        return EXTENDED[data_mode]
    return CLASSIC[data_mode]


def says_proxy(verb: str, argument: str, family: Family) -> bool:
    """Whether PORT or EPRT names the proxy's address towards the server, and a port of the pool."""
    if verb == "PORT":
        *octets, high, low = argument.split(",")
        return ".".join(octets) == LOOPBACK[4] and int(high) * 256 + int(low) in POOL
    _, number, host, port, _ = argument.split("|")
    wanted = {4: "1", 6: "2"}[family]
    return (number, host) == (wanted, LOOPBACK[family]) and int(port) in POOL
