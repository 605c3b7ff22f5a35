"""SOCKS UDP ASSOCIATE: datagrams of a client to any server (RFC 1928 sections 4 and 7)."""

from __future__ import annotations

import socket

from fwproxy.address import Destination, Endpoint, IpFilter, Transport
from fwproxy.connection.connection import Connection
from fwproxy.datapath.datagram import DATAGRAMS_PER_TURN
from fwproxy.datapath.poll import EVERYTHING
from fwproxy.errors import CallError, InvalidArgumentError, NotSupportedError
from fwproxy.filter import Ends
from fwproxy.handshake import socks_datagram
from fwproxy.listeners.answers import NOWHERE, Answer, outcome_of
from fwproxy.listeners.arrival import NO_MORE
from fwproxy.listeners.base import Listener
from fwproxy.listeners.datagram_sessions import Arrived, DatagramSessions
from fwproxy.listeners.handshaking import Handshaking
from fwproxy.secondary.call import SecondaryCall


def associate(listener: Listener, visitor: Handshaking, announced: Destination) -> None:
    """Open a port for the client's datagrams, or refuse.

    Args:
        listener: the listener that the client has come to.
        visitor: the client.
        announced: where it will send from; port 0 if it does not know.
    """
    service = listener.services.find(Transport.UDP, 0)
    here = Endpoint.from_sockaddr(visitor.sock.getsockname()).with_port(0)
    connection = None
    try:
        if service is None:
            raise NotSupportedError("the listener's protocol is not for datagrams")
        session = listener.sessions.open(listener, visitor.client, service)
        session.authenticated_user = visitor.user
        connection = Connection(session, service.protocol, client_address=visitor.client)
        session.primary = connection
        session.check_room(1, 0)
        call = SecondaryCall(session, service.protocol)
        (sock,) = call.allocate(here, 1, 1)
    except CallError as error:
        if connection is not None:
            connection.close(str(error), failed=True)
        visitor.refuse(visitor.handshake.reply(outcome_of(error), NOWHERE), str(error))
        return
    address = Endpoint.from_sockaddr(sock.getsockname())
    action = call.permit(address, None, IpFilter.only(visitor.client.host), connection.close)
    connection.bind(address, action)
    connection.client_sock = visitor.release()
    association = Association(listener, connection, sock, announced.port)
    connection.carry_by(association, listener.engine.limits.idle_timeout)
    told = (
        address
        if listener.config.advertise is None
        else Endpoint(listener.config.advertise, address.port)
    )
    Answer(listener, connection, visitor.handshake).grant(told)


class Association:
    """The relay of one association; each destination has a session of its own.

    Args:
        listener: the listener that the client has come to.
        connection: the client's connection, on which no more is said, and whose end ends this.
        sock: the bound, non-blocking socket for the client's datagrams.
        port: where the client will send from, or 0: then the first datagram tells.
    """

    kind = "datagram"

    def __init__(
        self, listener: Listener, connection: Connection, sock: socket.socket, port: int
    ) -> None:
        engine = listener.engine
        session = connection.session
        self._poller = engine.poller
        self._connection = connection
        self._sock = sock
        self._host = session.client_address.host
        self._port = port
        self._address = Endpoint.from_sockaddr(sock.getsockname())
        self._sessions = DatagramSessions(
            listener,
            self._reply,
            user=session.authenticated_user,
            max_sessions=engine.limits.max_peers_per_connection,
        )
        self.last_active = engine.poller.now
        self.client_bytes = 0
        self.server_bytes = 0
        self.dropped = 0

    def start(self) -> None:
        """Watch both sockets."""
        self._poller.watch(self._sock.fileno(), self, EVERYTHING)
        if self._connection.client_sock is not None:
            self._poller.watch(self._connection.client_sock.fileno(), self)

    def on_ready(self, fd: int, events: int) -> None:
        """Pass on what waits, or end with the client's connection."""
        if fd == self._sock.fileno():
            self._forward()
        elif events & NO_MORE:
            self._connection.close("closed")

    def on_broken(self, error: Exception) -> None:
        """End after a fault of our own."""
        self._connection.close(f"internal error: {error!r}", failed=True, error=error)

    def _forward(self) -> None:
        scratch = self._poller.scratch
        for _ in range(DATAGRAMS_PER_TURN):
            if self._connection.is_closed:
                return
            try:
                size, sender = self._sock.recvfrom_into(scratch)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier reply (udp(7))
            if sender[0] != self._host or self._port not in {0, sender[1]}:
                self.dropped += 1
            else:
                self._take(bytes(scratch[:size]), Endpoint.from_sockaddr(sender))
        self._poller.defer(self._forward)

    def _take(self, datagram: bytes, client: Endpoint) -> None:
        try:
            found = socks_datagram.parse(datagram)
        except InvalidArgumentError:
            self.dropped += 1
            return
        self._port = client.port
        self.last_active = self._poller.now
        self.client_bytes += len(found.data)
        arrived = Arrived(found.destination, client, self._address, found.destination)
        self._sessions.take(arrived, found.data)

    def _reply(self, data: bytes | memoryview, _: Arrived, ends: Ends) -> None:
        self.last_active = self._poller.now
        self.server_bytes += len(data)
        self._sock.sendto(socks_datagram.head(ends.server) + bytes(data), ends.client.sockaddr)

    def close(self, *, abort: bool = False) -> None:  # noqa: ARG002 - datagrams know no reset
        """End every session, and close the port."""
        self._sessions.end_all("the association has ended")
        self._poller.forget(self._sock.fileno())
        self._sock.close()
