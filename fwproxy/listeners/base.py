"""What every listener does: accept, keep to the limits, and start a session."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fwproxy.address import Destination, Endpoint, IpFilter, Transport
from fwproxy.config.listeners import ListenerConfig
from fwproxy.connection.connection import Connection
from fwproxy.connection.sources import ANY_SOURCE, Source
from fwproxy.datapath.accept import Acceptor
from fwproxy.datapath.base import close_socket
from fwproxy.engine.engine import Engine
from fwproxy.errors import CallError
from fwproxy.flags import ConnectionFlags
from fwproxy.listeners.datagram_door import DatagramDoor
from fwproxy.listeners.header import HeaderReading
from fwproxy.logins import Logins
from fwproxy.ports.sockets import make_transparent, set_up_stream
from fwproxy.protocol import ProtocolDefinition
from fwproxy.session.services import Service, Services
from fwproxy.session.session import Session

if TYPE_CHECKING:
    from fwproxy.firewall import Sessions

_TRANSLATED = ConnectionFlags.INTERNAL_ADDRESS_TRANSLATION
"""Servers see an address of the proxy: every connection that it makes by itself is so."""

Open = Callable[[Session, Connection, socket.socket], None]


class Listener:
    """One way in. Subclasses say where an accepted client goes to.

    Attributes:
        config: its configuration.
        services: what it serves.
        address: where it listens, with the actual port.
        sessions: where its sessions are kept, with those of the other listeners.
        logins: who may log in; None where nobody has to.
        leads_to_ports: whether its clients ask it for every connection, also for those that they
            were told a port of the proxy for.
        is_transparent: whether its clients' connections arrive at addresses of other hosts.
    """

    leads_to_ports = False
    is_transparent = False

    def __init__(
        self,
        engine: Engine,
        config: ListenerConfig,
        services: Services,
        sessions: Sessions,
    ) -> None:
        self.engine = engine
        self.config = config
        self.services = services
        self.address = config.bind
        self.sessions = sessions
        self.logins: Logins | None = None
        if config.users is not None:
            log, places = engine.log.bind(listener=config.name), engine.password_checks
            self.logins = Logins(Path(config.users), engine.limits, self._now, places, log)
        self._trusted = IpFilter.only(*config.trusted)
        self._acceptor: Acceptor | None = None
        self._door: DatagramDoor | None = None

    def _now(self) -> float:
        return self.engine.deadlines.now()

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is in use or not ours.
        """
        if Transport.TCP in self.transports:
            self._start_accepting()
        if Transport.UDP in self.transports:
            self._door = DatagramDoor(self)
            self.address = self._door.address
        self.engine.log.info(
            "listening", listener=self.config.name, kind=self.config.kind.value,
            address=str(self.address), protocol=self.config.protocol,
        )  # fmt: skip

    @property
    def transports(self) -> frozenset[Transport]:
        """What clients may come by: what its protocol needs."""
        return frozenset({self.services.usual.protocol.transport})

    def _start_accepting(self) -> None:
        engine, config = self.engine, self.config
        open_socket = engine.poller.open_socket
        sock = open_socket(config.bind.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            set_up_stream(sock, config.bind, foreign=self.is_transparent)
            if config.bind.version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if self.is_transparent:
                make_transparent(sock)
            sock.bind(config.bind.sockaddr)
            sock.listen(config.backlog)
        except OSError as error:
            sock.close()
            raise self.cannot_listen(error) from error
        self.address = Endpoint.from_sockaddr(sock.getsockname())
        self._acceptor = Acceptor(
            engine.poller,
            engine.deadlines,
            sock,
            self.arrived if self.config.proxy_protocol == "off" else self._accepted_from_balancer,
            retry=engine.limits.accept_retry,
            on_exhausted=self._exhausted,
        )

    def cannot_listen(self, error: OSError) -> OSError:
        """Return an error that names the listener."""
        where = f"listener {self.config.name!r} cannot listen on {self.config.bind}"
        return OSError(error.errno, f"{where}: {error.strerror}")

    def stop(self) -> None:
        """Accept no more; sessions go on."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        if self._door is not None:
            self._door.close()
            self._door = None

    def _exhausted(self, error: OSError) -> None:
        self.engine.log.warning(
            "accept failed, new clients wait", listener=self.config.name, error=error.strerror
        )

    def _accepted_from_balancer(self, sock: socket.socket, peer: Endpoint) -> None:
        """Find out who the client is, if a load balancer says so."""
        if self._trusted.is_included(peer.host):
            if not self.is_full_for(sock, peer, counts=False):  # it is no client itself
                HeaderReading(self, sock, peer)
        elif self.config.proxy_protocol == "accept":
            self.arrived(sock, peer)
        else:
            close_socket(sock, abort=True)
            self.engine.log.warning(
                "client refused", listener=self.config.name, client=str(peer),
                reason="not a trusted load balancer (trusted)",
            )  # fmt: skip

    def is_full_for(self, sock: socket.socket, client: Endpoint, *, counts: bool = True) -> bool:
        """Cut a client off if a limit is reached, and tell; it may count against its rate."""
        refusal = self.sessions.refusal(client.host, counts=counts)
        if refusal is None:
            return False
        close_socket(sock, abort=True)
        self._log_refusal(client, refusal)
        return True

    def arrived(self, sock: socket.socket, client: Endpoint) -> None:
        """Take a client's socket."""
        if self.engine.expected and self._take_expected(sock, client):
            return
        self.admit(sock, client, self.open_primary)

    def admit(
        self,
        sock: socket.socket,
        client: Endpoint,
        open_primary: Open,
        *,
        service: Service | None = None,
        protocol: ProtocolDefinition | None = None,
        counts: bool = True,
    ) -> Session | None:
        """Start a session for a client, unless a limit is reached; None, and it is cut off, then.

        Args:
            sock: the client's socket.
            client: its address.
            open_primary: sets its connection on its way.
            service: what it is served; None is what the listener usually serves.
            protocol: what its connection is, if not the protocol of the service.
            counts: whether it has just come; after a handshake it was counted before.
        """
        if self.is_full_for(sock, client, counts=counts):
            return None
        session = self.sessions.open(self, client, service)
        source = self.source_of(client)
        connection = session.connection_class(
            session,
            protocol or session.protocol,
            client_address=client,
            flags=ConnectionFlags.NONE if source.is_foreign else _TRANSLATED,
            source=source,
        )
        connection.client_sock = sock
        session.primary = connection
        try:
            open_primary(session, connection, sock)
        except CallError as error:
            connection.close(str(error), failed=True)
        except Exception as error:  # noqa: BLE001 - one client's fault, not the listener's
            connection.close(f"internal error: {error!r}", failed=True, error=error)
        return session

    def _log_refusal(self, client: Endpoint, reason: str) -> None:
        more = self.engine.bursts.note(reason, client.host)
        if more is not None:  # one line for many
            self.engine.log.warning(
                "client refused",
                listener=self.config.name,
                client=str(client),
                reason=reason,
                more=more or None,
            )

    def _take_expected(self, sock: socket.socket, client: Endpoint) -> bool:
        """Hand a connection over to the session that expects it, if there is one."""
        expected = self.engine.expected
        server = self.destination(sock) if expected.expects(client.host) else None
        found = None if server is None else expected.claim(client.host, Transport.TCP, server)
        if found is None:
            return False
        found.accept(sock, client)
        return True

    def source_of(self, client: Endpoint) -> Source:  # noqa: ARG002 - of whatever client
        """Return where to leave from towards a client's servers."""
        return ANY_SOURCE

    def datagram_destination(self, near: Endpoint) -> Destination | None:  # noqa: ARG002 - as below
        """Return where a datagram goes that has come to *near*; None throws it away."""
        return self.config.upstream

    def destination(self, sock: socket.socket) -> Endpoint | None:  # noqa: ARG002 - subclasses look
        """Return where a client wants to go, where that is its own choice and known at once."""
        return None

    def open_primary(self, session: Session, connection: Connection, sock: socket.socket) -> None:
        """Set the connection on its way.

        Raises:
            CallError: it cannot go anywhere; the client is turned away.
        """
        raise NotImplementedError


def request(connection: Connection, server: Destination) -> None:
    """Ask for a server, unless the connection has ended already."""
    if connection.opening is not None:
        connection.opening.request(server)
