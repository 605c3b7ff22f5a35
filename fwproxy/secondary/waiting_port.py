"""A TCP port that waits for whoever a permission is for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint
from fwproxy.datapath.accept import Acceptor
from fwproxy.datapath.base import close_socket
from fwproxy.ledger.ledger import USED, FirewallAction

if TYPE_CHECKING:
    from fwproxy.session.session import Session


class WaitingPort:
    """One TCP port of the proxy that waits on behalf of one permission.

    Attributes:
        address: where it waits.
        session: for whose client.
        action: the permission, once it has been given (`serve`).
    """

    def __init__(
        self,
        session: Session,
        sock: socket.socket,
        on_accept: Callable[[socket.socket, Endpoint], None],
        *,
        single: bool,
    ) -> None:
        engine = session.engine
        self.address = Endpoint.from_sockaddr(sock.getsockname())
        self.action: FirewallAction | None = None
        self.session = session
        self._single = single
        self._on_accept = on_accept
        self._acceptor = Acceptor(
            engine.poller,
            engine.deadlines,
            sock,
            self.accept,
            retry=engine.limits.accept_retry,
            on_exhausted=self._exhausted,
        )

    def serve(self, action: FirewallAction) -> None:
        """Let peers in from now on, as a permission says."""
        self.action = action
        action.let_in = self._acceptor.take_waiting

    def accept(self, sock: socket.socket, peer: Endpoint) -> None:
        """Take a peer that has come, to the port itself or led to it by a listener."""
        action = self.action
        if action is None or not action.is_active:
            close_socket(sock, abort=True)
            return
        if action.peers is not None and not action.peers.is_included(peer.host):
            self._refuse(sock, peer, action)
            return
        action.uses += 1
        if self._single:
            action.cancel(USED)
        self._on_accept(sock, peer)
        if self._single:
            action.settle()  # which it has not if there was room for the connection

    def _exhausted(self, error: OSError) -> None:
        self.session.engine.log.warning(
            "accept failed", session=self.session.id, error=error.strerror
        )

    def _refuse(self, sock: socket.socket, peer: Endpoint, action: FirewallAction) -> None:
        close_socket(sock, abort=True)
        action.refused += 1
        if action.refused == 1:  # one line per permission, however many come
            self.session.engine.log.warning(
                "secondary connection refused",
                session=self.session.id,
                permission=action.id,
                proxy_address=str(self.address),
                peer=str(peer),
                allowed=str(action.peers),
            )

    def close(self) -> None:
        """Stop listening."""
        self._acceptor.close()
