"""Connections that clients will make by themselves, permitted before they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwproxy.address import Endpoint, Transport

if TYPE_CHECKING:
    from fwproxy.secondary.future import ExpectedConnect
    from fwproxy.secondary.waiting_port import WaitingPort
    from fwproxy.session.session import Session


class ExpectedConnects:
    """What `allow_future_connect` has permitted, for the listeners to look up.

    A listener that is told the client's destination asks here first. An empty one is false, so
    that asking costs next to nothing while nobody uses the call.
    """

    def __init__(self) -> None:
        self._by_client: dict[str, list[ExpectedConnect]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_client.values()))

    def __bool__(self) -> bool:
        return bool(self._by_client)

    def enter(self, expected: ExpectedConnect) -> None:
        """Let a client of this address connect."""
        self._by_client.setdefault(expected.client_host, []).append(expected)

    def strike(self, expected: ExpectedConnect) -> None:
        """Forget a permission that has ended; harmless when it is not there."""
        entries = self._by_client.get(expected.client_host, [])
        if expected in entries:
            entries.remove(expected)
        if not entries:
            self._by_client.pop(expected.client_host, None)

    def expects(self, host: str) -> bool:
        """Tell whether anything at all is expected of a client's address."""
        return host in self._by_client

    def claim(
        self, host: str, transport: Transport, server: Endpoint, user: str | None = None
    ) -> ExpectedConnect | None:
        """Use a permission for a connection that has come, the oldest one that fits.

        Args:
            host: the client's address.
            transport: TCP or UDP.
            server: where the client wants to go.
            user: who it is, where the listener knows.
        """
        for expected in self._by_client.get(host, ()):
            if expected.fits(transport, server, user):
                expected.use()
                return expected
        return None

    def of_session(self, session: Session) -> list[ExpectedConnect]:
        """Return what a session has permitted."""
        entries = self._by_client.get(session.client_address.host, ())
        return [expected for expected in entries if expected.call.session is session]


class RedirectedPorts:
    """Ports that `redirect_connections` has opened for clients that ask for every connection.

    Such a client is told an address and asks its listener to connect there; the connection is
    then the one that was to come to the port. An empty one is false.
    """

    def __init__(self) -> None:
        self._ports: dict[tuple[str, int], WaitingPort] = {}

    def __bool__(self) -> bool:
        return bool(self._ports)

    def enter(self, client_host: str, port: WaitingPort) -> None:
        """Let the client be led to the port."""
        self._ports[client_host, port.address.port] = port

    def strike(self, client_host: str, port: WaitingPort) -> None:
        """Forget a port that is closed."""
        if self._ports.get((client_host, port.address.port)) is port:
            del self._ports[client_host, port.address.port]

    def find(self, client_host: str, number: int) -> WaitingPort | None:
        """Return the port with this number that waits for a client's address."""
        return self._ports.get((client_host, number))
