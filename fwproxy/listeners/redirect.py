"""`redirect`: transparent, by nftables REDIRECT; the kernel tells the original destination."""

from __future__ import annotations

import ipaddress
import socket
import struct

from fwproxy.address import Endpoint
from fwproxy.listeners.transparent import TransparentListener

SO_ORIGINAL_DST = 80
"""The same number in linux/netfilter_ipv4.h and, as IP6T_SO_ORIGINAL_DST, in its IPv6 sister."""


def original_destination(sock: socket.socket) -> Endpoint | None:
    """Return where the client wanted to go, or None when the connection was not redirected."""
    try:
        if sock.family == socket.AF_INET6:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            port, address = struct.unpack_from("!2xH4x16s", raw)
        else:
            raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            port, address = struct.unpack_from("!2xH4s", raw)
    except OSError:
        return None
    return Endpoint(str(ipaddress.ip_address(address)), port)


class RedirectListener(TransparentListener):
    """Serves clients that do not know of the proxy.

    They are told the address of their server wherever an address of the proxy is due, because
    that is what they believe to talk to; the same nftables rule redirects those ports too. An
    address that the listener is configured to `advertise` takes its place.
    """

    def destination(self, sock: socket.socket) -> Endpoint | None:
        """Return the original destination, unless that is the proxy itself."""
        server = original_destination(sock)
        return None if server == Endpoint.from_sockaddr(sock.getsockname()) else server
