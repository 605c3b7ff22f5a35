"""Logins: whether a name and a password are right, without haste and without blocking.

A wrong one costs as much time as a right one, whether the name exists or not. Clients that guess
are turned away unheard after a few. Nothing but time forgives a wrong login: if a right one did,
whoever has an account of his own could go on guessing at the others'.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import structlog

from fwproxy import users
from fwproxy.config.config import Limits
from fwproxy.engine.quotas import client_of
from fwproxy.errors import ConfigError
from fwproxy.users import AnyHash, PasswordHash

MAX_REMEMBERED = 10_000
"""Clients that have guessed, and logins that were right, each."""


_K = TypeVar("_K")
_V = TypeVar("_V")


class Logins:
    """The logins of one listener.

    The file is read again when it has changed; while it cannot be read, what it said before holds.

    Args:
        path: the file of users.
        limits: bounds and times.
        now: the clock.
        places: for so many checks at a time, of all listeners together.
        log: for what is wrong with the file.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        now: Callable[[], float],
        places: asyncio.Semaphore,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._path = path
        self._limits = limits
        self._now = now
        self._places = places
        self._log = log
        self._stamp = _stamp(path)
        self._users = users.read(path)
        self._nobody = _like(self._users.values())
        self._secret = secrets.token_bytes(32)
        self._guesses: OrderedDict[str, deque[float]] = OrderedDict()  # when each one was
        self._right: OrderedDict[bytes, float] = OrderedDict()

    async def check(self, user: str, password: bytes, host: str) -> bool:
        """Tell whether a login is right; a client that has guessed too often is told no.

        Checks that run at the same time do not know of each other: with `max_password_checks`, so
        many guesses less one may be heard beyond `max_failed_logins`.
        """
        client, key = client_of(host), self._key(user, password)
        if self._has_guessed(client):
            self._log.warning("login refused", client=host, reason="max_failed_logins")
            return False
        if self._is_remembered(key):
            return True
        async with self._places:
            if self._has_guessed(client):  # meanwhile, with other connections
                return False
            is_right = self._is_remembered(key) or await self._is_right(user, password)
        if is_right:
            _put(self._right, key, self._now())
        else:
            self._note_guess(client)
            self._log.warning("login failed", client=host, user=user)
        return is_right

    async def _is_right(self, user: str, password: bytes) -> bool:
        await self._read_again()
        known = self._users.get(user)
        work = functools.partial((known or self._nobody).is_of, password)
        is_right = await asyncio.get_running_loop().run_in_executor(None, work)
        return is_right and known is not None

    async def _read_again(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            loop = asyncio.get_running_loop()
            self._users = await loop.run_in_executor(None, users.read, self._path)
        except ConfigError as error:
            self._log.error("users not read, the former ones hold", error=str(error))
        else:
            self._nobody = _like(self._users.values())
            self._right.clear()

    def _key(self, user: str, password: bytes) -> bytes:
        """Return what stands for a login in memory: nobody can tell the password from it."""
        name = user.encode("utf-8", "surrogateescape")
        parts = len(name).to_bytes(4, "big") + name + password
        return hmac.digest(self._secret, parts, hashlib.sha256)

    def _is_remembered(self, key: bytes) -> bool:
        since = self._right.get(key)
        if since is None or self._now() - since > self._limits.login_memory:
            self._right.pop(key, None)
            return False
        return _stamp(self._path) == self._stamp

    def _has_guessed(self, client: str) -> bool:
        guesses = self._guesses.get(client)
        if guesses is None:
            return False
        oldest = self._now() - self._limits.failed_login_memory
        while guesses and guesses[0] < oldest:
            guesses.popleft()
        if not guesses:
            del self._guesses[client]
        return len(guesses) >= self._limits.max_failed_logins

    def _note_guess(self, client: str) -> None:
        guesses = self._guesses.get(client) or deque(maxlen=self._limits.max_failed_logins)
        guesses.append(self._now())
        _put(self._guesses, client, guesses)


def _put(table: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > MAX_REMEMBERED:
        table.popitem(last=False)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _like(hashes: Iterable[AnyHash]) -> AnyHash:
    """Make a hash of nothing that costs as much as the dearest one."""
    dearest = max(hashes, key=lambda each: each.work, default=None)
    if dearest is None:
        salt, digest = secrets.token_bytes(users.SALT_SIZE), bytes(users.HASH_SIZE)
        return PasswordHash(users.COST_LOG2, users.BLOCK_SIZE, users.PARALLEL, salt, digest)
    return dearest.like()
