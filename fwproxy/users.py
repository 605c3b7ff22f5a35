"""Users and their passwords, in a file that holds only what scrypt or Argon2 makes of them.

One line each, `name:$scrypt$ln=15,r=8,p=1$SALT$HASH`, salt and hash in base 64 without padding
(the form of the PHC string format); what begins with `$argon2id$` is read as well. Empty lines and
those that begin with # do not count.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs

from fwproxy.argon2_hash import Argon2Hash
from fwproxy.errors import ConfigError

COST_LOG2, BLOCK_SIZE, PARALLEL = 15, 8, 1
"""What a new hash costs: 128 * r * 2^ln bytes, 32 MiB, and some 80 ms."""
MAX_MEMORY = 256 * 1024 * 1024
"""Bytes that a line of the file may make scrypt use."""
MAX_FILE = 16 * 1024 * 1024
SALT_SIZE, HASH_SIZE = 16, 32
MAX_PASSWORD = 255
"""Bytes: more do not fit into a login of SOCKS 5."""

_LINE = re.compile(
    r"\$scrypt\$ln=(?P<ln>\d{1,2}),r=(?P<r>\d{1,3}),p=(?P<p>\d{1,2})"
    r"\$(?P<salt>[A-Za-z0-9+/]+)\$(?P<hash>[A-Za-z0-9+/]+)"
)


@attrs.frozen(slots=True)
class PasswordHash:
    """What scrypt has made of a password, and how."""

    cost_log2: int
    block_size: int
    parallel: int
    salt: bytes = attrs.field(repr=False)
    digest: bytes = attrs.field(repr=False)

    @classmethod
    def make(cls, password: bytes, *, cost_log2: int = COST_LOG2) -> PasswordHash:
        """Hash a password, with a new salt; it takes a while."""
        salt = secrets.token_bytes(SALT_SIZE)
        blank = cls(cost_log2, BLOCK_SIZE, PARALLEL, salt, bytes(HASH_SIZE))
        return attrs.evolve(blank, digest=blank._digest(password))

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Read what `str` writes.

        Raises:
            ValueError: it is no such text, or one that would need more than `MAX_MEMORY`.
        """
        found = _LINE.fullmatch(text)
        if found is None:
            raise ValueError("no hash of scrypt: make it with `fwproxy passwd`")
        try:
            salt, digest = _decode(found["salt"]), _decode(found["hash"])
        except binascii.Error:
            raise ValueError("salt or hash is not in base 64") from None
        made = cls(int(found["ln"]), int(found["r"]), int(found["p"]), salt, digest)
        if not (1 <= made.cost_log2 < 32 and made.block_size and made.parallel and len(salt) >= 8):
            raise ValueError("costs or salt that scrypt cannot use")
        if made.memory > MAX_MEMORY or len(digest) < SALT_SIZE:
            raise ValueError("a cost that is too high, or a hash that is too short")
        return made

    def __str__(self) -> str:
        costs = f"ln={self.cost_log2},r={self.block_size},p={self.parallel}"
        return f"$scrypt${costs}${_encode(self.salt)}${_encode(self.digest)}"

    @property
    def memory(self) -> int:
        """Bytes that a check needs."""
        return 128 * self.block_size * ((1 << self.cost_log2) + self.parallel)

    @property
    def work(self) -> int:
        """Bytes that a check goes through: each lane writes its memory, and reads it again."""
        return 2 * self.memory * self.parallel

    def like(self) -> PasswordHash:
        """Make a hash of nothing that costs as much."""
        salt, digest = secrets.token_bytes(SALT_SIZE), bytes(len(self.digest))
        return attrs.evolve(self, salt=salt, digest=digest)

    def is_of(self, password: bytes) -> bool:
        """Tell whether it was made of *password*; takes a while, the same for every answer."""
        return hmac.compare_digest(self._digest(password), self.digest)

    def _digest(self, password: bytes) -> bytes:
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=1 << self.cost_log2,
            r=self.block_size,
            p=self.parallel,
            maxmem=self.memory + (1 << 20),
            dklen=len(self.digest),
        )


AnyHash = PasswordHash | Argon2Hash


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def check_name(name: str) -> str:
    """Return a user's name as it is.

    Raises:
        ValueError: it is none that a file, a login or a rule could hold.
    """
    if not name or len(name.encode()) > 255 or not name.isprintable() or name != name.strip():
        raise ValueError(f"{name!r} is no user name: 1 to 255 printable characters")
    if ":" in name or name.startswith("#"):
        raise ValueError(f"{name!r} is no user name: it may not have a colon, or begin with #")
    return name


def read(path: Path) -> dict[str, AnyHash]:
    """Read a file of users.

    Raises:
        ConfigError: it cannot be read, or a line is wrong; the message names the line.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: no regular file")
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(text) > MAX_FILE:
        raise ConfigError(f"{path}: more than {MAX_FILE} bytes")
    users: dict[str, AnyHash] = {}
    for number, raw in enumerate(text.split(b"\n"), 1):
        try:
            entry = _parse_line(raw)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        if entry is not None and entry[0] in users:
            raise ConfigError(f"{path}:{number}: the user {entry[0]!r} again")
        users.update([] if entry is None else [entry])
    return users


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # does not wait for the writer of a pipe


def _parse_line(raw: bytes) -> tuple[str, AnyHash] | None:
    line = raw.decode("utf-8").strip()
    if not line or line.startswith("#"):
        return None
    name, _, rest = line.partition(":")
    kind = Argon2Hash if rest.startswith("$argon2") else PasswordHash
    return check_name(name), kind.parse(rest)


def write(path: Path, users: Mapping[str, AnyHash]) -> None:
    """Write a file of users, for its owner alone, at once as a whole.

    Raises:
        OSError: it cannot be written; the old one is still there then.
    """
    lines = "".join(f"{name}:{password}\n" for name, password in sorted(users.items()))
    kept = path.stat() if path.exists() else None
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(lines)
            if kept is not None:  # the proxy's group may have been let in
                os.fchmod(file.fileno(), kept.st_mode & 0o777)
                os.fchown(file.fileno(), kept.st_uid, kept.st_gid)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
