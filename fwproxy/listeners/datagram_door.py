"""The bound socket of a listener for datagrams."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from fwproxy.address import Endpoint
from fwproxy.datapath.arrivals import (
    ANCILLARY_SIZE,
    leaving_from,
    read_near,
    tell_local,
    tell_original,
)
from fwproxy.datapath.datagram import DATAGRAMS_PER_TURN
from fwproxy.datapath.poll import EVERYTHING
from fwproxy.filter import Ends
from fwproxy.listeners.datagram_sessions import Arrived, DatagramSessions
from fwproxy.ports.sockets import make_transparent

if TYPE_CHECKING:
    from fwproxy.listeners.base import Listener

_RECEIVE_BUFFER = 1024 * 1024
"""Bytes asked of the kernel: all clients of the listener share them."""


class DatagramDoor:
    """Reads what clients send, and hands it to their sessions.

    A wildcard socket answers from the address that the client has sent to. Behind TPROXY that is
    the server's; then each session has a socket with this address, connected to its client, which
    the kernel prefers for all that follows.

    Args:
        listener: whose socket it is.

    Attributes:
        address: where it listens, with the actual port.

    Raises:
        OSError: the address is in use or not ours.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._is_transparent = listener.is_transparent
        self._knows_near = self._is_transparent or listener.config.bind.is_unspecified
        self.sock = self._open()
        self.address = Endpoint.from_sockaddr(self.sock.getsockname())
        self._poller = listener.engine.poller
        self._sessions = DatagramSessions(
            listener,
            self._reply,
            near_socket=self._near_socket if self._is_transparent else None,
            source_of=listener.source_of,
            advertises_server=self._is_transparent,
        )
        self._is_closed = False
        self._poller.watch(self.sock.fileno(), self, EVERYTHING)

    def _open(self) -> socket.socket:
        # The TCP side of the listener may have chosen the port.
        bind, chosen = self._listener.config.bind, self._listener.address.port
        sock = socket.socket(bind.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if bind.version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if self._is_transparent:
                make_transparent(sock)
                tell_original(sock)
            elif self._knows_near:
                tell_local(sock)
            sock.bind(bind.with_port(chosen).sockaddr)
        except OSError as error:
            sock.close()
            raise self._listener.cannot_listen(error) from error
        return sock

    def on_ready(self, fd: int, events: int) -> None:  # noqa: ARG002 - reading tells
        """Pass on what waits."""
        self._forward()

    def on_broken(self, error: Exception) -> None:
        """Report a failure of one client's session; go on with the others."""
        self._poller.report(error)
        self._poller.defer(self._forward)

    def _forward(self) -> None:
        scratch = self._poller.scratch
        for _ in range(DATAGRAMS_PER_TURN):
            if self._is_closed:
                return
            near: Endpoint | None = self.address
            sender: Any
            try:
                if self._knows_near:
                    size, told, _, sender = self.sock.recvmsg_into([scratch], ANCILLARY_SIZE)
                    near = read_near(told, self.address)
                else:
                    size, sender = self.sock.recvfrom_into(scratch)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier reply (udp(7))
            if near is not None:
                self._take(scratch[:size], sender, near)
        self._poller.defer(self._forward)

    def _take(self, data: memoryview, sender: Any, near: Endpoint) -> None:
        destination = self._listener.datagram_destination(near)
        if destination is None or not sender[1]:
            return
        client = Endpoint.from_sockaddr(sender)
        key = (client, near) if self._is_transparent else client
        self._sessions.take(Arrived(key, client, near, destination, sender), data)

    def _near_socket(self, arrived: Arrived) -> socket.socket:
        """Make a socket at the server's address that hears only this client."""
        near = arrived.near
        sock = socket.socket(near.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            make_transparent(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one for each client
            sock.bind(near.sockaddr)
            sock.connect(arrived.peer)
        except BaseException:
            sock.close()
            raise
        return sock

    def _reply(self, data: bytes | memoryview, arrived: Arrived, ends: Ends) -> None:
        if self._is_closed:  # nobody listens any more, but sessions go on
            return
        client = ends.client.sockaddr
        if self._knows_near:
            self.sock.sendmsg([data], leaving_from(arrived.near), 0, client)
        else:
            self.sock.sendto(data, client)

    def close(self) -> None:
        """Begin no more sessions."""
        self._is_closed = True
        self._sessions.stop()
        self._poller.forget(self.sock.fileno())
        self.sock.close()
