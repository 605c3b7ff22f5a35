"""What a script has led to, as a value."""

from __future__ import annotations

import attrs

from fwproxy.testing.peers import Peer


@attrs.frozen
class Outcome:
    """What a script has led to, to be compared with what another one has.

    Attributes:
        to_client: bytes that the client has got and not taken.
        to_server: bytes that the server has got and not taken.
        client_left: how the client was left: `open`, `ended` or `reset`.
        server_left: the same of the server; `absent` if there is none.
        calls: the name, arguments and error of every call.
        open: the permissions that are left, as the ledger spells them.
    """

    to_client: bytes
    to_server: bytes
    client_left: str
    server_left: str
    calls: tuple[tuple[str, str, str], ...]
    open: tuple[str, ...]


def left(peer: Peer) -> str:
    """Say in what state the proxy has left an end."""
    if peer.is_reset:
        return "reset"
    return "ended" if peer.has_ended else "open"
