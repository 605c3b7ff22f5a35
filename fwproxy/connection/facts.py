"""What a filter may know of a connection."""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint, IpFilter, Transport
from fwproxy.connection.opening import Opening
from fwproxy.datapath.base import Relay
from fwproxy.datapath.choice import Choice
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.datapath.kernel.flow import KernelFlow
from fwproxy.events import Event
from fwproxy.filter import DataFilter, Priority
from fwproxy.flags import ConnectionFlags, SecondaryFlags
from fwproxy.ledger.ledger import FirewallAction
from fwproxy.protocol import ProtocolDefinition

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection
    from fwproxy.session.session import Session


class ConnectionState(enum.Enum):
    """Where in its life a connection is."""

    NEW = "new"
    BOUND = "bound"
    """A port of the proxy waits for the peer."""
    CONNECTING = "connecting"
    ESTABLISHED = "established"
    CLOSED = "closed"


@attrs.frozen(slots=True, eq=False)
class Attached:
    """A data filter in its place.

    Attributes:
        priority: where in the chain it stands.
        data_filter: the filter.
        context: what goes with it.
        by: who has put it there, for log and ledger.
        action: that of the factory that has made it, if one has.
    """

    priority: Priority
    data_filter: DataFilter
    context: object
    by: str
    action: FirewallAction | None = None


@attrs.define(slots=True, eq=False)
class EmulatedBind:
    """A bind that a filter plays; nothing is bound.

    Attributes:
        address: what shall be told to the server; None takes a number of the pool.
        accept: makes a connection from a remote to a local address that come with the data
            filter which plays the remote end, if it is known already. None until it waits.
        by: who emulates it, for log and ledger.
    """

    address: Endpoint | None
    by: str
    accept: Callable[[Endpoint, Endpoint, Attached | None], Connection] | None = None


class ConnectionFacts:
    """What there is to know of a connection; the attributes are for reading.

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
        "_denied", "_flags", "_handling", "_ip_filter", "_is_emulated", "_is_secondary",
        "_relay", "_secondary_flags", "choice", "client_address", "client_sock", "close_reason",
        "context", "data_filters", "emulated_bind", "heard_by", "id", "max_datagram", "opening",
        "permission", "protocol", "proxy_address", "server_address", "server_sock", "session",
        "started", "state", "transport",
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
    choice: Choice
    data_filters: list[Attached] | None
    emulated_bind: EmulatedBind | None
    heard_by: str
    max_datagram: int
    _flags: ConnectionFlags
    _is_emulated: bool
    _is_secondary: bool
    _ip_filter: IpFilter | None
    _secondary_flags: SecondaryFlags
    _relay: Relay | None
    _handling: type[Event] | None
    _denied: bool

    @property
    def connection_flags(self) -> ConnectionFlags:
        """What is true of this connection."""
        flags = self._flags
        if self._is_emulated:
            flags |= ConnectionFlags.EMULATED
        return flags | ConnectionFlags.TERMINATED if self.is_closed else flags

    @property
    def is_secondary(self) -> bool:
        """Whether a filter's call opened it."""
        return self._is_secondary

    @property
    def is_emulated(self) -> bool:
        """Whether a filter plays the other side."""
        return self._is_emulated

    @property
    def ip_filter(self) -> IpFilter | None:
        """Who may be at the remote end; a value, so that changing it changes nothing here."""
        return self._ip_filter

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self.state is ConnectionState.CLOSED

    @property
    def data_path(self) -> str:
        """`kernel`, `splice`, `user` or `datagram`; empty until bytes can flow."""
        return "" if self._relay is None else self._relay.kind

    @property
    def path_reason(self) -> str:
        """Why the data path is what it is, or will be."""
        return self.choice.reason

    @property
    def client_bytes(self) -> int:
        """Bytes received from the client."""
        return 0 if self._relay is None else self._relay.client_bytes

    @property
    def server_bytes(self) -> int:
        """Bytes received from the server."""
        return 0 if self._relay is None else self._relay.server_bytes

    @property
    def dropped(self) -> int:
        """Datagrams that were not passed on, for whatever reason."""
        return self._relay.dropped if isinstance(self._relay, DatagramRelay) else 0

    @property
    def last_active(self) -> float:
        """The time of the last traffic, on the loop's clock."""
        return self.started if self._relay is None else self._relay.last_active

    @property
    def kernel_flow(self) -> KernelFlow | None:
        """What the kernel carries for it, if that is its data path."""
        return self._relay if isinstance(self._relay, KernelFlow) else None

    @property
    def external_socket_name(self) -> Endpoint | None:
        """The proxy's address towards the server, while there is a socket."""
        if isinstance(self._relay, (DatagramRelay, KernelFlow)):
            return self._relay.external_name
        return _socket_name(self.server_sock)

    @property
    def external_peer_name(self) -> Endpoint | None:
        """The server's address."""
        return self.server_address

    @property
    def internal_socket_name(self) -> Endpoint | None:
        """The proxy's address towards the client, while there is a socket."""
        if isinstance(self._relay, (DatagramRelay, KernelFlow)):
            return self._relay.internal_name
        return _socket_name(self.client_sock)

    @property
    def internal_peer_name(self) -> Endpoint:
        """The client's address."""
        return self.client_address

    @property
    def has_data_filters(self) -> bool:
        """Whether a data filter is attached."""
        return bool(self.data_filters)


def _socket_name(sock: socket.socket | None) -> Endpoint | None:
    if sock is None or sock.fileno() < 0:
        return None
    return Endpoint.from_sockaddr(sock.getsockname())
