"""Every client with every server, in every mode and family: which there are, and what each does.

The same cases run directly between client and server, which proves the harness, and through the
proxy: there the client's family and the server's may differ.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from .client_kind import Client, Commands
from .ftp_clients import CLIENTS, Lftp, Ncftp, Wget
from .ftp_servers import SERVERS, AioFTP, ProFTPD, PureFTPd, PyFTPdLib
from .server_kind import ServerKind
from .terms import (
    ALL_OPERATIONS,
    BOTH_FAMILIES,
    BOTH_MODES,
    IPV6,
    Family,
    Mode,
    Operation,
    Target,
)

ONE_BYTE = 1
ONE_MIB = 1 << 20
MEDIUM = 8 << 20
LARGE = 64 << 20
HASH_BLOCK = 1 << 20
# Grows by 117 bytes from an empty file on, so that every small file differs in size and content.
SMALL_SIZES = {f"{number:02}.bin": number * 117 for number in range(20)}

SAME_FAMILY: tuple[tuple[Family, Family], ...] = ((4, 4), (6, 6))
ALL_FAMILIES: tuple[tuple[Family, Family], ...] = ((4, 4), (6, 6), (6, 4), (4, 6))


@attrs.frozen
class Refusal:
    """Operations that fail between a client and servers, though each can do them with others."""

    client: type[Client]
    servers: frozenset[type[ServerKind]]
    reason: str
    operations: frozenset[Operation] = ALL_OPERATIONS
    modes: frozenset[Mode] = BOTH_MODES
    client_families: frozenset[Family] = BOTH_FAMILIES


WGET_LISTS_WITH_OPTION = Refusal(
    Wget,
    frozenset({AioFTP}),
    "wget sends LIST -a, which aioftp takes for a path",
    operations=frozenset({Operation.LIST, Operation.FETCH_MANY}),
)
WGET_NAMES_PROTOCOL = Refusal(
    Wget,
    frozenset({AioFTP}),
    "wget sends EPSV 2 on IPv6; aioftp answers 522 and hangs up",
    client_families=IPV6,
)
NCFTP_NEEDS_SIZE = Refusal(
    Ncftp,
    frozenset({AioFTP}),
    "ncftpget does not resume without SIZE, which aioftp does not know",
    operations=frozenset({Operation.RESUME}),
)
LFTP_NAMES_NO_ADDRESS = Refusal(
    Lftp,
    frozenset({PureFTPd, ProFTPD, PyFTPdLib}),
    "lftp sends EPRT |2|::|port| on IPv6, which only vsftpd accepts; lftp then stalls",
    modes=frozenset({Mode.ACTIVE}),
    client_families=IPV6,
)
REFUSALS = (
    WGET_LISTS_WITH_OPTION,
    WGET_NAMES_PROTOCOL,
    NCFTP_NEEDS_SIZE,
    LFTP_NAMES_NO_ADDRESS,
)


@attrs.frozen
class Combination:
    """A client with its mode and commands, a server, and the IP version on either side."""

    client: type[Client]
    commands: Commands
    mode: Mode
    client_family: Family
    server: type[ServerKind]
    server_family: Family

    @property
    def families(self) -> str:
        """Both IP versions, the client's first."""
        return f"{self.client_family}-{self.server_family}"

    def build_client(self, namespace: str | None = None) -> Client:
        """The client, to be run in a network namespace if one is named."""
        return self.client(mode=self.mode, commands=self.commands, namespace=namespace)

    def operations(self, refusals: Iterable[Refusal] = REFUSALS) -> frozenset[Operation]:
        """What can be done, given the refusals that nothing between client and server mends."""
        refused: set[Operation] = set()
        for refusal in refusals:
            if (
                self.client is refusal.client
                and self.server in refusal.servers
                and self.mode in refusal.modes
                and self.client_family in refusal.client_families
            ):
                refused |= refusal.operations
        return self.client.operations - refused

    def __str__(self) -> str:
        label = self.build_client().label.replace(" ", "-")
        return f"{label}-{self.server.name}-{self.mode}-{self.families}"


def combinations(
    families: Iterable[tuple[Family, Family]], refusals: Iterable[Refusal] = REFUSALS
) -> Iterator[Combination]:
    """All combinations that both the client and the server support, the servers outermost."""
    for server, (client_family, server_family), client, mode in itertools.product(
        SERVERS, families, CLIENTS, Mode
    ):
        if (
            mode in client.modes & server.modes
            and client_family in client.families
            and server_family in server.families
        ):
            for commands in client.variants(mode, client_family):
                found = Combination(client, commands, mode, client_family, server, server_family)
                if found.operations(refusals):
                    yield found


