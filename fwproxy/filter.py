"""The plug-in contract: what a filter author subclasses.

A `Filter` is loaded once per process, a `SessionFilter` lives with a session and hears events, a
`DataFilter` sits in the byte stream of one connection. Several data filters form a chain from
the client to the server in the order of their priorities.

Handlers may be plain functions or coroutines. A plain function costs nothing extra; while a
coroutine runs, its direction of the stream waits (bounded by `limits.filter_timeout`) and the
other one goes on. A handler that raises ends its connection: bytes never pass unseen.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs

from fwproxy.address import Endpoint
from fwproxy.errors import InvalidArgumentError
from fwproxy.events import EstablishedConnection, Event
from fwproxy.flags import Verdict

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection
    from fwproxy.firewall import Firewall
    from fwproxy.session.session import Session

Handled = Awaitable[None] | None
"""What a data handler returns: nothing, at once or later."""

FAULTS = (Exception, asyncio.CancelledError)
"""What counts as a filter's failure: a CancelledError that it raises cancels nobody else."""


class Priority(enum.IntEnum):
    """Where in the chain a data filter stands, from the client to the server."""

    NAT = 0
    INTERNAL = 10
    POST_TRUST = 20
    MIDDLE = 30
    PRE_TRUST = 40
    EXTERNAL = 50
    EMULATION = 60


@attrs.frozen(slots=True)
class Hooks:
    """Which events a filter wants.

    Attributes:
        events: of primary connections, and of binds for secondary ones (BindTcp, BindUdp,
            Listen), which always are another filter's doing.
        associated: of the session's secondary connections.

    Raises:
        InvalidArgumentError: something is no event, or is EstablishedConnection, which goes only
            to the session filter that was passed to the call.
    """

    events: frozenset[type[Event]] = frozenset()
    associated: frozenset[type[Event]] = frozenset()

    def __attrs_post_init__(self) -> None:
        for kind in self.events | self.associated:
            if Event not in getattr(kind, "__mro__", ()):
                raise InvalidArgumentError(f"{kind!r} is no event")
            if kind is EstablishedConnection:
                raise InvalidArgumentError(
                    "EstablishedConnection cannot be registered for: it goes to the session "
                    "filter that is passed to bind_for_client or redirect_connections"
                )

    @classmethod
    def on(cls, *events: type[Event], associated: Iterable[type[Event]] = ()) -> Hooks:
        """Name the events as arguments."""
        return cls(frozenset(events), frozenset(associated))


class Filter:
    """One kind of filter. Subclasses set `name` and build session filters.

    Attributes:
        name: the name in configuration, log and entry point.
        settings_class: an attrs class that `[filters.NAME]` is read into, or None.
        settings: the instance for the whole process; a listener may override it, so a session
            filter asks `session.filter_settings(name)`.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[Any] | None] = None

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    def filter_init(self, firewall: Firewall) -> Hooks:
        """Start; say which events are wanted. A filter that raises here hears no events."""
        raise NotImplementedError(f"{type(self).__name__}.filter_init")

    def attach_to_session(self, session: Session) -> SessionFilter | None:
        """Make the filter's part of a session, on the first event that it hooks there.

        None means that the filter has no interest in this session. Raising fails the request
        that triggered it.
        """
        raise NotImplementedError(f"{type(self).__name__}.attach_to_session")

    def filter_shutdown(self) -> None:
        """Release what `filter_init` took; no session is left at this point."""


class SessionFilter:
    """The part of a filter that lives with one session.

    Attributes:
        session: the session it is attached to.
        hooks: None for what `filter_init` said, or the hooks for this session alone.
    """

    hooks: Hooks | None = None

    def __init__(self, session: Session) -> None:
        self.session = session

    def firewall_event_handler(
        self,
        event: Event,  # noqa: ARG002 - the default hears nothing
    ) -> Verdict | Awaitable[Verdict | None] | None:
        """Hear an event and say what shall become of it; None is PASS."""
        return None

    def detach(self) -> None:
        """Drop every reference: the session has ended."""


@attrs.frozen(slots=True)
class Ends:
    """The two ends that a datagram travels between, in either direction."""

    client: Endpoint
    server: Endpoint

    def with_server(self, server: Endpoint) -> Ends:
        """Return the way between the same client and another server."""
        return Ends(self.client, server)


class FilterSocket(Protocol):
    """One of the two sides of a data filter, another filter or a socket: it cannot tell which."""

    def send(self, data: bytes, *, urgent: bool = False) -> None:
        """Pass bytes on. Done means that the next filter or a bounded buffer has them.

        With UDP this sends one datagram, which may be lost: along the way of the datagram that
        is being handled, also from a coroutine or a task begun for it; anywhere else along the
        only way that there is.

        Args:
            data: any number of bytes.
            urgent: make the last one TCP's urgent byte (Telnet's Synch, RFC 854), if this is a
                socket with nothing waiting; otherwise it is a byte like any other.

        Raises:
            BufferFullError: `limits.max_buffer` would be passed: the filter made far more bytes
                than it was given and did not wait (TCP only).
            BadContextError: nothing is behind the filter that plays the server; or no datagram
                is being handled, and there are several ways or none.
        """

    def send_to(self, data: bytes, ends: Ends) -> None:
        """Send a datagram along a given way.

        Raises:
            NotSupportedError: the connection is a stream.
            AddressNotAllowedError: the connection has no such way.
            BadContextError: nothing is behind the filter that plays the server.
        """

    def half_close(self) -> None:
        """Say that no more bytes follow in this direction. Datagrams know no end."""

    def abort(self) -> None:
        """Break the connection, both ways, at once."""

    @property
    def pending(self) -> int:
        """Bytes sent that have not left yet."""


class DataFilter:
    """Sits in the byte stream of one connection; the defaults pass everything on.

    With UDP each call of a data handler is for one datagram. While a coroutine runs, up to
    `limits.max_waiting_datagrams` wait behind it in its direction, and further ones are lost.

    Attributes:
        to_client: the side towards the client.
        to_server: the side towards the server. In an emulated connection there is nothing
            behind it.
        connection: the connection whose bytes these are.
        context: whatever was passed to `attach_data_filter`.
    """

    to_client: FilterSocket
    to_server: FilterSocket
    connection: Connection
    context: object

    def set_sockets(
        self,
        internal: FilterSocket,
        external: FilterSocket,
        connection: Connection,
        context: object,
    ) -> None:
        """Take the two sides; bytes follow."""
        self.to_client = internal
        self.to_server = external
        self.connection = connection
        self.context = context

    def data_from_client(self, data: bytes) -> Handled:
        """Take bytes from the client's side, of any length but zero."""
        self.to_server.send(data)
        return None

    def data_from_server(self, data: bytes) -> Handled:
        """Take bytes from the server's side, of any length but zero."""
        self.to_client.send(data)
        return None

    def datagram_from_client(self, data: bytes, ends: Ends) -> Handled:  # noqa: ARG002
        """Take a datagram of the client's, which may be empty; override it to know the ends."""
        return self.data_from_client(data)

    def datagram_from_server(self, data: bytes, ends: Ends) -> Handled:  # noqa: ARG002
        """Take a datagram of the server's, as above."""
        return self.data_from_server(data)

    def end_from_client(self) -> Handled:
        """The client sends no more."""
        self.to_server.half_close()
        return None

    def end_from_server(self) -> Handled:
        """The server sends no more."""
        self.to_client.half_close()
        return None

    def detach(self) -> None:
        """Drop every reference: the connection has ended."""


FilterSettings = Mapping[str, Any]
"""What a `[filters.NAME]` table holds before it is read into `settings_class`."""
