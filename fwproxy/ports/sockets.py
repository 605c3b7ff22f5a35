"""Sockets on ports of the proxy, and what the kernel's refusals mean."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from fwproxy.address import Endpoint, Transport, is_loopback
from fwproxy.errors import AddressError, AddressInUseError, AddressNotAvailableError

OpenSocket = Callable[[int, int], socket.socket]
"""Makes a socket of a family and a type, as the class `socket.socket` does."""

_IP_TRANSPARENT = getattr(socket, "IP_TRANSPARENT", 19)
_IPV6_TRANSPARENT = 75
"""From linux/in6.h."""


def address_error(address: Endpoint, error: OSError) -> AddressError:
    """Return the error of the filter API for one of the kernel's."""
    if error.errno == errno.EADDRINUSE:
        return AddressInUseError(f"{address} is already in use")
    return AddressNotAvailableError(f"{address}: {error.strerror}")


def open_port(
    address: Endpoint,
    transport: Transport,
    *,
    shared: bool,
    foreign: bool = False,
    open_socket: OpenSocket = socket.socket,
) -> socket.socket:
    """Bind a non-blocking socket; a TCP one does not listen yet.

    Args:
        address: where; port 0 is any.
        transport: TCP or UDP.
        shared: whether other sockets that say the same may be bound there too; of TCP sockets
            only one can listen. That is right for one that is about to listen, because earlier
            connections of the port may still be in TIME_WAIT.
        foreign: whether it is the address of another host (S12).
        open_socket: makes the socket.

    Raises:
        AddressInUseError: the port is taken.
        AddressNotAvailableError: the address is none of this computer's, or not ours to use.
    """
    try:
        sock = open_socket(address.family, transport.socket_type | socket.SOCK_NONBLOCK)
        return _bound(sock, address, transport, shared=shared, foreign=foreign)
    except PermissionError as error:
        if not foreign:
            raise address_error(address, error) from error
        raise AddressNotAvailableError(
            f"{address.host} is none of this computer's addresses: to speak for another host the "
            "process needs CAP_NET_ADMIN"
        ) from error
    except OSError as error:
        raise address_error(address, error) from error


def _bound(
    sock: socket.socket, address: Endpoint, transport: Transport, *, shared: bool, foreign: bool
) -> socket.socket:
    try:
        if foreign:
            make_transparent(sock)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transport is Transport.TCP:
            set_up_stream(sock, address)
        sock.bind(address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def set_up_stream(sock: socket.socket, address: Endpoint, *, foreign: bool = False) -> None:
    """Set what every TCP socket of the proxy needs; accepted ones inherit it from their listener.

    On the loopback interface pacing has nothing to spare: with BBR, which the host may have as
    its default, every 64 KiB would wait for a timer of its own. Reno, which every kernel has,
    does not pace.

    Args:
        sock: new, or about to listen.
        address: where it will listen, or connect to.
        foreign: whether peers may come from anywhere whatever the address (TPROXY).
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what comes goes on at once
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # urgent bytes are bytes too
    if is_loopback(address.host) and not foreign:
        try:  # noqa: SIM105 - every connection passes here, and a context manager costs more
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        except OSError:  # an administrator may have forbidden it
            pass


def is_local(host: str, open_socket: OpenSocket = socket.socket) -> bool:
    """Tell whether *host* is an address of this computer."""
    address = Endpoint(host)
    try:
        with open_socket(address.family, socket.SOCK_DGRAM) as sock:
            sock.bind(address.sockaddr)
    except OSError:
        return False
    return True


def make_transparent(sock: socket.socket) -> None:
    """Let a socket be bound to an address of another host, as a router may (ip(7)).

    Raises:
        OSError: the process has neither CAP_NET_ADMIN nor CAP_NET_RAW.
    """
    if sock.family is socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def start_listening(sock: socket.socket, backlog: int) -> None:
    """Let peers come to a bound TCP socket that was not shared.

    Raises:
        AddressInUseError: somebody else listens there.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # accepted ones inherit it
    try:
        sock.listen(backlog)
    except OSError as error:
        raise address_error(Endpoint.from_sockaddr(sock.getsockname()), error) from error
