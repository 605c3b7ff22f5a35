"""What the drivers of FTP clients have in common; which ones there are is in ftp_clients."""

from __future__ import annotations

import enum
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from .processes import clean_environment, find_program, run
from .terms import (
    ALL_OPERATIONS,
    BOTH_FAMILIES,
    BOTH_MODES,
    IPV4,
    Family,
    Mode,
    Operation,
    Target,
)


class Commands(enum.StrEnum):
    """Which commands ask for a data connection on IPv4; on IPv6 only the newer ones exist."""

    DEFAULT = "default"
    CLASSIC = "PORT/PASV"
    EXTENDED = "EPRT/EPSV"


@attrs.frozen
class Client(ABC):
    """One client program as it is to be used: mode, commands, and where it runs.

    Remote paths are relative to the directory that the login leads to. Every operation raises
    AssertionError, with the command and all its output, when the client fails or takes longer
    than `timeout` seconds. `home` holds files for its home directory, where its settings are, and
    `wrapper` is the command that runs it.
    """

    mode: Mode = Mode.PASSIVE
    commands: Commands = Commands.DEFAULT
    namespace: str | None = None
    timeout: float = 30.0
    home: Mapping[str, str] = attrs.field(factory=dict)
    wrapper: Sequence[str] = ()

    name: ClassVar[str]
    package: ClassVar[str]
    program: ClassVar[str]
    modes: ClassVar[frozenset[Mode]] = BOTH_MODES
    families: ClassVar[frozenset[Family]] = BOTH_FAMILIES
    alternatives: ClassVar[Mapping[Mode, Commands]] = {}  # what it can be told to send on IPv4
    operations: ClassVar[frozenset[Operation]] = ALL_OPERATIONS

    @classmethod
    def missing(cls) -> str | None:
        """The package that is missing here, for a skip that names it."""
        return None if find_program(cls.program) else cls.package

    @classmethod
    def hindrance(cls, family: Family) -> str | None:
        """What keeps it from connecting to a loopback address of this host, for a skip."""
        return None

    @classmethod
    def variants(cls, mode: Mode, family: Family) -> list[Commands]:
        """The sets of commands that differ for a mode and an IP version."""
        alternative = cls.alternatives.get(mode) if family in IPV4 else None
        return [Commands.DEFAULT, alternative] if alternative else [Commands.DEFAULT]

    @property
    def label(self) -> str:
        """The client and, unless they are its own choice, its commands."""
        own = self.commands is Commands.DEFAULT
        return self.name if own else f"{self.name} {self.commands}"

    @abstractmethod
    def listing(self, target: Target, directory: str) -> list[str]:
        """The names in a remote directory, sorted."""

    @abstractmethod
    def fetch(self, target: Target, remote: str, local: Path) -> None:
        """Copy a remote file."""

    @abstractmethod
    def resume(self, target: Target, remote: str, local: Path) -> None:
        """Fetch the rest of a remote file of which `local` has the beginning."""

    @abstractmethod
    def store(self, target: Target, local: Path, remote: str) -> None:
        """Copy a local file to the server."""

    @abstractmethod
    def fetch_many(self, target: Target, directory: str, names: Sequence[str], local: Path) -> None:
        """Copy files of a remote directory into a local one, in one session where possible."""

    @property
    def passive(self) -> bool:
        """Whether the server opens the port for data."""
        return self.mode is Mode.PASSIVE

    def run(self, *args: str | Path, standard_input: str = "", program: str | None = None) -> str:
        """The program's output, run where the client runs and untouched by a user's settings."""
        command = find_program(program or self.program) or self.program
        with tempfile.TemporaryDirectory(prefix="fwproxy-home-") as name:
            home = Path(name)
            for path, content in self.home.items():
                home.joinpath(path).parent.mkdir(exist_ok=True)
                home.joinpath(path).write_text(content)
            return run(
                [*self.wrapper, command, *args],
                namespace=self.namespace,
                timeout=self.timeout,
                standard_input=standard_input,
                cwd=home,
                env=clean_environment(home),
            )


def names_of_long_listing(text: str) -> list[str]:
    """The names in what LIST shows, without the directory itself and its parent."""
    lines = [line.split() for line in text.splitlines() if line[:1] in {"-", "d"}]
    return sorted({words[-1] for words in lines} - {".", ".."})
