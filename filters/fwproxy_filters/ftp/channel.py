"""Data connections: the four ways in which the two sides can ask for one.

========  ========  ==============================================================
client    server    the proxy
========  ========  ==============================================================
active    active    waits for the server, connects to the client
passive   passive   waits for the client, connects to the server
passive   active    waits for both
active    passive   connects to both, when the transfer starts
========  ========  ==============================================================
"""

from __future__ import annotations

import asyncio

import attrs

from fwproxy import (
    BindAnswer,
    Connection,
    Endpoint,
    FirewallAction,
    IpFilter,
    SecondaryFlags,
    SessionFilter,
)
from fwproxy.errors import AddressNotAllowedError
from fwproxy.protocol import FTP_DATA
from fwproxy_filters.ftp.settings import FtpSettings

LOWEST_PORT = 1024

ARRIVAL_PATIENCE = 1.0
"""Seconds within which a connection is seen that was there before something else: enough for the
last packet of its handshake to be sent once more."""


@attrs.define(slots=True, eq=False)
class DataChannel:
    """One data connection from PORT or PASV to the end of its transfer; the context of the calls.

    Attributes:
        connection: the connection, as soon as there is one.
        actions: the permissions that it may still come from.
        client: where the client waits, if it does.
        server: where the server waits, if it does.
        trigger: the client's command that has set it up, for the ledger.
        is_established: bytes could flow at some time.
        has_ended: it is over.
        failure: why it could not be made or broke, or None.
    """

    connection: Connection | None = None
    actions: list[FirewallAction] = attrs.field(factory=list)
    client: Endpoint | None = None
    server: Endpoint | None = None
    trigger: str | None = None
    is_established: bool = False
    has_ended: bool = False
    failure: str | None = None
    _settled: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def waits_for_start(self) -> bool:
        """Whether both sides wait for the proxy to connect."""
        both = self.client is not None and self.server is not None
        return both and self.connection is None and not self.has_ended

    @property
    def awaits_server(self) -> bool:
        """Whether the server has been told a port, and has not been seen there yet."""
        one = self.connection
        return one is not None and one.server_address is None and not self._settled.is_set()

    @property
    def is_half_open(self) -> bool:
        """Whether one side is there and the other has not been reached yet."""
        if self._settled.is_set():
            return False
        return any(each.server_address is not None for each in self._being_made())

    @property
    def is_open(self) -> bool:
        """Whether bytes flow."""
        return self.is_established and not self.has_ended

    @property
    def is_lost(self) -> bool:
        """Whether it was not made, and cannot be any more."""
        if self.is_established:
            return False
        return self.failure is not None or (self.connection is None and self._has_expired)

    @property
    def _has_expired(self) -> bool:
        return bool(self.actions) and not any(a.is_active or a.uses for a in self.actions)

    def established(self, connection: Connection) -> None:
        """Note that bytes flow."""
        self.connection = connection
        self.is_established = True
        self._settled.set()

    def ended(self, failure: str | None) -> None:
        """Note the end: nobody else may come."""
        self.has_ended = True
        self.failure = failure
        self._settled.set()
        for action in self.actions:
            action.cancel(failure or "ended")

    async def settle(self, patience: float) -> None:
        """Wait until the connection is made or has failed, *patience* seconds at most.

        A server that is content has come before it said so, but its connection and its reply may
        be seen in either order; one that is not seen within `ARRIVAL_PATIENCE` seconds has not
        come. One that is seen, while the other side is not reached in time, is withdrawn.
        """
        if self.awaits_server:
            await self._wait(min(ARRIVAL_PATIENCE, patience))
        if self.is_half_open and not await self._wait(patience):
            self.withdraw()

    async def _wait(self, patience: float) -> bool:
        try:
            async with asyncio.timeout(patience):
                return await self._settled.wait()
        except TimeoutError:
            return False

    def withdraw(self) -> None:
        """Take back whatever has not been used."""
        if not self.is_established and not self.has_ended:
            making = self._being_made()
            self.ended("withdrawn")
            for connection in making:
                connection.kill()

    def _being_made(self) -> list[Connection]:
        """Return the connections for it that wait, or are on their way to the other side."""
        if self.connection is not None:
            return [self.connection]
        sessions = {action.session for action in self.actions}
        return [each for one in sessions for each in one.connections if each.context is self]


