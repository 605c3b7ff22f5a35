"""Opening shared redirections: `share_redirection`.

Who comes to a shared port is a client like any other: a session of its own, of the listener that
the port was opened for, with its filters, its limits and its rules.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Destination, Endpoint, Transport, is_ip, parse_destination
from fwproxy.clock import Deadline
from fwproxy.connection.connection import Connection
from fwproxy.datapath.accept import Acceptor
from fwproxy.engine.engine import Engine
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAllowedError,
    InvalidArgumentError,
    NotSupportedError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
)
from fwproxy.ledger.ledger import FirewallAction
from fwproxy.policy.grants import granted
from fwproxy.ports.sockets import open_port, start_listening
from fwproxy.secondary.call import SecondaryCall
from fwproxy.session.services import Service
from fwproxy.shared.ports import SharedKey, canonical

if TYPE_CHECKING:
    from fwproxy.listeners.base import Listener
    from fwproxy.session.session import Session


@attrs.frozen(slots=True)
class SharedRedirection:
    """What `share_redirection` gives back.

    Attributes:
        internal_address: what to tell the client.
        proxy_address: where the proxy listens.
        action: the permission, the same one for all who share it.
    """

    internal_address: Destination
    proxy_address: Endpoint
    action: FirewallAction


class SharedPort:
    """One port that stands for one target, for everybody.

    Attributes:
        key: what it is for.
        address: where it listens.
        action: the permission in the ledger, in the name of the session that has asked first.
        users: the sessions that have asked for it, and those that came by it.
        last_used: the time when the last of them has left.
    """

    action: FirewallAction

    def __init__(self, call: SecondaryCall, key: SharedKey, sock: socket.socket) -> None:
        engine = call.session.engine
        self.key = key
        self.address = Endpoint.from_sockaddr(sock.getsockname())
        self.users: set[Session] = set()
        self.last_used = engine.deadlines.now()
        self._engine = engine
        self._protocol = call.protocol
        self._service: Service = call.session.service
        self._listener: Listener = call.session.listener
        self._linger: Deadline | None = None
        self._acceptor = Acceptor(
            engine.poller,
            engine.deadlines,
            sock,
            self._accepted,
            retry=engine.limits.accept_retry,
            on_exhausted=self._exhausted,
        )

    def used_by(self, session: Session) -> None:
        """Stay open for as long as the session lives."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self.users.add(session)
        session.share(self)

    def left_by(self, session: Session) -> None:
        """Close after a while, unless somebody else uses it."""
        self.users.discard(session)
        self.last_used = self._engine.deadlines.now()
        if not self.users and self.action.is_active:
            linger = self._engine.shared.linger
            self._linger = self._engine.deadlines.after(linger, self._unused)

    def _unused(self) -> None:
        """Close, unless somebody comes in the last moment."""
        self._linger = None
        self._acceptor.take_waiting()
        if not self.users and self._linger is None:
            self.action.expire()

    def _accepted(self, sock: socket.socket, client: Endpoint) -> None:
        session = self._listener.admit(
            sock, client, self._open, service=self._service, protocol=self._protocol
        )
        if session is None:
            self.action.refused += 1
        else:
            self.action.uses += 1

    def _open(self, session: Session, connection: Connection, sock: socket.socket) -> None:
        """Set a client's connection on its way to the target."""
        self.used_by(session)
        believed = self._listener.destination(sock)
        if believed is not None and self._listener.config.advertise is None:
            session.advertised_host = believed.host
        target, opening = self.key.target, connection.opening
        if opening is not None:
            opening.screen = lambda address: self._engine.shared.allowed.admits(target, address)
            opening.request(target)

    def _exhausted(self, error: OSError) -> None:
        self._engine.log.warning(
            "accept failed, new clients wait", shared=str(self.key), error=error.strerror
        )

    def close(self, reason: str) -> None:
        """Let nobody come any more; sessions that have come go on."""
        self.action.cancel(reason)

    def ended(self, _: str) -> None:
        """Do what the end of the permission means."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._acceptor.close()
        self._engine.shared.strike(self)


async def share_redirection(
    call: SecondaryCall, target: Destination, advertise: str | None
) -> SharedRedirection:
    """Do what `Session.share_redirection` says."""
    session, shared = call.session, call.session.engine.shared
    session.check_room(0, 0)
    key = _checked_key(call, target)
    port = shared.get(key)
    call = _granted(call, key, port)
    if port is None:
        shared.make_room()
        port = _open_port(call, key)
    port.used_by(session)
    told = _told(call, port, advertise)
    return SharedRedirection(told, port.address, port.action)


def _checked_key(call: SecondaryCall, target: Destination) -> SharedKey:
    session = call.session
    if call.protocol.transport is not Transport.TCP:
        raise InvalidArgumentError("a shared redirection is for TCP")
    if session.listener.config.users is not None:
        raise NotSupportedError("nobody who comes to a shared port can log in (listeners.users)")
    if not target.port:
        raise InvalidArgumentError(f"{target.host} needs a port")
    target = canonical(target)
    if not session.engine.shared.allowed.is_allowed(target):
        raise PolicyRulesDeniedError(f"{target} is nothing to share ([[shared.allow]])")
    if isinstance(target, Endpoint):
        call.check_policy(target.host)
    return SharedKey(session.listener_name, call.protocol.name, target)


def _granted(call: SecondaryCall, key: SharedKey, port: SharedPort | None) -> SecondaryCall:
    """Return the call as far as it is granted; a port that the session has counts once."""
    session, target = call.session, key.target
    more = 0 if port is not None and session in port.users else 1
    if isinstance(target, Endpoint):
        call = granted(call, "share", [target.host], more)
    else:
        call = granted(call, "share", [], more)
        if any(grant.scope.peers is not None for grant in session.terms.grants):
            raise AddressNotAllowedError(f"{target} may lead to hosts that are not granted")
    if port is not None:
        call.check_port(port.address.port)
    return call


def _open_port(call: SecondaryCall, key: SharedKey) -> SharedPort:
    engine = call.session.engine
    sock = _listening(call, key)
    try:
        port = SharedPort(call, key, sock)
    except BaseException:
        sock.close()
        raise
    port.action = call.permit(port.address, key.target, None, port.ended)
    call.session.let_go(port.action)  # it outlives the session
    engine.shared.enter(port)
    engine.shared.rule.remember(key, port.address.port)
    return port


def _listening(call: SecondaryCall, key: SharedKey) -> socket.socket:
    """Listen on the first of the target's ports that can be had."""
    engine, listener = call.session.engine, call.session.listener
    host, own = listener.config.bind.host, engine.shared.rule.configured(key)
    taken = [port.address.port for port in engine.shared]
    for port in engine.shared.rule.candidates(key, taken):
        if call.ports is not None and port not in call.ports:
            continue
        address = Endpoint(host, port)
        try:
            sock = _listen_on(engine, address, listener.config.backlog)
        except AddressInUseError:
            if own is not None:
                raise
            continue
        if port != engine.shared.rule.usual(key):
            engine.log.warning("shared port not the usual one", shared=str(key), port=port)
        return sock
    raise PortsExhaustedError(f"no port of {engine.config.shared.ports} is free (shared.ports)")


def _listen_on(engine: Engine, address: Endpoint, backlog: int) -> socket.socket:
    open_socket = engine.poller.open_socket
    sock = open_port(address, Transport.TCP, shared=True, open_socket=open_socket)
    try:
        start_listening(sock, backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _told(call: SecondaryCall, port: SharedPort, advertise: str | None) -> Destination:
    """Return what clients are to be told: as the call says, or the configuration, or its own."""
    session, number = call.session, port.address.port
    own = session.engine.shared.rule.configured(port.key)
    said = advertise or (None if own is None else own.advertise) or session.advertised_host
    if said is None:
        return Endpoint(session.internal_host or port.address.host, number)
    return Endpoint(said, number) if is_ip(said) else parse_destination(said, number)
