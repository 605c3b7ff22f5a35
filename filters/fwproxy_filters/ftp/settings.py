"""What can be set for the FTP filter, in `[filters.ftp]` or for one listener."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from fwproxy.errors import ConfigError


def _verbs(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(verb.upper() for verb in given)


def _limits(given: Mapping[str, int]) -> dict[str, int]:
    return {verb.upper(): limit for verb, limit in given.items()}


@attrs.frozen(slots=True)
class FtpSettings:
    """Settings of the FTP filter.

    Attributes:
        data_mode: how the server's data connections are made: as the `client` asks, always
            `active`, or always `passive`.
        passive_address: an address in the reply to PASV that is not the server's: `strict`
            refuses it, `ignore` takes the server's own with the port given, `allow` takes it if
            the policy does.
        tls: AUTH is answered 534 (`refuse`), or passed on and the session no longer edited once
            the server agrees (`opaque`).
        read_only: refuse commands that write.
        allow: verbs that may be used; empty means all.
        deny: verbs that may not be used.
        unknown_commands: `refuse` verbs that no document knows, or `pass` them on.
        argument_limits: bytes that the argument of a verb may have.
        low_ports: let data connections go to ports below 1024.
        accept_lf_replies: take replies whose lines end with a bare LF.
        max_pipelined: commands that may wait for their replies.
    """

    data_mode: Literal["client", "active", "passive"] = "client"
    passive_address: Literal["strict", "ignore", "allow"] = "ignore"
    tls: Literal["refuse", "opaque"] = "refuse"
    read_only: bool = False
    allow: tuple[str, ...] = attrs.field(default=(), converter=_verbs)
    deny: tuple[str, ...] = attrs.field(default=(), converter=_verbs)
    unknown_commands: Literal["refuse", "pass"] = "refuse"
    argument_limits: Mapping[str, int] = attrs.field(factory=dict, converter=_limits)
    low_ports: bool = False
    accept_lf_replies: bool = False
    max_pipelined: int = 64

    def __attrs_post_init__(self) -> None:
        if self.max_pipelined < 1:
            raise ConfigError("max_pipelined must be at least 1")
        for verb, limit in self.argument_limits.items():
            if limit < 0:
                raise ConfigError(f"the argument limit of {verb} must not be negative")
