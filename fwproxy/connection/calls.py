"""What a filter may do with a connection."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from fwproxy.address import Destination, Endpoint, IpFilter, Transport
from fwproxy.connection.facts import Attached, ConnectionFacts, ConnectionState, EmulatedBind
from fwproxy.datapath.datagram import DatagramRelay
from fwproxy.datapath.flow import MAX_DATAGRAM
from fwproxy.errors import (
    AlreadyEmulatedError,
    AlreadyExistsError,
    BadContextError,
    BusyError,
    InvalidArgumentError,
    NotAuthenticatedError,
    NotEmulatedError,
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
from fwproxy.policy.grants import narrowed

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection

_MAY_ATTACH = (AcceptedConnection, BindUdp, ConnectTcp, UdpDestination)
_MAY_DENY = (AcceptedConnection, BindTcp, BindUdp, ConnectTcp)
_MAY_PLAY_SERVER = (ConnectTcp, UdpDestination)
_MAY_PLAY_BIND = (BindTcp, BindUdp)


class ConnectionCalls(ConnectionFacts):
    """What a filter may call; the life is led by `fwproxy.connection.connection.Connection`."""

    __slots__ = ()

    def set_ip_filter(self, ip_filter: IpFilter | None) -> None:
        """Restrict the remote end; None lifts the restriction. For those who come from now on.

        Of a secondary connection it can be lifted only as far as the rule and the listener grant.

        Raises:
            NotSupportedError: a filter plays the remote end.
        """
        if self._is_emulated:
            raise NotSupportedError("who is at the remote end is the emulating filter's business")
        if self._is_secondary:
            ip_filter = narrowed(self.session, ip_filter)
        self._ip_filter = ip_filter
        if self.permission is not None and self.proxy_address is not None:
            self.permission.peers = ip_filter

    def attach_data_filter(
        self,
        data_filter: DataFilter,
        priority: Priority = Priority.MIDDLE,
        context: object = None,
    ) -> None:
        """Put a filter into the byte stream; filters of one priority stand in call order.

        Raises:
            BadContextError: not inside the handler of AcceptedConnection, BindUdp, ConnectTcp
                or UdpDestination for this connection, or bytes flow already, or the data path
                was decided while nobody wanted to attach one (S31).
            AlreadyExistsError: this very filter stands in the stream already.
        """
        if self._handling not in _MAY_ATTACH or self._is_flowing:
            raise BadContextError(
                "a data filter is attached inside the handler of AcceptedConnection, BindUdp, "
                "ConnectTcp or UdpDestination, before bytes flow"
            )
        self._check_path()
        if any(each.data_filter is data_filter for each in self.data_filters or ()):
            raise AlreadyExistsError("a data filter stands in a stream once: make another one")
        self.place(Attached(priority, data_filter, context, self.heard_by))

    def _check_path(self) -> None:
        if not self.choice.takes_filters:
            raise BadContextError("the data path was decided without a data filter and is final")

    def deny(self) -> None:
        """Refuse the connection from inside an event handler.

        Raises:
            BadContextError: not inside the handler of AcceptedConnection, BindTcp, BindUdp or
                ConnectTcp for this connection.
        """
        if self._handling not in _MAY_DENY:
            raise BadContextError("deny is for the handlers of accepts, binds and connects")
        self._denied = True

    def emulate_for_connect(self, data_filter: DataFilter, context: object = None) -> None:
        """Let *data_filter* play the server: nothing is dialled, and nothing is behind it.

        It stands at the end of the chain, after Priority.EXTERNAL. What it sends to the client
        is what the server says. A DENY of another filter still counts.

        Raises:
            BadContextError: not inside the handler of ConnectTcp or UdpDestination, or datagrams
                have gone to a real server, or the data path was decided without a data filter.
            AlreadyEmulatedError: a filter plays the server already.
            TerminatingError: the connection has ended.
        """
        self._check_emulation(_MAY_PLAY_SERVER, "a connect is emulated inside its handler")
        self._check_path()
        if isinstance(self._relay, DatagramRelay) and self._relay.is_committed:
            raise BadContextError("datagrams have gone to a real server already")
        self.is_played_by(Attached(Priority.EMULATION, data_filter, context, self.heard_by))

    def emulate_for_bind(self, proxy_address: Endpoint | None = None) -> None:
        """Let the filter play whoever comes to this bind: nothing is really bound.

        The filter calls `emulate_connection` for each one that shall come.

        Args:
            proxy_address: what shall be told to the server; None is the address that was asked
                for, with a port number of the pool where no port was.

        Raises:
            BadContextError: not inside the handler of BindTcp or BindUdp for this connection.
            AlreadyEmulatedError: a filter plays it already.
            TerminatingError: the connection has ended.
        """
        self._check_emulation(_MAY_PLAY_BIND, "a bind is emulated inside its handler")
        self._is_emulated = True
        self.emulated_bind = EmulatedBind(proxy_address, self.heard_by)

    def _check_emulation(self, events: Collection[type[Event]], rule: str) -> None:
        if self.is_closed:
            raise TerminatingError("the connection has ended")
        if self._handling not in events:
            raise BadContextError(rule)
        if self._is_emulated:
            raise AlreadyEmulatedError("a filter plays the other side already")

    def emulate_connection(
        self,
        remote: Endpoint,
        local: Endpoint | None = None,
        data_filter: DataFilter | None = None,
        context: object = None,
    ) -> Connection:
        """Let somebody come to an emulated bind, played by *data_filter*; connect to the client.

        The filters hear AcceptedConnection, and may attach data filters; without *data_filter*
        the last one in the chain plays the other end.

        Args:
            remote: who comes.
            local: the address that he comes to; None is the bind's.
            data_filter: plays him.
            context: goes with it.

        Returns:
            The connection: the bind's own, unless it was made with ALLOW_MULTIPLE. It ends at
            once if a filter denies it or nobody plays the other end.

        Raises:
            NotEmulatedError: this is no emulated bind, or its only connection was made.
            AddressNotAllowedError: the bind is not for this remote host (S24).
            QuotaError: the session has too many connections.
            TerminatingError: the bind has ended.
        """
        if self.is_closed:
            raise TerminatingError("the connection has ended")
        bind = self.emulated_bind
        if bind is None or bind.accept is None or self.state is not ConnectionState.BOUND:
            raise NotEmulatedError("no emulated bind waits here")
        played = None
        if data_filter is not None:
            played = Attached(Priority.EMULATION, data_filter, context, type(data_filter).__name__)
        arrived = local or self.proxy_address
        assert arrived is not None  # noqa: S101 - a bind has an address
        return bind.accept(remote, arrived, played)

    def kill(self, reason: str = "killed") -> None:
        """End the connection, and the permission behind it, at once. Always succeeds.

        Args:
            reason: why, for log, ledger and the other filters.
        """
        self.close(reason, failed=True)

    def set_buffer_size(self, size: int) -> None:
        """Drop datagrams of more than *size* bytes, from either side, from now on (UDP).

        Raises:
            InvalidArgumentError: it is not within 1 to 65535.
            NotSupportedError: the connection is a stream.
        """
        if self.transport is not Transport.UDP:
            raise NotSupportedError("a stream has no datagrams to fit into a buffer")
        if not 1 <= size <= MAX_DATAGRAM:
            raise InvalidArgumentError(f"a buffer for datagrams has 1 to {MAX_DATAGRAM} bytes")
        self.max_datagram = size
        if isinstance(self._relay, DatagramRelay):
            self._relay.max_datagram = size

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
        if self.opening is not None and self.opening.has_server:
            self.opening.dial_client()

    async def connect(self, server: Destination) -> None:
        """Choose the server of a primary connection that came without one.

        Raises:
            BadContextError: there is a server already.
            BusyError: another connect is under way.
            NotAuthenticatedError: the client has to log in first (`Session.log_in`).
            PolicyRulesDeniedError: the rules or a filter say no.
            NoServerReplyError: it refused, did not answer in time, or does not resolve.
            TerminatingError: the connection ended meanwhile.
        """
        if self.is_closed:
            raise TerminatingError("the connection has ended")
        if self.opening is None:
            raise BadContextError("the connection has a server")
        if self.opening.is_waited_for:
            raise BusyError("the connection is being connected to a server")
        if self.session.must_log_in:
            raise NotAuthenticatedError("the client has not logged in at the proxy")
        await self.opening.connect(server)

    # For the engine only.

    @property
    def is_denied(self) -> bool:
        """Whether a handler has called `deny`."""
        return self._denied

    def is_played_by(self, player: Attached | None) -> None:
        """Note that a filter plays the other side, and which one if it is known."""
        self._is_emulated = True
        if player is not None:
            self.place(player)

    @property
    def _is_flowing(self) -> bool:
        """Whether it is too late for another filter in a stream; datagrams stand alone."""
        return self._relay is not None and self.transport is Transport.TCP

    @property
    def takes_filters(self) -> bool:
        """Whether a data filter can still be put into it."""
        return self.choice.takes_filters and not self._is_flowing

    def place(self, attached: Attached) -> None:
        """Put a data filter where its priority says."""
        filters = self.data_filters or []
        filters.append(attached)
        filters.sort(key=lambda entry: entry.priority)
        self.data_filters = filters

    def close(
        self, reason: str, *, failed: bool = False, error: BaseException | None = None
    ) -> None:
        """End the connection and everything that belongs to it; harmless when repeated."""
        raise NotImplementedError
