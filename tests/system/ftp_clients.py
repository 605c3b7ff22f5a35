"""The FTP clients under test: how each is told what to do, and what it cannot do.

A proxy's wrong address shows as follows. In passive mode wget and ncftp connect to the address in
a PASV reply, and tnftp gives up if it is not its server's; curl, lftp and ftplib would rather take
their server's own and are told to believe the reply, though lftp never believes a loopback address;
aioftp always takes its server's own. In active mode ncftp refuses a connection that does not come
from its server's address, and lftp is told to.
"""

from __future__ import annotations

import functools
import importlib.util
import ipaddress
import json
import re
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import psutil

from .client_kind import Client, Commands, names_of_long_listing
from .terms import ALL_OPERATIONS, IPV4, PASSIVE_ONLY, Family, Mode, Operation, Target

PROGRAMS = Path(__file__).with_name("programs")
CONNECT_TIMEOUT = "10"


@functools.cache
def has_ipv6() -> bool:
    """Whether this host has an IPv6 address but ::1 and those of its links."""
    addresses = (
        ipaddress.ip_address(each.address.partition("%")[0])
        for interface in psutil.net_if_addrs().values()
        for each in interface
        if each.family is socket.AF_INET6
    )
    return not all(each.is_loopback or each.is_link_local for each in addresses)


@attrs.frozen
class Curl(Client):
    """curl. By itself it tries EPSV and EPRT before PASV and PORT, on IPv4 too."""

    name = "curl"
    package = "curl"
    program = "curl"
    alternatives: ClassVar = dict.fromkeys(Mode, Commands.CLASSIC)

    def _curl(self, target: Target, *args: str | Path) -> str:
        options = ["-q", "-sS", "--connect-timeout", CONNECT_TIMEOUT, "--no-ftp-skip-pasv-ip"]
        if not self.passive:
            options += ["--ftp-port", "-"]
        if self.commands is Commands.CLASSIC:
            options += ["--disable-epsv" if self.passive else "--disable-eprt"]
        if not self._needs_login_in_url(target):
            options += ["--user", f"{target.username}:{target.password}"]
        return self.run(*options, *args)

    @staticmethod
    def _needs_login_in_url(target: Target) -> bool:
        return ":" in target.username  # --user would end the name there

    def _url(self, target: Target, path: str) -> str:
        return target.url(path, credentials=self._needs_login_in_url(target))

    def listing(self, target: Target, directory: str) -> list[str]:
        return names_of_long_listing(self._curl(target, self._url(target, f"{directory}/")))

    def fetch(self, target: Target, remote: str, local: Path) -> None:
        self._curl(target, "-o", local, self._url(target, remote))

    def resume(self, target: Target, remote: str, local: Path) -> None:
        self._curl(target, "-C", "-", "-o", local, self._url(target, remote))

    def store(self, target: Target, local: Path, remote: str) -> None:
        self._curl(target, "-T", local, self._url(target, remote))

    def fetch_many(self, target: Target, directory: str, names: Sequence[str], local: Path) -> None:
        pairs = [("-o", local / name, self._url(target, f"{directory}/{name}")) for name in names]
        # Several sessions at once, as curl can be a second late to connect for data when it reuses
        # one: its poll misses the reply to EPSV that came quickly. In active mode it can hang so.
        parallel = ["--parallel", "--parallel-max", "5"] if self.passive else []
        self._curl(target, *parallel, *(word for pair in pairs for word in pair))


