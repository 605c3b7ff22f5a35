"""Outbound secondary connections that the client makes itself: `allow_future_connect`.

A transparent client goes to the address that its server has told it. Where a listener that takes
any destination gets that connection, it becomes a secondary connection of the session that has
permitted it, and not a session of its own.
"""

from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint, IpFilter, Reach, Transport, reach_of
from fwproxy.connection.connection import Connection
from fwproxy.errors import AddressNotAllowedError, CallError, InvalidArgumentError
from fwproxy.events import ConnectTcp, UdpDestination
from fwproxy.filter import Ends
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger.ledger import USED, FirewallAction
from fwproxy.policy.grants import granted
from fwproxy.secondary.address_check import server_address_problem
from fwproxy.secondary.call import SecondaryCall, another_connection
from fwproxy.secondary.flag_rules import check_flags
from fwproxy.secondary.kernel import CallPort, open_ports, outbound_pinhole, take_streams
from fwproxy.secondary.outbound import connect_accepted

if TYPE_CHECKING:
    from fwproxy.session.session import Session


@attrs.define(slots=True, eq=False)
class ExpectedConnect:
    """One permitted connection that is yet to come, or several with ALLOW_MULTIPLE.

    Attributes:
        call: who has permitted it, and how.
        server: where the client will go.
        action: the permission.
    """

    call: SecondaryCall
    server: Endpoint
    action: FirewallAction = attrs.field(init=False)

    @property
    def client_host(self) -> str:
        """The address of the clients that may come."""
        return self.call.session.client_address.host

    @property
    def is_address_based(self) -> bool:
        """Whether it is for every session of the client's address, and outlives its own."""
        return SecondaryFlags.ADDRESS_BASED in self.call.flags

    def fits(self, transport: Transport, server: Endpoint, user: str | None) -> bool:
        """Tell whether a connection to *server*, made by *user*, is the permitted one."""
        same = server == self.server and transport is self.call.protocol.transport
        return same and (self.is_address_based or user == self.call.session.authenticated_user)

    def use(self) -> None:
        """Count a connection; the first one uses up a permission for one."""
        self.action.uses += 1
        if self.call.is_single:
            self.action.cancel(USED)

    def accept(self, sock: socket.socket, client: Endpoint) -> Connection | None:
        """Take the client's socket; None, and the client is cut off, if the session is full."""
        made = connect_accepted(self.call, self.action, sock, client, self.server)
        self.action.settle()
        return made

    def connection(self, client: Endpoint) -> Connection | None:
        """Make the connection for a listener of datagrams to carry; None if there is no room."""
        made = another_connection(self.call, client)
        if made is not None:
            made.permission = self.action
            made.server_address = self.server
        self.action.settle()
        return made

    def may_pass_to(self, heir: Session) -> bool:
        """Tell whether another session has room for it, and its rule and listener grant it."""
        try:
            granted(attrs.evolve(self.call, session=heir), "allow", [self.server.host])
        except CallError:
            return False
        return heir.has_room(1, 0)

    def pass_to(self, heir: Session) -> None:
        """Make another session of the same client's address the owner.

        The filter that has asked is part of the session that ends, so nobody hears of the
        establishment any more.
        """
        self.action.session.let_go(self.action)
        self.call = attrs.evolve(self.call, session=heir, session_filter=None)
        self.action.session = heir
        heir.hold(self.action)


async def allow_future_connect(call: SecondaryCall, server: Endpoint) -> FirewallAction:
    """Do what `Session.allow_future_connect` says."""
    session, engine = call.session, call.session.engine
    session.check_room(1, 0)
    call = granted(call, "allow", [server.host])
    check_flags("allow_future_connect", call.flags, call.protocol.transport)
    if server.port == 0 or reach_of(server.host) is Reach.NOWHERE:
        raise InvalidArgumentError(f"{server} is no address to connect to")
    flags = call.flags | engine.address_flags
    problem = server_address_problem(session, server, flags)
    if problem is not None:
        raise AddressNotAllowedError(problem)
    call.check_target(server.host)
    kind = ConnectTcp if call.is_tcp else UdpDestination
    expected = ExpectedConnect(call.decided(kind, server), server)
    port = CallPort(expected.call, None, functools.partial(outbound_pinhole, server))
    open_ports([port])
    expected.call = port.call

    def close(_: str) -> None:
        port.shut()
        engine.expected.strike(expected)

    peers = IpFilter.only(expected.client_host)
    expected.action = expected.call.permit(None, server, peers, close)
    engine.expected.enter(expected)
    if port.is_in_kernel:
        take_streams(
            port,
            expected.action,
            lambda flow: another_connection(expected.call, flow.peer),
            lambda flow: Ends(flow.peer, server),
        )
    return expected.action


def hand_over(session: Session, others: list[Session]) -> None:
    """Give what is bound to the client's address to another session of it that may have it.

    Without one the permissions end with the session, as those do that are bound to it.
    """
    for expected in session.engine.expected.of_session(session):
        if not expected.is_address_based:
            continue
        heir = next((each for each in others if expected.may_pass_to(each)), None)
        if heir is not None:
            expected.pass_to(heir)
