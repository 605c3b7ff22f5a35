"""A client in its handshake."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from fwproxy.address import Endpoint
from fwproxy.handshake.base import Handshake, Login, Refusal, Request, Say, Step
from fwproxy.listeners.arrival import Arrival
from fwproxy.listeners.base import Listener
from fwproxy.listeners.farewell import Farewell
from fwproxy.logins import Logins


class Handshaking(Arrival):
    """One client, from its first byte to its request.

    Args:
        listener: the listener that it has come to.
        sock: its socket.
        client: its address.
        handshake: what it is to say.
        logins: who may log in; None where nobody needs to.
        on_request: told of the request, when all of it was taken from the socket. It gets this
            object, whose socket it has to `release`, or to `refuse` with a reply.

    Attributes:
        handshake: as given; for the replies.
        user: who has logged in, or None.
    """

    __slots__ = ("_is_busy", "_logins", "_on_request", "_task", "handshake", "user")

    def __init__(
        self,
        listener: Listener,
        sock: socket.socket,
        client: Endpoint,
        handshake: Handshake,
        logins: Logins | None,
        on_request: Callable[[Handshaking, Request], None],
    ) -> None:
        self.handshake = handshake
        self.user: str | None = None
        self._logins = logins
        self._on_request = on_request
        self._is_busy = False
        self._task: asyncio.Task[None] | None = None
        super().__init__(listener, sock, client, listener.engine.limits.handshake_timeout)

    def look(self) -> None:
        """Take the steps that the bytes so far allow."""
        while not self._is_busy and not self.is_over:
            size = self.handshake.max_size
            try:
                data = self.peek(size)
            except OSError as error:
                self.refused(f"broken: {error.strerror}")
                return
            if data is None:
                return
            if not data:
                self.refused("the client has left in the middle of its handshake")
                return
            step = self.handshake.step(data)
            if step is None and len(data) >= self.handshake.max_size:
                step = self.handshake.too_long()
            if step is None and self.is_all:
                self.refused("the client has said its end in the middle of its handshake")
            if step is None:
                return
            self._do(step)

    def _do(self, step: Step) -> None:
        self.take(step.used)
        if isinstance(step, Say):
            self._say(step.data)
        elif isinstance(step, Refusal):
            self.refuse(step.data, step.reason)
        elif isinstance(step, Login):
            self._is_busy = True
            self.spawn(self._log_in(step))
        else:
            self._is_busy = True
            self._on_request(self, step)

    def _say(self, data: bytes) -> None:
        try:
            sent = self.sock.send(data)
        except OSError:
            sent = -1
        if sent < len(data):  # it does not read: what waits before this is a few bytes
            self.refused("the client does not take replies")

    def refuse(self, reply: bytes, reason: str) -> None:
        """Turn the client away with a last reply."""
        if not reply:
            self.refused(reason)
            return
        self.listener.engine.log.info(
            "client turned away",
            listener=self.listener.config.name,
            client=str(self.client),
            handshake=self.handshake.name,
            reason=reason,
        )
        Farewell(self.listener, self.release(), self.client, reply)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that ends with the handshake."""
        self._task = self.listener.engine.loop.create_task(work)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.on_broken(error)  # type: ignore[arg-type]

    async def _log_in(self, login: Login) -> None:
        assert self._logins is not None  # noqa: S101 - only such a handshake asks for one
        is_right = await self._logins.check(login.user, login.password, self.client.host)
        if is_right:
            self.user = login.user
        answer = self.handshake.logged_in(is_right)
        self._is_busy = False
        if answer is not None:
            self._do(answer)
        self.look()

    def _leave(self) -> None:
        super()._leave()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
