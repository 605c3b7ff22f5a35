"""Several handshakes on one port, told apart by the first byte."""

from __future__ import annotations

from fwproxy.address import Endpoint
from fwproxy.handshake import socks4, socks5
from fwproxy.handshake.base import Handshake, Outcome, Refusal, Say, Step
from fwproxy.handshake.http_connect import HttpConnect


class Detect(Handshake):
    """One client whose first byte is awaited.

    Args:
        needs_login: whether users must log in.
        with_socks: whether SOCKS 4, 4a and 5 are taken.
        with_http: whether HTTP is; no request of it begins with 4 or 5.
    """

    def __init__(self, *, needs_login: bool, with_socks: bool, with_http: bool) -> None:
        self._needs_login = needs_login
        self._with_socks = with_socks
        self._with_http = with_http
        self._found: Handshake | None = None

    @property
    def name(self) -> str:  # type: ignore[override]  # of the one that was found
        """What the log calls it."""
        return "unknown" if self._found is None else self._found.name

    @property
    def max_size(self) -> int:  # type: ignore[override]  # as above
        """The most bytes that a step may need."""
        return HttpConnect.max_size if self._found is None else self._found.max_size

    def step(self, data: bytes) -> Step | None:
        """Return the next step of the handshake that the first byte belongs to."""
        if self._found is None:
            self._found = self._detect(data[0])
        if self._found is None:
            return Refusal(len(data), b"", f"{data[0]} begins no handshake of this listener")
        return self._found.step(data)

    def _detect(self, first: int) -> Handshake | None:
        if self._with_socks and first == socks4.VERSION:
            return socks4.Socks4(needs_login=self._needs_login)
        if self._with_socks and first == socks5.VERSION:
            return socks5.Socks5(needs_login=self._needs_login)
        return HttpConnect(needs_login=self._needs_login) if self._with_http else None

    def logged_in(self, ok: bool) -> Say | Refusal | None:  # noqa: FBT001 - an answer
        """Pass it on."""
        return None if self._found is None else self._found.logged_in(ok)

    def too_long(self) -> Refusal:
        """Pass it on."""
        return Refusal(0, b"", "too long") if self._found is None else self._found.too_long()

    def reply(self, outcome: Outcome, address: Endpoint) -> bytes:
        """Pass it on."""
        return b"" if self._found is None else self._found.reply(outcome, address)
