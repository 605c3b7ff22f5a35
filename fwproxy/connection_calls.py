"""What a filter may ask of a connection, and do with it."""

from __future__ import annotations

import enum
import socket
from typing import TYPE_CHECKING

from fwproxy.address import Destination, Endpoint, IpFilter, Transport
from fwproxy.datapath.base import Relay
from fwproxy.errors import (
    BadContextError,
    InvalidArgumentError,
    NotSupportedError,
    TerminatingError,
)
from fwproxy.events import (
    AcceptedConnection,
    BindTcp,
    BindUdp,
    ConnectTcp,
    Event,
    UdpDestination,
)
from fwproxy.filter import DataFilter, Priority
from fwproxy.flags import ConnectionFlags, SecondaryFlags
from fwproxy.ledger import FirewallAction
from fwproxy.opening import Opening
from fwproxy.protocol import ProtocolDefinition

if TYPE_CHECKING:
    from fwproxy.session import Session

_MAY_ATTACH = (AcceptedConnection, BindUdp, ConnectTcp, UdpDestination)
_MAY_DENY = (AcceptedConnection, BindTcp, BindUdp, ConnectTcp)


class ConnectionState(enum.Enum):
    """Where in its life a connection is."""

    NEW = "new"
    BOUND = "bound"
    """A port of the proxy waits for the peer."""
    CONNECTING = "connecting"
    ESTABLISHED = "established"
    CLOSED = "closed"


