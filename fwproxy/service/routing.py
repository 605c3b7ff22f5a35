"""Making and taking back the rules of `fwproxy.service.setup_rules` on this host."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from fwproxy.errors import FwproxyError
from fwproxy.service.setup_rules import SetUp

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_TIMEOUT = 30.0


class RoutingError(FwproxyError):
    """The rules could not be made or taken back; the message says what nft or ip said."""


def apply(found: SetUp) -> None:
    """Make the rules; afterwards all of them are there, or none.

    Raises:
        RoutingError: they could not be made.
    """
    try:
        for command in found.commands:
            _run(["ip", *command])
        _run(["nft", "-f", "-"], found.ruleset)
    except RoutingError:
        undo(found)
        raise


def undo(found: SetUp) -> None:
    """Take back what is there.

    Raises:
        RoutingError: nft has failed, for instance for want of rights.
    """
    _run(["nft", "-f", "-"], found.undo_ruleset)
    for command in found.undo_commands:
        _run(["ip", *command], may_fail=True)  # it was not there


def _run(command: Sequence[str], text: str = "", *, may_fail: bool = False) -> None:
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        raise RoutingError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(  # noqa: S603 - the program is known, and no shell is involved
            [program, *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise RoutingError(f"{' '.join(command)} does not end") from None
    if done.returncode and not may_fail:
        raise RoutingError(f"{' '.join(command)}: {done.stderr.strip()}")
