"""Binds that a client has made by itself, and their approval: `retroactive_allow_bind`.

A SOCKS client asks the proxy for a port, and holds it from then on; whether anybody may come to
it is another question, which a filter may answer when the protocol inside names the port. The
listener that holds the port for the client enters it in `Session.client_binds`.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint, Transport
from fwproxy.errors import QuotaError, TerminatingError
from fwproxy.ledger.ledger import FirewallAction
from fwproxy.policy.grants import granted
from fwproxy.ports.sockets import start_listening
from fwproxy.secondary.call import SecondaryCall
from fwproxy.secondary.flag_rules import check_flags
from fwproxy.secondary.waiting_port import WaitingPort

if TYPE_CHECKING:
    from fwproxy.session.session import Session


class BindAnswer(enum.Enum):
    """What `retroactive_allow_bind` has found; a refusal is an error instead."""

    ALLOWED = "allowed"
    """The bind was there, and peers may come from now on."""
    ALREADY_ALLOWED = "already allowed"
    """Nothing has changed: peers might come before."""
    NO_SUCH_BIND = "no such bind"
    """The client holds no such port: call `bind_for_client`."""


@attrs.define(slots=True, eq=False)
class ClientBind:
    """One port that a client holds.

    Attributes:
        address: what the client was told, and so what it tells others.
        transport: TCP or UDP.
        admit: lets peers in as the call says, and returns the permission, whose end closes the
            port.
        give_up: closes the port while there is no permission.
        action: the permission, once there is one.
    """

    address: Endpoint
    transport: Transport
    admit: Callable[[SecondaryCall], FirewallAction]
    give_up: Callable[[], None]
    action: FirewallAction | None = None

    @property
    def is_allowed(self) -> bool:
        """Whether peers may come."""
        return self.action is not None and self.action.is_active

    def close(self, reason: str) -> None:
        """Close the port, and withdraw the permission if there is one; harmless when repeated."""
        if self.action is None:
            self.give_up()
        else:
            self.action.cancel(reason)


class ClientBinds:
    """The ports that one session's client holds."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._binds: dict[tuple[Transport, Endpoint], ClientBind] = {}

    def __len__(self) -> int:
        return len(self._binds)

    def hold(self, bind: ClientBind) -> None:
        """Enter a port; the session's end closes it.

        Raises:
            QuotaError: the session has as many as it may have permissions.
            TerminatingError: the session is ending.
        """
        if self._session.end_reason is not None:
            raise TerminatingError("the session is ending")
        most = self._session.engine.limits.max_permissions_per_session
        if len(self._binds) >= most:
            raise QuotaError(f"more than {most} binds (max_permissions_per_session)")
        self._binds[bind.transport, bind.address] = bind

    def release(self, bind: ClientBind) -> None:
        """Forget a port that the client holds no longer; harmless when repeated."""
        if self._binds.get((bind.transport, bind.address)) is bind:
            del self._binds[bind.transport, bind.address]

    def find(self, address: Endpoint, transport: Transport) -> ClientBind | None:
        """Return the bind that others know by this address."""
        return self._binds.get((transport, address))

    def close_all(self, reason: str) -> None:
        """Give every port up."""
        binds, self._binds = self._binds, {}
        for bind in binds.values():
            bind.close(reason)


async def retroactive_allow_bind(call: SecondaryCall, address: Endpoint) -> BindAnswer:
    """Do what `Session.retroactive_allow_bind` says."""
    session = call.session
    session.check_room(0, 0)
    check_flags("retroactive_allow_bind", call.flags, call.protocol.transport)
    bind = session.client_binds.find(address, call.protocol.transport)
    if bind is None:
        return BindAnswer.NO_SUCH_BIND
    if bind.is_allowed:
        return BindAnswer.ALREADY_ALLOWED
    call = granted(call, "approve")
    call.check_port(bind.address.port)
    call.check_policy(session.server_host or session.client_address.host)
    session.check_room(1, 1)
    bind.action = bind.admit(call)
    return BindAnswer.ALLOWED


def hold_port(
    session: Session,
    sock: socket.socket,
    on_accept: Callable[[socket.socket, Endpoint], None],
    *,
    told: Endpoint | None = None,
) -> ClientBind:
    """Hold a bound TCP socket of the pool for the client, which listens once it is approved.

    Until then whoever connects is refused by the kernel.

    Args:
        session: whose client it is.
        sock: from `PortPool.allocate` without a backlog.
        on_accept: gets each peer's socket.
        told: what the client was told, where that is not the socket's address.

    Raises:
        QuotaError: the client holds too many already; the socket is still the caller's.
        TerminatingError: the session is ending; the same.
    """
    engine = session.engine
    address = Endpoint.from_sockaddr(sock.getsockname())

    def admit(call: SecondaryCall) -> FirewallAction:
        start_listening(sock, engine.config.secondary.backlog)
        port = WaitingPort(session, sock, on_accept, single=call.is_single)
        client = session.client_address

        def ended(_: str) -> None:
            session.client_binds.release(bind)
            port.close()

        action = call.permit(address, client, call.ip_filter, ended)
        port.serve(action)
        return action

    def give_up() -> None:
        session.client_binds.release(bind)
        if sock.fileno() >= 0:
            sock.close()
            engine.ports.release(address, Transport.TCP)

    bind = ClientBind(told or address, Transport.TCP, admit, give_up)
    session.client_binds.hold(bind)
    return bind