@attrs.frozen(slots=True, eq=False)
class DataChannels:
    """Opens data channels for one control connection."""

    owner: SessionFilter
    control: Connection
    settings: FtpSettings

    @property
    def _server_host(self) -> str:
        assert self.control.server_address is not None  # noqa: S101 - commands come after connect
        return self.control.server_address.host

    @property
    def _source(self) -> Endpoint | None:
        name = self.control.external_socket_name
        return None if name is None else name.with_port(0)

    @property
    def flags(self) -> SecondaryFlags:
        """What every permission is asked for with."""
        low = SecondaryFlags.IGNORE_RESTRICTED_PORTS
        return SecondaryFlags.TIMEOUT | (low if self.settings.low_ports else SecondaryFlags.NONE)

    async def is_held(self, client: Endpoint) -> bool:
        """Tell whether the client names a port of the proxy that it holds already.

        A SOCKS client may have asked for one by itself. The server may come there from now on,
        and there is nothing to translate.

        Raises:
            CallError: as `Session.retroactive_allow_bind`.
        """
        if not self.owner.session.client_binds:
            return False
        answer = await self.owner.session.retroactive_allow_bind(
            client,
            flags=SecondaryFlags.TIMEOUT,
            protocol=FTP_DATA,
            ip_filter=IpFilter.only(self._server_host),
        )
        return answer is not BindAnswer.NO_SUCH_BIND

    async def server_connects(
        self, asked: str, client: Endpoint | None
    ) -> tuple[DataChannel, Endpoint]:
        """Wait for the server, on behalf of the client's address if it is known.

        Args:
            asked: the client's command, for the ledger.
            client: where the client waits.

        Returns:
            The channel, and what to tell the server.

        Raises:
            CallError: as `Session.bind_for_client`.
        """
        channel = DataChannel(client=client, trigger=asked)
        unknown = Endpoint("::" if ":" in self._server_host else "0.0.0.0")
        (connection,) = await self.owner.session.bind_for_client(
            [client or unknown],
            proxy_address=self._source,
            flags=self.flags,
            protocol=FTP_DATA,
            session_filter=self.owner,
            context=channel,
            ip_filter=IpFilter.only(self._server_host),
        )
        channel.connection = connection
        assert connection.proxy_address is not None  # noqa: S101 - it is bound
        return channel, connection.proxy_address

    async def client_connects(
        self, asked: str, server: Endpoint | None, joins: DataChannel | None = None
    ) -> tuple[DataChannel, Endpoint]:
        """Wait for the client, on behalf of the server's address or of a channel that waits too.

        Args:
            asked: the client's command, for the ledger.
            server: where the server waits.
            joins: the channel whose other side waits for the server to come.

        Returns:
            The channel, and what to tell the client.

        Raises:
            CallError: as `Session.redirect_connections`.
        """
        channel = joins or DataChannel(server=server, trigger=asked)
        target = server if joins is None else joins.connection
        assert target is not None  # noqa: S101 - either is given
        redirection = await self.owner.session.redirect_connections(
            [target],
            proxy_external_address=self._source,
            flags=SecondaryFlags.TIMEOUT,
            protocol=FTP_DATA,
            session_filter=self.owner,
            context=channel,
        )
        channel.actions.extend(redirection.actions)
        return channel, redirection.internal_address

    async def both_wait(self, channel: DataChannel) -> None:
        """Connect to both sides.

        Raises:
            CallError: as `Session.connect_for_client`.
        """
        assert channel.client is not None  # noqa: S101 - `waits_for_start`
        assert channel.server is not None  # noqa: S101 - as above
        channel.connection = await self.owner.session.connect_for_client(
            channel.client,
            channel.server,
            proxy_external_address=self._source,
            flags=self.flags & ~SecondaryFlags.TIMEOUT,
            protocol=FTP_DATA,
            session_filter=self.owner,
            context=channel,
        )

    def server_address(self, said: Endpoint | int) -> Endpoint:
        """Return where to find the server's data port, given what its reply said.

        Raises:
            AddressNotAllowedError: it named another host (`passive_address`), or a low port.
        """
        own = self._server_host
        port = said if isinstance(said, int) else said.port
        if port < LOWEST_PORT and not self.settings.low_ports:
            raise AddressNotAllowedError(f"the server's data port {port} is below {LOWEST_PORT}")
        mode = self.settings.passive_address
        if isinstance(said, int) or said.host == own or mode == "ignore":
            return Endpoint(own, port)
        if mode == "strict":
            raise AddressNotAllowedError(f"the server {own} named {said.host} for its data")
        return said