@attrs.frozen
class Lftp(Client):
    """lftp. By itself it sends PASV and PORT on IPv4."""

    name = "lftp"
    package = "lftp"
    program = "lftp"
    alternatives: ClassVar = {Mode.PASSIVE: Commands.EXTENDED}

    @classmethod
    def hindrance(cls, family: Family) -> str | None:
        if family == 4 or has_ipv6():
            return None
        return "lftp uses no IPv6 on a host that has no IPv6 address but ::1"

    def _lftp(self, target: Target, command: str) -> str:
        settings = {
            "cmd:fail-exit": "yes",
            "net:timeout": CONNECT_TIMEOUT,
            "net:max-retries": "1",
            "ftp:passive-mode": "yes" if self.passive else "no",
            "ftp:auto-passive-mode": "no",  # or it would change the mode when one fails
            "ftp:prefer-epsv": "yes" if self.commands is Commands.EXTENDED else "no",
            "ftp:ignore-pasv-address": "no",
            "ftp:fix-pasv-address": "no",
            "ftp:verify-address": "yes",
            "xfer:clobber": "yes",
        }
        script = "".join(f"set {key} {value}; " for key, value in settings.items())
        login = f"open -u {target.username},{target.password} {target.url('')}; "
        settings_of_others = [] if self.home else ["--norc"]
        return self.run(*settings_of_others, "-c", script + login + command)

    def listing(self, target: Target, directory: str) -> list[str]:
        return names_of_long_listing(self._lftp(target, f"ls {directory}"))

    def fetch(self, target: Target, remote: str, local: Path) -> None:
        self._lftp(target, f'get {remote} -o "{local}"')

    def resume(self, target: Target, remote: str, local: Path) -> None:
        self._lftp(target, f'get -c {remote} -o "{local}"')

    def store(self, target: Target, local: Path, remote: str) -> None:
        self._lftp(target, f'put "{local}" -o {remote}')

    def fetch_many(self, target: Target, directory: str, names: Sequence[str], local: Path) -> None:
        self._lftp(target, f'mget -O "{local}" {directory}/*')


@attrs.frozen
class Tnftp(Client):
    """tnftp, the BSDs' ftp. By itself it tries EPSV and EPRT first. It always exits with 0."""

    name = "tnftp"
    package = "tnftp"
    program = "tnftp"
    alternatives: ClassVar = dict.fromkeys(Mode, Commands.CLASSIC)

    def _tnftp(self, target: Target, *commands: str, transfers: int = 1) -> str:
        script = [
            *(["epsv4"] if self.commands is Commands.CLASSIC else []),  # switches it off
            f"open {target.host} {target.port}",
            f"user {target.username} {target.password}",
            "binary",
            *commands,
            "bye",
        ]
        output = self.run(
            *("-n", "-i", "-v", "-p" if self.passive else "-A"),
            standard_input="".join(f"{line}\n" for line in script),
        )
        done = len(re.findall(r"^226[ -]", output, re.MULTILINE))
        assert done >= transfers, f"tnftp: {done} of {transfers} transfers\n{script}\n{output}"
        return output

    def listing(self, target: Target, directory: str) -> list[str]:
        return names_of_long_listing(self._tnftp(target, f"ls {directory}"))

    def fetch(self, target: Target, remote: str, local: Path) -> None:
        self._tnftp(target, f'get {remote} "{local}"')

    def resume(self, target: Target, remote: str, local: Path) -> None:
        self._tnftp(target, f'reget {remote} "{local}"')

    def store(self, target: Target, local: Path, remote: str) -> None:
        self._tnftp(target, f'put "{local}" {remote}')

    def fetch_many(self, target: Target, directory: str, names: Sequence[str], local: Path) -> None:
        gets = [f"get {name}" for name in names]  # mget would need NLST
        self._tnftp(target, f"cd {directory}", f'lcd "{local}"', *gets, transfers=len(names))


@attrs.frozen
class Ncftp(Client):
    """ncftpget, ncftpput and ncftpls. They know neither IPv6 nor EPSV and EPRT."""

    name = "ncftp"
    package = "ncftp"
    program = "ncftpget"
    families = IPV4

    def _ncftp(self, program: str, target: Target, *args: str | Path) -> str:
        login = ["-u", target.username, "-p", target.password, "-P", str(target.port)]
        limits = ["-t", CONNECT_TIMEOUT, "-r", "1"]
        mode = "-F" if self.passive else "-E"
        return self.run(*login, *limits, mode, *args, program=program)

    def listing(self, target: Target, directory: str) -> list[str]:
        url = f"ftp://{target.host}/{directory}/"
        return names_of_long_listing(self._ncftp("ncftpls", target, "-l", url))

    def fetch(self, target: Target, remote: str, local: Path) -> None:
        self._ncftp("ncftpget", target, "-V", "-Z", "-C", target.host, remote, local)

    def resume(self, target: Target, remote: str, local: Path) -> None:
        with tempfile.TemporaryDirectory(dir=local.parent) as name:
            part = Path(name, Path(remote).name)  # it names local files itself when it resumes
            local.rename(part)
            self._ncftp("ncftpget", target, "-V", "-z", target.host, part.parent, remote)
            part.rename(local)

    def store(self, target: Target, local: Path, remote: str) -> None:
        self._ncftp("ncftpput", target, "-V", "-C", target.host, local, remote)

    def fetch_many(self, target: Target, directory: str, names: Sequence[str], local: Path) -> None:
        remotes = [f"{directory}/{name}" for name in names]
        self._ncftp("ncftpget", target, "-V", target.host, local, *remotes)