class ConnectionCalls:
    """The filters' side of a connection; its life is led by `fwproxy.connection.Connection`.

    Attributes:
        id: its number in log and ledger.
        session: whose it is.
        protocol: the definition that it was opened for.
        transport: TCP or UDP.
        client_address: the client's end; all zeros while it is not known.
        server_address: the server's end, or None while it is not known.
        proxy_address: where the proxy listens for it (secondary inbound), or None.
        permission: the one that it was opened with, if it is a secondary one.
        context: the object given to `bind_for_client` or `redirect_connections`.
        state: where in its life it is.
        close_reason: why it ended, or None.
    """

    __slots__ = (
        "_denied", "_flags", "_handling", "_ip_filter", "_is_secondary",
        "_relay", "_secondary_flags", "client_address", "client_sock", "close_reason", "context",
        "data_filters", "id", "opening", "permission", "protocol", "proxy_address",
        "server_address", "server_sock", "session", "started", "state", "transport",
    )  # fmt: skip

    id: int
    session: Session
    protocol: ProtocolDefinition
    transport: Transport
    client_address: Endpoint
    server_address: Endpoint | None
    proxy_address: Endpoint | None
    permission: FirewallAction | None
    context: object
    state: ConnectionState
    close_reason: str | None
    started: float
    client_sock: socket.socket | None
    server_sock: socket.socket | None
    opening: Opening | None
    data_filters: list[tuple[Priority, DataFilter, object]] | None
    _flags: ConnectionFlags
    _is_secondary: bool
    _ip_filter: IpFilter | None
    _secondary_flags: SecondaryFlags
    _relay: Relay | None
    _handling: type[Event] | None
    _denied: bool

    @property
    def connection_flags(self) -> ConnectionFlags:
        """What is true of this connection."""
        return self._flags | ConnectionFlags.TERMINATED if self.is_closed else self._flags

    @property
    def is_secondary(self) -> bool:
        """Whether a filter's call opened it."""
        return self._is_secondary

    @property
    def ip_filter(self) -> IpFilter | None:
        """Who may be at the remote end; a value, so that changing it changes nothing here."""
        return self._ip_filter

    def set_ip_filter(self, ip_filter: IpFilter | None) -> None:
        """Restrict the remote end; None lifts the restriction. For those who come from now on."""
        self._ip_filter = ip_filter
        if self.permission is not None and self.proxy_address is not None:
            self.permission.peers = ip_filter

    @property
    def data_path(self) -> str:
        """`splice`, `user` or `datagram`; empty until bytes can flow."""
        return "" if self._relay is None else self._relay.kind

    @property
    def client_bytes(self) -> int:
        """Bytes received from the client."""
        return 0 if self._relay is None else self._relay.client_bytes

    @property
    def server_bytes(self) -> int:
        """Bytes received from the server."""
        return 0 if self._relay is None else self._relay.server_bytes

    @property
    def last_active(self) -> float:
        """The time of the last traffic, on the loop's clock."""
        return self.started if self._relay is None else self._relay.last_active

    @property
    def external_socket_name(self) -> Endpoint | None:
        """The proxy's address towards the server."""
        return _socket_name(self.server_sock)

    @property
    def external_peer_name(self) -> Endpoint | None:
        """The server's address."""
        return self.server_address

    @property
    def internal_socket_name(self) -> Endpoint | None:
        """The proxy's address towards the client."""
        return _socket_name(self.client_sock)

    @property
    def internal_peer_name(self) -> Endpoint:
        """The client's address."""
        return self.client_address

    @property
    def has_data_filters(self) -> bool:
        """Whether a data filter is attached."""
        return bool(self.data_filters)

    def attach_data_filter(
        self,
        data_filter: DataFilter,
        priority: Priority = Priority.MIDDLE,
        context: object = None,
    ) -> None:
        """Put a filter into the byte stream; filters of one priority stand in call order.

        Raises:
            BadContextError: not inside the handler of AcceptedConnection, BindUdp, ConnectTcp
                or UdpDestination for this connection, or bytes flow already.
            NotSupportedError: the connection carries datagrams.
        """
        if self._handling not in _MAY_ATTACH or self._relay is not None:
            raise BadContextError(
                "a data filter is attached inside the handler of AcceptedConnection, BindUdp, "
                "ConnectTcp or UdpDestination, before bytes flow"
            )
        if self.transport is Transport.UDP:
            raise NotSupportedError("data filters do not see datagrams yet")
        filters = self.data_filters or []
        filters.append((priority, data_filter, context))
        filters.sort(key=lambda entry: entry[0])
        self.data_filters = filters

    def deny(self) -> None:
        """Refuse the connection from inside an event handler.

        Raises:
            BadContextError: not inside the handler of AcceptedConnection, BindTcp, BindUdp or
                ConnectTcp for this connection.
        """
        if self._handling not in _MAY_DENY:
            raise BadContextError("deny is for the handlers of accepts, binds and connects")
        self._denied = True

    def kill(self, reason: str = "killed") -> None:
        """End the connection, and the permission behind it, at once. Always succeeds.

        Args:
            reason: why, for log, ledger and the other filters.
        """
        self.close(reason, failed=True)

    def set_client_address(self, client: Endpoint) -> None:
        """Supply the address that was all zeros when the connection was bound; once only (S05).

        Raises:
            InvalidArgumentError: it is known already, or the new one is all zeros too.
            AddressNotAllowedError: the session's client may not name this address.
            TerminatingError: the connection has ended.
        """
        if self.is_closed:
            raise TerminatingError("the connection has ended")
        if not self.client_address.is_unspecified:
            raise InvalidArgumentError(f"the client address is known: {self.client_address}")
        if client.is_unspecified:
            raise InvalidArgumentError("an address other than all zeros is needed")
        self.session.check_client_addresses([client], self._secondary_flags)
        self.client_address = client
        if self.permission is not None:
            self.permission.target = client
        if self.opening is not None and self.server_sock is not None:
            self.opening.dial_client()

    async def connect(self, server: Destination) -> None:
        """Choose the server of a primary connection that came without one.

        Raises:
            BadContextError: there is a server already, or a connect is under way.
            PolicyRulesDeniedError: the rules or a filter say no.
            NoServerReplyError: it refused, did not answer in time, or does not resolve.
            TerminatingError: the connection ended meanwhile.
        """
        if self.is_closed:
            raise TerminatingError("the connection has ended")
        if self.opening is None or self.opening.is_waited_for:
            raise BadContextError("the connection has a server, or is being connected to one")
        await self.opening.connect(server)

    # For the engine only.

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self.state is ConnectionState.CLOSED

    @property
    def is_denied(self) -> bool:
        """Whether a handler has called `deny`."""
        return self._denied

    def close(
        self, reason: str, *, failed: bool = False, error: BaseException | None = None
    ) -> None:
        """End the connection and everything that belongs to it; harmless when repeated."""
        raise NotImplementedError


def _socket_name(sock: socket.socket | None) -> Endpoint | None:
    if sock is None or sock.fileno() < 0:
        return None
    return Endpoint.from_sockaddr(sock.getsockname())
