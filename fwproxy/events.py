"""Events: one frozen class per thing that a session filter can hear of.

`EstablishedConnection` cannot be registered for: it goes only to the session filter that was
passed to `bind_for_client` or `redirect_connections`, with the identical context object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Destination, Endpoint
from fwproxy.protocol import ProtocolDefinition

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection


@attrs.frozen(slots=True, eq=False)
class Event:
    """What all events have: the connection that they are about."""

    connection: Connection


@attrs.frozen(slots=True, eq=False)
class ConnectTcp(Event):
    """A client asks for a TCP connection to *server*; nothing has been connected yet."""

    server: Destination
    protocol: ProtocolDefinition
    is_secondary: bool = False


@attrs.frozen(slots=True, eq=False)
class UdpDestination(Event):
    """A datagram goes to a destination that this connection has not sent to before."""

    destination: Endpoint
    protocol: ProtocolDefinition
    is_secondary: bool = False


@attrs.frozen(slots=True, eq=False)
class BindTcp(Event):
    """A TCP port of the proxy is about to be bound for the client."""

    proxy_address: Endpoint
    protocol: ProtocolDefinition


@attrs.frozen(slots=True, eq=False)
class BindUdp(Event):
    """A UDP port of the proxy is about to be bound for the client."""

    proxy_address: Endpoint
    protocol: ProtocolDefinition


@attrs.frozen(slots=True, eq=False)
class Listen(Event):
    """A bound TCP port starts to listen. It cannot be failed: the verdict is ignored."""

    proxy_address: Endpoint
    backlog: int


@attrs.frozen(slots=True, eq=False)
class AcceptedConnection(Event):
    """A connection from outside was accepted; the socket towards the client comes later."""

    remote: Endpoint
    local: Endpoint


@attrs.frozen(slots=True, eq=False)
class GetHostByName(Event):
    """A name is resolved on the session's behalf; heard before and after.

    Attributes:
        name: the name.
        addresses: None before, the IP addresses afterwards; none where it does not resolve.
    """

    name: str
    addresses: tuple[str, ...] | None = None


@attrs.frozen(slots=True, eq=False)
class GetHostByAddr(Event):
    """The name of an address is asked for on the session's behalf; heard before and after.

    Attributes:
        address: the IP address.
        name: None before, the name afterwards; empty where there is none.
    """

    address: str
    name: str | None = None


@attrs.frozen(slots=True, eq=False)
class EstablishedConnection(Event):
    """A secondary connection has both of its ends."""

    client: Endpoint
    server: Endpoint
    context: object


@attrs.frozen(slots=True, eq=False)
class ConnectionTerminating(Event):
    """A connection ends. Release every reference to it; the verdict is ignored.

    Attributes:
        reason: why, for the log.
        failed: it could not be made, or it broke, as opposed to both ends having closed it.
    """

    reason: str
    failed: bool
