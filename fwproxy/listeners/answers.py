"""What a client is told of its request, in the words of its handshake."""

from __future__ import annotations

from fwproxy.address import Endpoint
from fwproxy.connection.connection import Connection
from fwproxy.errors import (
    AddressError,
    CallError,
    DeniedError,
    InvalidArgumentError,
    NameNotFoundError,
    NetworkUnreachableError,
    NotAuthenticatedError,
    NotSupportedError,
    QuotaError,
    ServerRefusedError,
    ServerTimedOutError,
    ServerUnreachableError,
)
from fwproxy.handshake.base import Handshake, Outcome
from fwproxy.listeners.base import Listener
from fwproxy.listeners.farewell import Farewell

NOWHERE = Endpoint("0.0.0.0")

_OUTCOMES: tuple[tuple[type[CallError], Outcome], ...] = (  # the narrower ones first
    (QuotaError, Outcome.BUSY),
    (DeniedError, Outcome.NOT_ALLOWED),
    (NotAuthenticatedError, Outcome.NOT_ALLOWED),
    (ServerRefusedError, Outcome.REFUSED),
    (NetworkUnreachableError, Outcome.NETWORK_UNREACHABLE),
    (ServerUnreachableError, Outcome.HOST_UNREACHABLE),
    (ServerTimedOutError, Outcome.TIMED_OUT),
    (NameNotFoundError, Outcome.NAME_UNKNOWN),
    (NotSupportedError, Outcome.UNSUPPORTED),
    (InvalidArgumentError, Outcome.NOT_ALLOWED),
    (AddressError, Outcome.BUSY),
)


def outcome_of(error: CallError) -> Outcome:
    """Return what an error means to the client."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), Outcome.FAILED)


class Answer:
    """Tells one client, once, what has become of a connection that it has asked for.

    Args:
        listener: the listener that it has come to.
        connection: the connection.
        handshake: the client's.
    """

    __slots__ = ("_connection", "_handshake", "_listener")

    def __init__(self, listener: Listener, connection: Connection, handshake: Handshake) -> None:
        self._listener = listener
        self._connection = connection
        self._handshake = handshake

    def __call__(self, error: CallError | None) -> None:
        """Say yes before the first byte of the server, or no and take leave."""
        connection = self._connection
        if error is None:
            self._believe_in(connection.server_address)
            self.grant(self.address or NOWHERE)
            return
        sock, connection.client_sock = connection.client_sock, None
        if sock is not None:
            reply = self._handshake.reply(outcome_of(error), NOWHERE)
            Farewell(self._listener, sock, connection.client_address, reply)

    def _believe_in(self, server: Endpoint | None) -> None:
        """Note the address that the client believes to talk to, unless it could not say it."""
        session = self._connection.session
        if session.advertised_host is None and server is not None:
            same = server.version == session.client_address.version
            session.advertised_host = server.host if same else None

    @property
    def address(self) -> Endpoint | None:
        """The address to tell: that of the proxy's socket towards the server."""
        return self._connection.external_socket_name

    def grant(self, address: Endpoint) -> None:
        """Say yes."""
        connection = self._connection
        reply = self._handshake.reply(Outcome.GRANTED, address)
        try:
            sent = -1 if connection.client_sock is None else connection.client_sock.send(reply)
        except OSError:
            sent = -1
        if sent < len(reply):
            connection.close("the client does not take replies", failed=True)