@attrs.frozen
class Samples:
    """The directory that servers serve, and the SHA-256 of the files in it."""

    root: Path
    digests: dict[str, str]

    @classmethod
    def create(cls, root: Path) -> Samples:
        """Fill `root` with the files to fetch and the directory to store in."""
        generator = random.Random(1)
        sizes = {"one.bin": ONE_BYTE, "mib.bin": ONE_MIB, "medium.bin": MEDIUM}
        sizes |= {"large.bin": LARGE}
        sizes |= {f"small/{name}": size for name, size in SMALL_SIZES.items()}
        for directory in (root, root / "small", root / "incoming"):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
        for name, size in sizes.items():
            (root / name).write_bytes(generator.randbytes(size))
            (root / name).chmod(0o644)
        (root / "incoming").chmod(0o777)
        return cls(root, {name: digest(root / name) for name in sizes})

    def content(self, name: str) -> bytes:
        """What is in a file."""
        return self.root.joinpath(name).read_bytes()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@attrs.frozen
class Workspace:
    """What an exercise fetches and compares, and a directory of its own for what it fetches."""

    samples: Samples
    local: Path

    def compare(self, name: str, path: Path) -> None:
        """Fail unless `path` is the sample `name`, bit by bit; remove it."""
        size, wanted = path.stat().st_size, self.samples.root.joinpath(name).stat().st_size
        assert digest(path) == self.samples.digests[name], f"{name}: {size} bytes of {wanted}"
        path.unlink()


def exercise(
    client: Client,
    target: Target,
    workspace: Workspace,
    operations: frozenset[Operation] = ALL_OPERATIONS,
) -> None:
    """Do the operations, and compare all files that were moved.

    A client that is told to use other commands for the data connection moves the same bytes over it
    afterwards, so that the largest file is left out then.
    """
    largest = "large.bin" if client.commands is Commands.DEFAULT else "mib.bin"
    if Operation.LIST in operations:
        assert client.listing(target, "small") == sorted(SMALL_SIZES)
    if Operation.FETCH in operations:
        exercise_fetching(client, target, workspace, largest)
    if Operation.RESUME in operations:
        exercise_resuming(client, target, workspace)
    if Operation.STORE in operations:
        exercise_storing(client, target, workspace)
    if Operation.FETCH_MANY in operations:
        exercise_fetching_many(client, target, workspace)


def exercise_briefly(client: Client, target: Target, workspace: Workspace) -> int:
    """List, fetch and, where it can, store 1 MiB; return how many data connections that takes."""
    assert client.listing(target, "small") == sorted(SMALL_SIZES)
    client.fetch(target, "mib.bin", workspace.local / "mib.bin")
    workspace.compare("mib.bin", workspace.local / "mib.bin")
    if Operation.STORE not in client.operations:
        return 2
    remote = f"incoming/{secrets.token_hex(8)}"
    client.store(target, workspace.samples.root / "mib.bin", remote)
    workspace.compare("mib.bin", workspace.samples.root / remote)
    return 3


def exercise_fetching(client: Client, target: Target, workspace: Workspace, largest: str) -> None:
    """Fetch files up to the largest."""
    for name in dict.fromkeys(("one.bin", "mib.bin", largest)):
        fetched = workspace.local / name
        client.fetch(target, name, fetched)
        workspace.compare(name, fetched)


def exercise_resuming(client: Client, target: Target, workspace: Workspace) -> None:
    """Fetch the second part of a file, of which the first is there."""
    part = workspace.local / "part.bin"
    content = workspace.samples.root.joinpath("mib.bin").read_bytes()
    part.write_bytes(content[: ONE_MIB // 3])
    client.resume(target, "mib.bin", part)
    workspace.compare("mib.bin", part)


def exercise_storing(client: Client, target: Target, workspace: Workspace) -> None:
    """Store files under names of their own, as the servers share the directory."""
    for name in ("one.bin", "medium.bin"):
        remote = f"incoming/{secrets.token_hex(8)}-{name}"
        client.store(target, workspace.samples.root / name, remote)
        workspace.compare(name, workspace.samples.root / remote)


def exercise_fetching_many(client: Client, target: Target, workspace: Workspace) -> None:
    """Fetch many small files, one of them empty."""
    many = workspace.local / "many"
    many.mkdir()
    client.fetch_many(target, "small", list(SMALL_SIZES), many)
    for name in SMALL_SIZES:
        workspace.compare(f"small/{name}", many / name)
    many.rmdir()