@attrs.frozen
class Wget(Client):
    """wget. PASV and PORT on IPv4, EPSV and EPRT on IPv6; it cannot store."""

    name = "wget"
    package = "wget"
    program = "wget"
    operations = ALL_OPERATIONS - {Operation.STORE}

    def _wget(self, target: Target, *args: str | Path) -> str:
        options = ["--no-config", "-nv", "-t", "1", "-T", CONNECT_TIMEOUT]
        login = [f"--ftp-user={target.username}", f"--ftp-password={target.password}"]
        mode = [] if self.passive else ["--no-passive-ftp"]
        return self.run(*options, *login, *mode, *args)

    def listing(self, target: Target, directory: str) -> list[str]:
        page = self._wget(target, "-O", "-", target.url(f"{directory}/"))
        return sorted(re.findall(r'<a href="[^"]*">([^<]+)</a>', page))

    def fetch(self, target: Target, remote: str, local: Path) -> None:
        self._wget(target, "-O", local, target.url(remote))

    def resume(self, target: Target, remote: str, local: Path) -> None:
        self._wget(target, "-c", "-O", local, target.url(remote))

    def store(self, target: Target, local: Path, remote: str) -> None:
        raise NotImplementedError("wget does not store")

    def fetch_many(self, target: Target, directory: str, names: Sequence[str], local: Path) -> None:
        # A pattern makes it list and then fetch in one session; with names each has its own.
        self._wget(target, "-nd", "-P", local, target.url(f"{directory}/*"))


class _PythonClient(Client):
    """A library, driven by a program of its own so that it can run in a namespace."""

    program = sys.executable

    def _settings(self) -> dict[str, object]:
        raise NotImplementedError

    def _ask(self, target: Target, operation: str, *arguments: object) -> str:
        request = attrs.asdict(target) | self._settings()
        request |= {"operation": operation, "arguments": arguments}
        return self.run(PROGRAMS / f"{self.name}_client.py", json.dumps(request))

    def listing(self, target: Target, directory: str) -> list[str]:
        return sorted(set(self._ask(target, "listing", directory).splitlines()) - {".", ".."})

    def fetch(self, target: Target, remote: str, local: Path) -> None:
        self._ask(target, "fetch", remote, str(local))

    def resume(self, target: Target, remote: str, local: Path) -> None:
        self._ask(target, "resume", remote, str(local))

    def store(self, target: Target, local: Path, remote: str) -> None:
        self._ask(target, "store", str(local), remote)

    def fetch_many(self, target: Target, directory: str, names: Sequence[str], local: Path) -> None:
        self._ask(target, "fetch_many", directory, list(names), str(local))


@attrs.frozen
class Ftplib(_PythonClient):
    """Python's ftplib. PASV and PORT on IPv4, EPSV and EPRT on IPv6."""

    name = "ftplib"
    package = "python3"

    def _settings(self) -> dict[str, object]:
        return {"passive": self.passive}


@attrs.frozen
class AioFTPClient(_PythonClient):
    """aioftp's client. EPSV first, then PASV; no active mode."""

    name = "aioftp"
    package = "aioftp"
    modes: ClassVar[frozenset[Mode]] = PASSIVE_ONLY
    alternatives: ClassVar = {Mode.PASSIVE: Commands.CLASSIC}

    @classmethod
    def missing(cls) -> str | None:
        return None if importlib.util.find_spec(cls.package) else cls.package

    def _settings(self) -> dict[str, object]:
        classic = self.commands is Commands.CLASSIC
        return {"commands": ["pasv"] if classic else ["epsv", "pasv"]}


CLIENTS: tuple[type[Client], ...] = (Curl, Lftp, Tnftp, Ncftp, Wget, Ftplib, AioFTPClient)
