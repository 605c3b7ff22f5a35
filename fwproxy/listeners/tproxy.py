"""`tproxy`: transparent, by nftables TPROXY; a client's socket has its server's address."""

from __future__ import annotations

import socket

from fwproxy.address import Destination, Endpoint, Transport
from fwproxy.connection.sources import ANY_SOURCE, Source
from fwproxy.listeners.transparent import TransparentListener
from fwproxy.ports.sockets import is_local


class TproxyListener(TransparentListener):
    """Serves clients that do not know of the proxy, with TCP and with datagrams.

    The proxy speaks with the server's address to the client, on every connection. With
    `source = "client"` it speaks with the client's address to the server too.
    """

    is_transparent = True

    @property
    def transports(self) -> frozenset[Transport]:
        """What clients may come by: both, unless a protocol is configured."""
        return frozenset(Transport) if self.config.protocol is None else super().transports

    def source_of(self, client: Endpoint) -> Source:
        """Return the client's own address, if servers are to see that."""
        if self.config.source == "proxy":
            return ANY_SOURCE
        return Source(client.with_port(0), is_foreign=True)

    def destination(self, sock: socket.socket) -> Endpoint | None:
        """Return the socket's own address, unless it is the listener's."""
        return self._unless_own(Endpoint.from_sockaddr(sock.getsockname()))

    def datagram_destination(self, near: Endpoint) -> Destination | None:
        """Return the address that the datagram was sent to, unless it is the listener's."""
        return self._unless_own(near)

    def _unless_own(self, server: Endpoint) -> Endpoint | None:
        own = self.config.bind
        if server.port != self.address.port:
            return server
        is_own = own.host == server.host or (own.is_unspecified and is_local(server.host))
        return None if is_own else server
