"""How each contender is found, configured and started."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from tempfile import mkdtemp
from textwrap import dedent

from benchmarks.pattern import small_file
from benchmarks.processes import HOST, BenchError, Program, free_port, program

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def max_connections() -> int:
    """What the open files allow: HAProxy sets aside two for a connection and some for pipes."""
    return min(50_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 39 // 100)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to a server: the port to connect to, and the proxy that listens there."""

    port: int
    proxy: Program | None  # None: the server itself


@dataclass(frozen=True, slots=True)
class Task:
    """What a proxy is to do, and where it may keep its files."""

    directory: Path
    port: int
    upstream: int
    protocol: str  # as fwproxy calls it; the others only know TCP


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy, or none at all: its version or why it is missing, and how it is started."""

    name: str
    version: Callable[[], str]  # raises BenchError if the contender is missing
    command: Callable[[Task], list[str]] | None  # None: no proxy

    def missing(self) -> str | None:
        """Why the contender cannot take part, or None."""
        try:
            self.version()
        except BenchError as error:
            return str(error)
        return None

    @contextmanager
    def way_to(self, upstream: int, workspace: Path, protocol: str = "tcp") -> Iterator[Way]:
        """Start the proxy in front of the upstream port; end it after the block."""
        if self.command is None:
            yield Way(upstream, None)
            return
        directory = Path(mkdtemp(prefix=f"{self.name}-", dir=workspace))
        port = free_port()
        command = self.command(Task(directory, port, upstream, protocol))
        with program(self.name, command, directory / "log") as proxy:
            proxy.wait_until_listening(port)
            yield Way(port, proxy)


def which(name: str, package: str) -> str:
    """The path of a system program, also where an ordinary user's PATH does not lead."""
    path = shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)
    if path is None:
        raise BenchError(f"not installed (Debian package {package})")
    return path


def version_in(command: list[str], pattern: str) -> str:
    """What the pattern's group matches in the output of a command."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10, check=False
    )
    found = re.search(pattern, result.stdout.decode(errors="replace"))
    return found.group(1) if found else "unknown version"


# HAProxy


@cache
def haproxy_version() -> str:
    return version_in([which("haproxy", "haproxy"), "-v"], r"version (\S+)")


def haproxy_command(task: Task) -> list[str]:
    config = task.directory / "haproxy.cfg"
    config.write_text(
        dedent(f"""\
        global
            nbthread 1
            maxconn {max_connections()}
        defaults
            mode tcp
            option splice-auto
            maxconn {max_connections()}
            timeout connect 10s
            timeout client 1h
            timeout server 1h
        listen relay
            bind {HOST}:{task.port} backlog 4096
            server backend {HOST}:{task.upstream}
        """)
    )
    return [which("haproxy", "haproxy"), "-db", "-f", str(config)]


# nginx


@cache
def nginx_version() -> str:
    nginx_stream_module()
    return version_in([which("nginx", "nginx"), "-v"], r"nginx/(\S+)")


@cache
def nginx_stream_module() -> str:
    """The directive that loads the stream module; empty where it is built in."""
    built = subprocess.run(
        [which("nginx", "nginx"), "-V"], capture_output=True, text=True, timeout=10, check=False
    ).stderr
    if re.search(r"--with-stream(\s|$)", built):
        return ""
    directory = re.search(r"--modules-path=(\S+)", built)
    module = Path(directory.group(1) if directory else "") / "ngx_stream_module.so"
    if not module.is_file():
        raise BenchError("no stream module (Debian package libnginx-mod-stream)")
    return f"load_module {module};"


def nginx_command(task: Task) -> list[str]:
    config = task.directory / "nginx.conf"
    config.write_text(
        dedent(f"""\
        {nginx_stream_module()}
        daemon off;
        worker_processes 1;
        worker_rlimit_nofile {2 * max_connections()};
        pid {task.directory}/nginx.pid;
        error_log stderr warn;
        events {{
            worker_connections {2 * max_connections()};
        }}
        stream {{
            server {{
                listen {HOST}:{task.port} backlog=4096;
                proxy_pass {HOST}:{task.upstream};
                proxy_timeout 1h;
            }}
        }}
        """)
    )
    return [which("nginx", "nginx"), "-p", str(task.directory), "-c", str(config)]


# fwproxy


@cache
def fwproxy_version() -> str:
    if util.find_spec("fwproxy") is None:
        raise BenchError("not installed in this environment")
    try:
        return metadata.version("fwproxy")
    except metadata.PackageNotFoundError:
        return "unknown version"


def fwproxy_command(task: Task) -> list[str]:
    return run_fwproxy(
        task, kind="forward", upstream=f"{HOST}:{task.upstream}", protocol=task.protocol
    )


def run_fwproxy(task: Task, **listener: str) -> list[str]:
    """The command for a proxy with one listener, which has these keys."""
    keys = "".join(f'{key} = "{value}"\n' for key, value in listener.items())
    config = task.directory / "fwproxy.toml"
    config.write_text(
        f'[[listeners]]\nname = "bench"\nbind = "{HOST}:{task.port}"\n{keys}'
        + dedent(f"""
        [limits]
        max_sessions = {max_connections()}
        max_sessions_per_client = {max_connections()}

        [log]
        format = "json"
        """)
    )
    return [sys.executable, "-m", "fwproxy", "run", "--config", str(config)]


HAPROXY = Contender("HAProxy", haproxy_version, haproxy_command)
NGINX = Contender("nginx", nginx_version, nginx_command)
DIRECT = Contender("direct", lambda: "no proxy", None)
FWPROXY = Contender("fwproxy", fwproxy_version, fwproxy_command)


# vsftpd, the server behind the FTP measurements


@cache
def vsftpd_version() -> str:
    # It writes its version to standard input.
    version = version_in(["sh", "-c", '"$0" -v 0>&1', which("vsftpd", "vsftpd")], r"version (\S+)")
    # Not started as root it has no process and no namespaces of its own for each session.
    return version if os.geteuid() == 0 else f"{version}, not root: without isolation, so faster"


@contextmanager
def vsftpd(
    workspace: Path, large_file: int, host: str = HOST, namespace: str | None = None
) -> Iterator[int]:
    """vsftpd for anonymous users, with its defaults and no limits; the port it listens on.

    In a namespace that is 21, where the kernel's helper expects it.
    """
    executable = which("vsftpd", "vsftpd")
    directory = Path(mkdtemp(prefix="vsftpd-", dir=workspace))
    files = directory / "files"
    files.mkdir()
    (files / "small.bin").write_bytes(small_file())
    with (files / "large.bin").open("wb") as large:
        large.truncate(large_file)
    empty = directory / "empty"
    empty.mkdir()
    for readable in (workspace, directory):  # the user ftp comes through here
        readable.chmod(0o755)
    port = 21 if namespace else free_port()
    config = directory / "vsftpd.conf"
    config.write_text(
        dedent(f"""\
        listen=YES
        background=NO
        listen_address={host}
        listen_port={port}
        anonymous_enable=YES
        local_enable=NO
        anon_root={files}
        secure_chroot_dir={empty}
        max_clients=0
        max_per_ip=0
        anon_max_rate=0
        pasv_min_port=10000
        pasv_max_port=19999
        run_as_launching_user={"NO" if os.geteuid() == 0 else "YES"}
        """)
    )
    command = [executable, str(config)]
    with program("vsftpd", command, directory / "log", namespace) as server:
        server.wait_until_listening(port, host, namespace)
        yield port
