"""Who the client is, told to the server: the PROXY header before the first byte."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from fwproxy.config.listeners import ListenerKind
from fwproxy.handshake import proxy_header

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection

_TO_THE_PROXY = frozenset({ListenerKind.FORWARD, ListenerKind.GATEWAY})
"""Clients of these have connected to the proxy as if it were the server."""


def introduce(connection: Connection, sock: socket.socket) -> None:
    """Send the header that the listener is configured for, on a socket just connected."""
    config = connection.session.listener.config
    believed = connection.server_address
    if config.kind in _TO_THE_PROXY:
        believed = connection.internal_socket_name or believed
    if believed is not None:
        header = proxy_header.write(config.send_proxy, connection.client_address, believed)
        with contextlib.suppress(OSError):  # the relay will notice the same
            sock.send(header)
