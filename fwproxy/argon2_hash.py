"""Hashes of Argon2id (RFC 9106) that others have made of passwords.

They are checked by argon2-cffi, which is an extra: `fwproxy passwd` makes hashes of scrypt, and for
those nothing is needed besides Python.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import re
import secrets

import attrs

MAX_MEMORY = 256 * 1024 * 1024
"""Bytes that a line of the file may make Argon2 use."""
MAX_PASSES, MAX_LANES = 16, 16
"""How often, and with how many threads, a line of the file may make it go through them."""

_KIB = 1024
_TEXT = re.compile(
    r"\$argon2id\$v=19\$m=(?P<m>\d{1,7}),t=(?P<t>\d{1,2}),p=(?P<p>\d{1,2})"
    r"\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<hash>[A-Za-z0-9+/]{22,86})"
)


@attrs.frozen(slots=True)
class Argon2Hash:
    """What Argon2id has made of a password, in the form of the PHC string format."""

    text: str = attrs.field(repr=False)
    memory: int
    passes: int

    @classmethod
    def parse(cls, text: str) -> Argon2Hash:
        """Read such a text.

        Raises:
            ValueError: it is none, would cost too much, or argon2-cffi is not installed.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError("no hash of Argon2id, version 19")
        memory, passes, lanes = int(found["m"]) * _KIB, int(found["t"]), int(found["p"])
        if memory > MAX_MEMORY or passes > MAX_PASSES or lanes > MAX_LANES:
            raise ValueError("a cost of Argon2 that is too high")
        if not passes or not lanes or memory < 8 * lanes * _KIB:
            raise ValueError("a cost that Argon2 cannot have")
        try:
            _decode(found["salt"]), _decode(found["hash"])
        except binascii.Error:
            raise ValueError("salt or hash is not in base 64") from None
        if importlib.util.find_spec("argon2") is None:
            raise ValueError("hashes of Argon2 need argon2-cffi: pip install 'fwproxy[argon2]'")
        return cls(text, memory, passes)

    def __str__(self) -> str:
        return self.text

    @property
    def work(self) -> int:
        """Bytes that a check goes through."""
        return self.memory * self.passes

    def like(self) -> Argon2Hash:
        """Make a hash of nothing that costs as much."""
        head, salt, digest = self.text.rsplit("$", 2)
        blank = [_encode(secrets.token_bytes(len(_decode(each)))) for each in (salt, digest)]
        return attrs.evolve(self, text="$".join([head, *blank]))

    def is_of(self, password: bytes) -> bool:
        """Tell whether it was made of *password*; takes a while, the same for every answer."""
        from argon2.exceptions import VerifyMismatchError  # noqa: PLC0415 - an extra
        from argon2.low_level import Type, verify_secret  # noqa: PLC0415 - an extra

        try:
            return verify_secret(self.text.encode("ascii"), password, Type.ID)
        except VerifyMismatchError:
            return False


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
