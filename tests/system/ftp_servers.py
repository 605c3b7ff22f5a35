"""The FTP servers under test: their configurations, what they can do and what they lack here."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .processes import find_program, find_unpacked, run
from .server_kind import FTPServer, ServerKind
from .terms import PASSIVE_ONLY

PROGRAMS = Path(__file__).with_name("programs")
# crypt(3) of PASSWORD; made once, as Python no longer offers crypt.
PASSWORD_CRYPTED = (
    "$6$fwproxytests$72wnzkN7Rw6hffdP8HhYtGC2z9ERWYfQV5nGnpIsPKSylVUNb749N3r0lWn7qXe"
    ".o.c.kjliwytVQNY7FV88l0"
)
NOBODY_ID = 65534


class VSFTPD(ServerKind):
    """vsftpd with anonymous login and uploads: its other logins need accounts of the machine."""

    name = "vsftpd"
    package = "vsftpd"
    checks_password = False

    @classmethod
    def missing(cls) -> str | None:
        """The package, if vsftpd is not there."""
        return None if find_program("vsftpd") else cls.package

    @classmethod
    def credentials(cls) -> tuple[str, str]:
        """Any password will do."""
        return "anonymous", "tester@example.com"

    @classmethod
    def command(cls, settings: Path, server: FTPServer) -> Sequence[str | Path]:
        """The command; without root the server stays the user that started it, without chroot."""
        (settings / "empty").mkdir(mode=0o755)
        six = ":" in server.host
        options = {
            "listen": "NO" if six else "YES",
            "listen_ipv6": "YES" if six else "NO",
            "listen_address6" if six else "listen_address": server.host,
            "listen_port": server.port,
            "background": "NO",
            "run_as_launching_user": "NO" if os.geteuid() == 0 else "YES",
            "anonymous_enable": "YES",
            "local_enable": "NO",
            "ftp_username": "ftp",  # made by the package; its home must exist
            "nopriv_user": "nobody",
            "anon_root": server.root,
            "write_enable": "YES",
            "anon_upload_enable": "YES",
            "anon_mkdir_write_enable": "YES",
            "anon_other_write_enable": "YES",
            "anon_world_readable_only": "NO",
            "anon_umask": "022",
            "secure_chroot_dir": settings / "empty",
            "pasv_enable": "YES",
            "port_enable": "YES",
            "connect_from_port_20": "NO",
            "async_abor_enable": "YES",  # which it does for a Telnet Synch only
            "delay_failed_login": 0,
            "delay_successful_login": 0,
            "xferlog_enable": "NO",
            # Sandboxes for whose system calls neither containers nor new kernels are prepared.
            "seccomp_sandbox": "NO",
            "isolate": "NO",
            "isolate_network": "NO",
        }
        path = settings / "vsftpd.conf"
        path.write_text("".join(f"{key}={value}\n" for key, value in options.items()))
        return [find_program("vsftpd") or "vsftpd", path]


class PureFTPd(ServerKind):
    """pure-ftpd with one virtual user."""

    name = "pure-ftpd"
    package = "pure-ftpd"

    @classmethod
    def missing(cls) -> str | None:
        """The package, or root, without which pure-ftpd does not start."""
        if find_unpacked(cls.package, "usr/sbin/pure-ftpd") is None:
            return cls.package
        return None if os.geteuid() == 0 else "pure-ftpd as root"

    @classmethod
    def command(cls, settings: Path, server: FTPServer) -> Sequence[str | Path]:
        """The command, with the user's entry in a database made by pure-ftpd's own tool.

        The entry is written here since the tool would hash the password for seconds.
        """
        users, database = settings / "users", settings / "users.pdb"
        fields = [server.username, PASSWORD_CRYPTED, str(NOBODY_ID), str(NOBODY_ID), ""]
        users.write_text(":".join([*fields, f"{server.root}/./"]) + ":" * 12 + "\n")
        administer = find_unpacked(cls.package, "usr/bin/pure-pw") or "pure-pw"
        run([administer, "mkdb", database, "-f", users])
        return [
            find_unpacked(cls.package, "usr/sbin/pure-ftpd") or "pure-ftpd",
            *("--bind", f"{server.host},{server.port}"),
            *("--login", f"puredb:{database}"),
            *("--pidfile", settings / "pid"),
            *("--umask", "133:022", "--syslogfacility", "none", "--maxclientsnumber", "50"),
            *("--chrooteveryone", "--noanonymous", "--dontresolve"),
        ]


class ProFTPD(ServerKind):
    """proftpd with one virtual user, started by inetd.

    As a daemon of its own it sleeps for 0.4 seconds whenever a session has ended, before it greets
    the next client.
    """

    name = "proftpd"
    package = "proftpd-core"

    @classmethod
    def missing(cls) -> str | None:
        """The package, or root, without which proftpd cannot confine its sessions."""
        if find_unpacked(cls.package, "usr/sbin/proftpd") is None:
            return cls.package
        return None if os.geteuid() == 0 else "proftpd as root"

    @classmethod
    def command(cls, settings: Path, server: FTPServer) -> Sequence[str | Path]:
        """The command."""
        users = settings / "users"
        users.write_text(
            f"{server.username}:{PASSWORD_CRYPTED}:{NOBODY_ID}:{NOBODY_ID}::{server.root}:/bin/sh\n"
        )
        users.chmod(0o600)
        path = settings / "proftpd.conf"
        path.write_text(
            PROFTPD_CONFIGURATION.format(
                server=server,
                settings=settings,
                users=users,
                six="on" if ":" in server.host else "off",
            )
        )
        program = find_unpacked(cls.package, "usr/sbin/proftpd") or "proftpd"
        return [
            *(sys.executable, PROGRAMS / "inetd.py", server.host, str(server.port)),
            *(program, "--nodaemon", "--quiet", "--config", path),
        ]


PROFTPD_CONFIGURATION = """\
ServerName test
ServerType inetd
DefaultAddress {server.host}
Port {server.port}
UseIPv6 {six}
UseReverseDNS off
User nobody
Group nogroup
PidFile {settings}/pid
ScoreboardFile {settings}/scoreboard
DelayEngine off
ControlsEngine off
SystemLog {settings}/system.log
TransferLog none
WtmpLog off
AuthOrder mod_auth_file.c
AuthUserFile {users}
RequireValidShell off
DefaultRoot ~
Umask 022
AllowOverwrite on
AllowRetrieveRestart on
AllowStoreRestart on
"""


class PyFTPdLib(ServerKind):
    """pyftpdlib's asynchronous server, as a program of its own."""

    name = "pyftpdlib"
    package = "pyftpdlib"

    @classmethod
    def missing(cls) -> str | None:
        """The Python package, if it cannot be imported."""
        return None if importlib.util.find_spec(cls.package) else cls.package

    @classmethod
    def command(cls, settings: Path, server: FTPServer) -> Sequence[str | Path]:
        """The command, a program beside this file."""
        program = PROGRAMS / f"{cls.name}_server.py"
        login = [server.username, server.password]
        return [sys.executable, program, server.host, str(server.port), *login, server.root]


class AioFTP(PyFTPdLib):
    """aioftp's server. It knows neither PORT nor EPRT."""

    name = "aioftp"
    package = "aioftp"
    modes = PASSIVE_ONLY


SERVERS: tuple[type[ServerKind], ...] = (VSFTPD, PureFTPd, ProFTPD, PyFTPdLib, AioFTP)
