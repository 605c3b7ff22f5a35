"""The words that servers, clients and the matrix of their combinations share."""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias
from urllib.parse import quote

import attrs

Family: TypeAlias = Literal[4, 6]

IPV4: frozenset[Family] = frozenset({4})
IPV6: frozenset[Family] = frozenset({6})
BOTH_FAMILIES: frozenset[Family] = frozenset({4, 6})
LOOPBACK: dict[Family, str] = {4: "127.0.0.1", 6: "::1"}


class Mode(enum.StrEnum):
    """Who opens the data connection: the client (passive) or the server (active)."""

    PASSIVE = "passive"
    ACTIVE = "active"


class Operation(enum.StrEnum):
    """What a client can be asked to do."""

    LIST = "list"
    FETCH = "fetch"
    RESUME = "resume"
    STORE = "store"
    FETCH_MANY = "fetch many"


ALL_OPERATIONS: frozenset[Operation] = frozenset(Operation)
PASSIVE_ONLY: frozenset[Mode] = frozenset({Mode.PASSIVE})
BOTH_MODES: frozenset[Mode] = frozenset(Mode)


@attrs.frozen
class Target:
    """Where a client shall connect and as whom: a server itself, or the proxy in front of it."""

    host: str
    port: int
    username: str
    password: str

    @property
    def bracketed_host(self) -> str:
        """`host` as it stands in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def url(self, path: str, *, credentials: bool = False) -> str:
        """The URL of `path`, relative to the directory that the login leads to."""
        user = f"{quote(self.username)}:{quote(self.password)}@" if credentials else ""
        return f"ftp://{user}{self.bracketed_host}:{self.port}/{path}"
