"""The PROXY header of a load balancer, before anything else."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint
from fwproxy.errors import InvalidArgumentError
from fwproxy.handshake import proxy_header
from fwproxy.listeners.arrival import Arrival

if TYPE_CHECKING:
    from fwproxy.listeners.base import Listener


class HeaderReading(Arrival):
    """A connection from a trusted load balancer, until its header has come."""

    __slots__ = ()

    def __init__(self, listener: Listener, sock: socket.socket, balancer: Endpoint) -> None:
        super().__init__(listener, sock, balancer, listener.engine.limits.handshake_timeout)

    def look(self) -> None:
        """Read the header; the client that it names takes the balancer's place."""
        try:
            data = self.peek(proxy_header.MAX_SIZE)
            header = proxy_header.parse(data) if data else None
        except (InvalidArgumentError, OSError) as error:
            self.refused(f"no PROXY header: {error}")
            return
        if header is not None:
            self.take(header.used)
            self.listener.arrived(self.release(), header.source or self.client)
        elif data == b"" or self.is_all:
            self.refused("no PROXY header before the end")
