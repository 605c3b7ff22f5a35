"""OpenSSH's server with keys of its own, and its client by a ProxyCommand.

Nothing of the host's own ssh is used or changed: the server has a mount namespace, in which /run
and /etc/passwd are its own.
"""

from __future__ import annotations

import contextlib
import pwd
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from .namespaces import Network, Side, reach
from .processes import clean_environment, find_program, find_unpacked, run
from .proxy import wait_until

PROGRAM = "openssh-server", "usr/sbin/sshd"
PORT = 22
CONFIGURATION = """
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
"""
# It wants a directory in /run, and a user that the package makes where it is installed.
STARTING = """
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$1" /etc/passwd
shift
exec "$@"
"""


def missing() -> str | None:
    """The package that is missing here."""
    if find_unpacked(*PROGRAM) is None:
        return "openssh-server"
    return None if find_program("ssh") else "openssh-client"


@attrs.frozen
class Shell:
    """A server that one key may log in to, as root of its host.

    Attributes:
        net: where it is.
        directory: where the keys are.
    """

    net: Network
    directory: Path

    def command(self, server: str, connector: Sequence[str] | None) -> list[str]:
        """The client's command line; the connector, if any, is its ProxyCommand."""
        options = [
            f"IdentityFile={self.directory}/user", "IdentitiesOnly=yes", "BatchMode=yes",
            f"UserKnownHostsFile={self.directory}/known", "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes", "ConnectTimeout=10", f"Port={PORT}",
        ]  # fmt: skip
        if connector is not None:
            options.append(f"ProxyCommand={shlex.join(connector)}")
        words = [word for option in options for word in ("-o", option)]
        return [find_program("ssh") or "ssh", "-F", "none", "-T", *words, f"root@{server}"]

    def run(self, server: str, connector: Sequence[str] | None, script: str, said: str = "") -> str:
        """What a script of the shell says, which gets what is said."""
        return run(
            [*self.command(server, connector), script],
            namespace=self.net.namespace(Side.CLIENT),
            standard_input=said,
            env=clean_environment(self.directory),
        )


def make_key(path: Path) -> None:
    """Make a pair of keys; the public one has the suffix .pub."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path])


@contextlib.contextmanager
def running_sshd(net: Network, host: str, directory: Path, names: Sequence[str]) -> Iterator[Shell]:
    """Run the server at an address; clients know its key by these names."""
    program = find_unpacked(*PROGRAM)
    assert program is not None
    for name in ("host", "user"):
        make_key(directory / name)
    key = directory.joinpath("host.pub").read_text()
    directory.joinpath("known").write_text(f"{','.join(names)} {key}")
    configuration, users = directory / "sshd_config", directory / "passwd"
    configuration.write_text(CONFIGURATION.format(directory=directory))
    nobody = f"sshd:x:{pwd.getpwnam('nobody').pw_uid}:65534::/run/sshd:/usr/sbin/nologin\n"
    users.write_text(f"root:x:0:0:root:{directory}:/bin/sh\n{nobody}")
    command = [program, "-D", "-e", "-f", configuration, "-o", f"ListenAddress={host}:{PORT}"]
    with net.popen(Side.SERVER, ["sh", "-ec", STARTING, "sh", users, *command]):
        wait_until(lambda: reach(net, Side.PROXY, host, PORT) == "connected", "sshd has started")
        yield Shell(net, directory)
