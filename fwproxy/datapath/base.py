"""What every data path has in common."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Protocol

_LINGER_RESET = struct.pack("ii", 1, 0)


class Relay(Protocol):
    """Carries the bytes of one connection between its two sockets, which it owns.

    Attributes:
        kind: what log and ledger call the data path: `splice`, `user`, `datagram`.
        last_active: the poller's time of the last traffic.
        client_bytes: bytes received from the client.
        server_bytes: bytes received from the server.
    """

    @property
    def last_active(self) -> float: ...  # noqa: D102

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def client_bytes(self) -> int: ...  # noqa: D102

    @property
    def server_bytes(self) -> int: ...  # noqa: D102

    def start(self) -> None:
        """Begin; may end at once and call `on_done` before it returns."""

    def close(self, *, abort: bool = False) -> None:
        """Close both sockets without calling `on_done`; *abort* resets them."""


Done = Callable[[str, bool, BaseException | None], None]
"""Told once that a relay has ended by itself: why, whether something broke, a filter's error."""


def close_socket(sock: socket.socket, *, abort: bool = False) -> None:
    """Close a socket, with a reset that the peer notices as a breakage if *abort*."""
    if abort:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    sock.close()
