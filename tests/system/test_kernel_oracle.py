"""The kernel path against the kernel's own FTP helper, and against the spliced path.

The same clients and servers, the same commands and files: all three must answer alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Iterator

import pytest

from .client_kind import Client, Commands
from .ends import ScriptedClient, active_command, connect, read_all
from .ftp_clients import Curl, Ftplib, Lftp, Tnftp
from .ftp_servers import PyFTPdLib
from .gateways import SERVER_PORTS, Gateway, Way, gateway
from .matrix import Combination, Samples, Workspace, digest, exercise_briefly
from .namespaces import Side
from .server_kind import ServerKind
from .terms import Family, Mode

CLIENTS: list[type[Client]] = [Curl, Lftp, Ftplib, Tnftp]
VERBS: dict[Family, list[str]] = {4: ["PASV", "EPSV", "PORT", "EPRT"], 6: ["EPSV", "EPRT"]}
MANNERS: list[tuple[Mode, Family]] = [(mode, family) for mode in Mode for family in (4, 6)]

Outcome = tuple[str, list[int], str]
"""What was asked for, the codes of the replies, and the digest of what has come."""


@pytest.fixture(scope="module")
def ways(samples: Samples, needs_network: None) -> Iterator[dict[Way, Gateway]]:
    """All three, at the same time."""
    with contextlib.ExitStack() as stack:
        yield {way: stack.enter_context(gateway(way, samples)) for way in Way}


def understood(ways: dict[Way, Gateway], kind: type[ServerKind], family: Family) -> list[Gateway]:
    """The gateways that a server gets along with.

    The helper spells IPv6 addresses with all their zeros, which pyftpdlib takes for another host.
    """
    misunderstood = {Way.HELPER} if (kind, family) == (PyFTPdLib, 6) else set()
    return [each for way, each in ways.items() if way not in misunderstood]


def data_path_lines(found: Gateway, start: int) -> int:
    """How many data connections there have been since a log line, all of them on this path."""
    assert found.proxy is not None
    lines = found.proxy.logged("connection closed", start, protocol="ftp-data")
    lines = [line for line in lines if line["path"]]  # others have been withdrawn unused
    assert {line["path"] for line in lines} <= {str(found.way)}, lines
    return len(lines)


def ask_for_data(client: ScriptedClient, verb: str) -> tuple[list[int], socket.socket]:
    """Set a data connection up; the socket listens in active mode and is connected otherwise."""
    if verb in {"PASV", "EPSV"}:
        return [], connect(*client.passive(verb), client.namespace)
    listener = client.listen()
    return [client.code(active_command(listener, verb))], listener


def converse(client: ScriptedClient, verb: str, command: str, content: bytes = b"") -> Outcome:
    """Do one transfer."""
    codes, data = ask_for_data(client, verb)
    with data:
        client.send(f"{command}\r\n".encode())
        if "missing" in command:
            return f"{verb} {command}", [*codes, client.code()], ""
        if verb in {"PORT", "EPRT"}:
            data, listener = data.accept()[0], data
            listener.close()
        with data:
            data.settimeout(10)
            first = client.code()
            codes.append(150 if first == 125 else first)  # a race in the server: who is first
            data.sendall(content)
            if content:
                data.shutdown(socket.SHUT_WR)
            came = hashlib.sha256(read_all(data)).hexdigest()
    return f"{verb} {command.split(maxsplit=1)[0]}", [*codes, client.code()], came


def story(
    found: Gateway, kind: type[ServerKind], family: Family, samples: Samples
) -> list[Outcome]:
    """What a client experiences in one session."""
    outcomes = []
    target = found.target(kind, family)
    with ScriptedClient(target, found.net.namespace(Side.CLIENT)) as client:
        client.login()
        for verb in VERBS[family]:
            name = f"incoming/{found.way}-{kind.name}-{family}-{verb}"
            outcomes += [
                converse(client, verb, "RETR mib.bin"),
                converse(client, verb, "NLST small"),
                converse(client, verb, "RETR missing"),
                converse(client, verb, f"STOR {name}", samples.content("mib.bin")),
            ]
            stored = samples.root / name
            assert digest(stored) == samples.digests["mib.bin"]
            stored.unlink()
        outcomes.append(("QUIT", [client.code("QUIT")], ""))
    return outcomes


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", SERVER_PORTS, ids=lambda kind: kind.name)
def test_every_command_has_the_same_outcome(
    ways: dict[Way, Gateway], kind: type[ServerKind], family: Family, samples: Samples
) -> None:
    if lack := kind.missing():
        pytest.skip(f"package missing: {lack}")
    starts = {way: len(each.proxy.lines()) for way, each in ways.items() if each.proxy}
    first, *others = (story(each, kind, family, samples) for each in understood(ways, kind, family))
    assert others
    assert others == [first] * len(others)
    for way, start in starts.items():
        proxy = ways[way].proxy
        assert proxy is not None
        proxy.await_rest()
        assert data_path_lines(ways[way], start) >= 3 * len(VERBS[family])


def cases() -> Iterator[Combination]:
    """Each client with each server, in turn actively and passively on IPv4 and IPv6."""
    for row, client in enumerate(CLIENTS):
        for column, server in enumerate(SERVER_PORTS):
            mode, family = MANNERS[(row + column) % len(MANNERS)]
            yield Combination(client, Commands.DEFAULT, mode, family, server, family)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_real_clients_move_the_same_files(
    ways: dict[Way, Gateway], case: Combination, workspace: Workspace
) -> None:
    if lack := case.server.missing() or case.client.missing():
        pytest.skip(f"package missing: {lack}")
    counts = {}
    for each in understood(ways, case.server, case.server_family):
        start = len(each.proxy.lines()) if each.proxy else 0
        target = each.target(case.server, case.server_family)
        counts[each.way] = exercise_briefly(each.client(case), target, workspace)
        if each.proxy is not None:
            each.proxy.await_rest()
            assert data_path_lines(each, start) == counts[each.way]
    assert len(set(counts.values())) == 1
