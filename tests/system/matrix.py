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
from .ftp_clients import CLIENTS
from .ftp_servers import SERVERS
from .server_kind import ServerKind
from .terms import IPV4, Family, Mode, Target

ONE_BYTE = 1
ONE_MIB = 1 << 20
LARGE = 64 << 20
HASH_BLOCK = 1 << 20
# Grows by 117 bytes from an empty file on, so that every small file differs in size and content.
SMALL_SIZES = {f"{number:02}.bin": number * 117 for number in range(20)}

SAME_FAMILY: tuple[tuple[Family, Family], ...] = ((4, 4), (6, 6))
ALL_FAMILIES: tuple[tuple[Family, Family], ...] = ((4, 4), (6, 6), (6, 4), (4, 6))


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

    def __str__(self) -> str:
        label = self.build_client().label.replace(" ", "-")
        return f"{label}-{self.server.name}-{self.mode}-{self.families}"


def combinations(
    families: Iterable[tuple[Family, Family]],
    clients: Iterable[type[Client]] = CLIENTS,
    servers: Iterable[type[ServerKind]] = SERVERS,
) -> Iterator[Combination]:
    """All combinations that both the client and the server support, the servers outermost."""
    for server, (client_family, server_family), client, mode in itertools.product(
        servers, families, clients, Mode
    ):
        if (
            mode in client.modes & server.modes
            and client_family in client.families
            and server_family in server.families
        ):
            for commands in client.variants if client_family in IPV4 else [Commands.DEFAULT]:
                yield Combination(client, commands, mode, client_family, server, server_family)


@attrs.frozen
class Samples:
    """The directory that servers serve, and the SHA-256 of the files in it."""

    root: Path
    digests: dict[str, str]

    @classmethod
    def create(cls, root: Path) -> Samples:
        """Fill `root` with the files to fetch and the directory to store in."""
        generator = random.Random(1)
        sizes = {"one.bin": ONE_BYTE, "mib.bin": ONE_MIB, "large.bin": LARGE}
        sizes |= {f"small/{name}": size for name, size in SMALL_SIZES.items()}
        for directory in (root, root / "small", root / "incoming"):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
        for name, size in sizes.items():
            (root / name).write_bytes(generator.randbytes(size))
            (root / name).chmod(0o644)
        (root / "incoming").chmod(0o777)
        return cls(root, {name: digest(root / name) for name in sizes})


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


def exercise(client: Client, target: Target, workspace: Workspace) -> None:
    """Do all that the client can: list, fetch, resume, store, and many small files."""
    assert client.listing(target, "small") == sorted(SMALL_SIZES)
    for name in ("one.bin", "mib.bin", "large.bin"):
        fetched = workspace.local / name
        client.fetch(target, name, fetched)
        workspace.compare(name, fetched)
    if client.can_resume:
        exercise_resuming(client, target, workspace)
    if client.can_store:
        exercise_storing(client, target, workspace)
    exercise_many(client, target, workspace)


def exercise_resuming(client: Client, target: Target, workspace: Workspace) -> None:
    """Fetch the second part of a file, of which the first is there."""
    part = workspace.local / "part.bin"
    content = workspace.samples.root.joinpath("mib.bin").read_bytes()
    part.write_bytes(content[: ONE_MIB // 3])
    client.resume(target, "mib.bin", part)
    workspace.compare("mib.bin", part)


def exercise_storing(client: Client, target: Target, workspace: Workspace) -> None:
    """Store a file under a name of its own, as the servers share the directory."""
    remote = f"incoming/{secrets.token_hex(8)}.bin"
    client.store(target, workspace.samples.root / "mib.bin", remote)
    workspace.compare("mib.bin", workspace.samples.root / remote)


def exercise_many(client: Client, target: Target, workspace: Workspace) -> None:
    """Fetch many small files, one of them empty."""
    many = workspace.local / "many"
    many.mkdir()
    client.fetch_many(target, "small", list(SMALL_SIZES), many)
    for name in SMALL_SIZES:
        workspace.compare(f"small/{name}", many / name)
    many.rmdir()
