"""The calls by which a filter opens secondary connections for a session's client."""

from __future__ import annotations

from collections.abc import Sequence

from fwproxy.address import Destination, Endpoint, IpFilter, Transport
from fwproxy.connection.connection import Connection
from fwproxy.filter import SessionFilter
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger.ledger import FirewallAction
from fwproxy.ports.reservation import PortReservation
from fwproxy.protocol import ProtocolDefinition
from fwproxy.secondary.call import SecondaryCall
from fwproxy.secondary.client_binds import BindAnswer, retroactive_allow_bind
from fwproxy.secondary.emulation import emulate_client_bind
from fwproxy.secondary.future import allow_future_connect
from fwproxy.secondary.inbound import bind_for_client
from fwproxy.secondary.outbound import Redirection, connect_for_client, redirect_connections
from fwproxy.session.access import HostAccess, host_access_check
from fwproxy.session.sharing import SharedRedirection, share_redirection


class SessionCalls:
    """The filters' side of a session; its life is led by `fwproxy.session.session.Session`."""

    __slots__ = ()

    async def bind_for_client(
        self,
        client_addresses: Sequence[Endpoint],
        *,
        proxy_address: Endpoint | None = None,
        transport: Transport = Transport.TCP,
        flags: SecondaryFlags = SecondaryFlags.NONE,
        backlog: int = 1,
        protocol: ProtocolDefinition,
        session_filter: SessionFilter | None = None,
        context: object = None,
        ip_filter: IpFilter | None = None,
        reserved: PortReservation | None = None,
        trigger: str | None = None,
    ) -> list[Connection]:
        """Bind consecutive ports of the proxy on behalf of the client, for inbound connections.

        All or nothing: an error leaves no connection and no port behind (S02).

        Args:
            client_addresses: where to pass each connection on; an all-zero one is supplied later
                by `Connection.set_client_address` (S05).
            proxy_address: the address to bind, port 0 for any of the pool; None is the proxy's
                address towards the server. In a routed network it may be the client's own (S12):
                the host must bring packets for it to the proxy, and the process needs
                CAP_NET_ADMIN.
            transport: TCP or UDP.
            flags: see `SecondaryFlags`; not ADDRESS_BASED, not TIMEOUT with ALLOW_MULTIPLE, and
                BIDIRECTIONAL for UDP only.
            backlog: reaches listen() unchanged (S23).
            protocol: what the connections are; one of the primary protocol's secondaries, or
                itself allowed.
            session_filter: hears EstablishedConnection, with *context* (S28, S29).
            context: any object.
            ip_filter: who may connect; None is everybody (S24).
            reserved: ports from `Firewall.reserve_ports` to use, from the first unused one on,
                instead of any of the pool.
            trigger: what in the protocol has made the filter ask, for the ledger, such as `PASV`;
                None is the context's `trigger`, if it has one.

        Returns:
            One connection for each client address; the i-th has the lowest port + i (S07).

        Raises:
            AddressNotAllowedError: a client address is not the client's, or a port below 1024.
            AddressInUseError: the port asked for, or the whole pool, is taken.
            AddressNotAvailableError: the proxy address is none of this computer's.
            NetworkRulesDeniedError: it is the client's, whose network is not a routed one.
            PolicyRulesDeniedError: the rules or a filter say no.
            InvalidArgumentError: arguments that make no sense together.
            QuotaError: a limit was reached.
            TerminatingError: the session is ending.
        """
        call = self._call(
            protocol.over(transport), flags, session_filter, context, ip_filter, reserved=reserved,
            trigger=trigger,
        )  # fmt: skip
        return await bind_for_client(call, client_addresses, proxy_address, backlog)

    async def redirect_connections(
        self,
        targets: Sequence[Endpoint | Connection],
        *,
        proxy_external_address: Endpoint | None = None,
        transport: Transport = Transport.TCP,
        flags: SecondaryFlags = SecondaryFlags.NONE,
        protocol: ProtocolDefinition,
        session_filter: SessionFilter | None = None,
        context: object = None,
        reserved: PortReservation | None = None,
        trigger: str | None = None,
    ) -> Redirection:
        """Open ports of the proxy where the client's connections are passed on to the targets.

        Args:
            targets: where to; a connection from `bind_for_client` whose client address is all
                zeros gets the client as its other end.
            proxy_external_address: the address to leave from (S36); None is any.
            transport: TCP or UDP.
            flags: ALLOW_MULTIPLE, TIMEOUT, NO_KERNEL_MODE and INCREASE_RECEIVE_BUFFER (S40).
            protocol: as for `bind_for_client`.
            session_filter: hears EstablishedConnection, with *context*.
            context: any object.
            reserved: as for `bind_for_client`.
            trigger: as for `bind_for_client`.

        Returns:
            What to tell the client, and one action for each target (S34, S35).

        Raises:
            The same as `bind_for_client`.
        """
        call = self._call(
            protocol.over(transport), flags, session_filter, context,
            source=proxy_external_address, reserved=reserved, trigger=trigger,
        )  # fmt: skip
        return await redirect_connections(call, targets)

    async def connect_for_client(
        self,
        client_address: Endpoint,
        server_address: Endpoint,
        *,
        proxy_external_address: Endpoint | None = None,
        flags: SecondaryFlags = SecondaryFlags.NONE,
        protocol: ProtocolDefinition,
        session_filter: SessionFilter | None = None,
        context: object = None,
        trigger: str | None = None,
    ) -> Connection:
        """Connect to the server and to the client, where both of them wait for a connection.

        Raises:
            The same as `bind_for_client`. That one of them cannot be reached ends the
            connection, and is heard of as ConnectionTerminating.
        """
        call = self._call(
            protocol, flags, session_filter, context, source=proxy_external_address, trigger=trigger
        )
        return await connect_for_client(call, client_address, server_address)

    async def allow_future_connect(
        self,
        address: Endpoint,
        *,
        proxy_external: Endpoint | None = None,
        transport: Transport = Transport.TCP,
        flags: SecondaryFlags = SecondaryFlags.NONE,
        protocol: ProtocolDefinition,
        session_filter: SessionFilter | None = None,
        context: object = None,
        trigger: str | None = None,
    ) -> FirewallAction:
        """Permit a connection that the client itself will make, to an address of its server.

        It is for transparent clients; those that know the proxy get `redirect_connections`. When
        the client comes to a listener that takes any destination, and wants to go to *address*,
        its connection is a secondary one of this session, also where the rules would not allow it
        as a primary one. Nothing is opened until then.

        The permission is this session's, for its user, and ends with it. With ADDRESS_BASED it
        is for every session of the client's address and every user there, and passes to another
        session of that address when this one ends; *session_filter* hears nothing then.

        Args:
            address: where the client will go. The server may name its own addresses, and with the
                flags ALLOW_ADDRESSES those near to it: they are compared with the server, not
                with the client.
            proxy_external: the address to leave from; None is any.
            transport: TCP or UDP.
            flags: see `SecondaryFlags`; neither BIDIRECTIONAL nor PROXY_MODE.
            protocol: as for `bind_for_client`.
            session_filter: hears EstablishedConnection, with *context*.
            context: any object.
            trigger: as for `bind_for_client`.

        Raises:
            AddressNotAllowedError: the address is not the server's, or a port below 1024.
            PolicyRulesDeniedError: the rules say no.
            InvalidArgumentError: no address to connect to, or a flag that the call does not take.
            QuotaError: a limit was reached.
            TerminatingError: the session is ending.
        """
        call = self._call(
            protocol.over(transport), flags, session_filter, context, source=proxy_external,
            trigger=trigger,
        )  # fmt: skip
        return await allow_future_connect(call, address)

    async def retroactive_allow_bind(
        self,
        address: Endpoint,
        *,
        transport: Transport = Transport.TCP,
        flags: SecondaryFlags = SecondaryFlags.NONE,
        protocol: ProtocolDefinition,
        session_filter: SessionFilter | None = None,
        context: object = None,
        ip_filter: IpFilter | None = None,
        trigger: str | None = None,
    ) -> BindAnswer:
        """Let peers come to a port that the client holds already, as SOCKS clients do.

        Args:
            address: the address and port that the client has named inside the protocol.
            transport: TCP or UDP.
            flags: ALLOW_MULTIPLE, TIMEOUT, NO_KERNEL_MODE, INCREASE_RECEIVE_BUFFER, and
                BIDIRECTIONAL for UDP.
            protocol: as for `bind_for_client`.
            session_filter: hears EstablishedConnection, with *context*.
            context: any object.
            ip_filter: who may come; None is everybody.
            trigger: as for `bind_for_client`.

        Returns:
            Whether they may come now, might before, or there is no such port: then the address
            is one of the client's own, and `bind_for_client` is the call.

        Raises:
            PolicyRulesDeniedError: the rules say no.
            InvalidArgumentError: a flag that the call does not take.
            AddressInUseError: the port has been taken by another program.
            QuotaError: a limit was reached.
            TerminatingError: the session is ending.
        """
        call = self._call(
            protocol.over(transport), flags, session_filter, context, ip_filter, trigger=trigger
        )
        return await retroactive_allow_bind(call, address)

    async def host_access_check(
        self,
        protocol: ProtocolDefinition,
        host: str,
        source_port: int | None = None,
        path: str | None = None,
    ) -> HostAccess:
        """Ask the policy whether the client may speak a protocol with a host; nothing connects.

        Args:
            protocol: what it would speak.
            host: an address, or a name, which is resolved as for connecting.
            source_port: the client's port, and
            path: what it would ask the server for. Both are written to the log with the answer;
                no rule looks at them.

        Raises:
            NoServerReplyError: the name does not resolve, or not within `limits.connect_timeout`.
            InvalidArgumentError: no host name, or no port.
            TerminatingError: the session is ending.
        """
        return await host_access_check(self._call(protocol), host, source_port, path)

    async def emulate_client_bind(
        self,
        client: Endpoint,
        proxy: Endpoint,
        protocol: ProtocolDefinition,
        *,
        transport: Transport = Transport.TCP,
        flags: SecondaryFlags = SecondaryFlags.NONE,
        session_filter: SessionFilter | None = None,
        context: object = None,
        ip_filter: IpFilter | None = None,
        trigger: str | None = None,
    ) -> Connection:
        """Make a primary inbound connection for a client that made no bind; nothing is bound.

        The filters that hear of primary connections hear of it as of any bind. Those who come
        are let in by `Connection.emulate_connection`.

        Args:
            client: where to pass the connections on; all zeros is supplied later.
            proxy: what the others are told as its address.
            protocol: what the connections are.
            transport: TCP or UDP.
            flags: see `SecondaryFlags`; not ADDRESS_BASED, PROXY_MODE or
                INCREASE_RECEIVE_BUFFER.
            session_filter: is not asked itself, and hears EstablishedConnection.
            context: any object.
            ip_filter: who may come; None is everybody.
            trigger: as for `bind_for_client`.

        Raises:
            AddressNotAllowedError: the client address is not the client's.
            PolicyRulesDeniedError: the rules or a filter say no.
            QuotaError: a limit was reached.
            TerminatingError: the session is ending.
        """
        call = self._call(
            protocol.over(transport), flags, session_filter, context, ip_filter, trigger=trigger
        )
        return await emulate_client_bind(call, client, proxy)

    async def share_redirection(
        self,
        target: Destination,
        *,
        protocol: ProtocolDefinition,
        advertise: str | None = None,
        trigger: str | None = None,
    ) -> SharedRedirection:
        """Open a port that stands for a server, for this client and every other one.

        It is for protocols whose clients remember the addresses of a cluster's servers, and share
        them. The same target has the same port for all clients of a listener, as long as any
        session that has asked for it or has come by it lives, and `[shared] linger` seconds more;
        after that, and after a restart, the rule of `[shared]` leads to the same port again.

        Who comes there has a session of his own, with the listener's filters, limits and rules.

        Args:
            target: the server; a name is resolved whenever somebody comes. It must be one of
                `[[shared.allow]]` or `[[shared.targets]]`, and so must what it resolves to.
            protocol: what its connections are: the listener's own, or one of its secondaries.
            advertise: what to tell the client, with or without a port; None is what the
                configuration says, or the address that it knows the proxy by.
            trigger: as for `bind_for_client`.

        Raises:
            PolicyRulesDeniedError: the target is nothing to share, or the rules say no.
            InvalidArgumentError: it has no port, or the protocol is over UDP.
            NotSupportedError: the listener's clients have to log in, which nobody can there.
            AddressInUseError: another program has the target's configured port.
            PortsExhaustedError: every port of `[shared] ports` is taken.
            QuotaError: `limits.max_shared_redirections` are in use.
            TerminatingError: the session is ending.
        """
        return await share_redirection(self._call(protocol, trigger=trigger), target, advertise)

    def _call(
        self,
        protocol: ProtocolDefinition,
        flags: SecondaryFlags = SecondaryFlags.NONE,
        session_filter: SessionFilter | None = None,
        context: object = None,
        ip_filter: IpFilter | None = None,
        *,
        source: Endpoint | None = None,
        reserved: PortReservation | None = None,
        trigger: str | None = None,
    ) -> SecondaryCall:
        """Say what the calls have in common; the session itself adds who asks."""
        raise NotImplementedError
