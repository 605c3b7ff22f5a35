"""Subprocesses that end in bounded time, together with their children, in a namespace or not."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
STOP_TIMEOUT = 3.0
UNPACKED = Path(__file__).resolve().parents[2] / ".packages"


def find_program(name: str) -> str | None:
    """The path of a program, also where an ordinary user's PATH does not lead."""
    return shutil.which(name, path=SEARCH_PATH)


def find_unpacked(package: str, file: str) -> Path | None:
    """A program of a package that tests/install-packages unpacked, or that is installed."""
    path = UNPACKED / package / file
    if path.exists():
        return path
    installed = find_program(path.name)
    return Path(installed) if installed else None


def in_namespace(namespace: str | None, args: Sequence[str | Path]) -> list[str]:
    """The command that runs `args` in a network namespace, or as it is for None."""
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    return prefix + [str(arg) for arg in args]


def clean_environment(home: Path) -> dict[str, str]:
    """An environment in which no setting of the user changes what a client does."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    kept |= {"HOME": str(home), "LC_ALL": "C", "TERM": "dumb", "PATH": SEARCH_PATH}
    return kept | {"NCFTPDIR": str(home / ".ncftp")}  # ncftp asks /etc/passwd for its home


def run(
    args: Sequence[str | Path],
    *,
    namespace: str | None = None,
    timeout: float = 30.0,
    standard_input: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """The standard output of a command; AssertionError with all it said if it fails or hangs."""
    command = in_namespace(namespace, args)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
    with killed_at_end(process):
        try:
            output, errors = process.communicate(standard_input, timeout)
        except subprocess.TimeoutExpired:
            kill_group(process, signal.SIGKILL)
            output, errors = process.communicate()
            raise AssertionError(
                _story(command, f"no end in {timeout} s", output, errors)
            ) from None
    if process.returncode != 0:
        raise AssertionError(_story(command, f"exit {process.returncode}", output, errors))
    return output


def _story(command: Sequence[str], outcome: str, output: str, errors: str) -> str:
    return f"{shlex.join(command)}: {outcome}\n--- output\n{output}\n--- errors\n{errors}"


@contextlib.contextmanager
def killed_at_end(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill what is left of the process and its group when the block is left by an exception."""
    try:
        yield
    except BaseException:
        kill_group(process, signal.SIGKILL)
        process.wait()
        raise


def kill_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Signal a process that leads its own group, and the whole group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process group: politely first, then by force, children that outlive it included."""
    if process.poll() is None:
        kill_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
    kill_group(process, signal.SIGKILL)
    process.wait()
