"""The ledger: every permission that there is or was, whose it is, and why it ended."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from fwproxy.address import Destination, Endpoint, IpFilter, Transport
from fwproxy.ledger.file import LedgerFile
from fwproxy.protocol import ProtocolDefinition

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection
    from fwproxy.datapath.choice import Choice
    from fwproxy.session.session import Session

USED = "used"
"""The close reason of a permission whose one connection has come."""

MAX_TRIGGER = 200
"""Characters of what has triggered a permission: it may be a peer's word."""


@attrs.frozen(slots=True)
class LedgerEntry:
    """One permission as it stood when the ledger was asked, or when it had ended.

    Attributes:
        id: the permission's number.
        listener: the way in that its session used.
        rule: the rule that has allowed its session.
        session: the session's number.
        client: the session's client.
        user: who that is, where it is known.
        filter: the name of the session filter's class that asked for it, if it said so.
        trigger: what made the filter ask, in the words of the protocol, if it said so.
        protocol: the name of the secondary protocol.
        transport: TCP or UDP.
        proxy_address: where the proxy waits; None where the client connects by itself.
        target: where it connects to; None for a client address that is not known yet.
        peers: who may come; None is everybody.
        created: when it was given, in seconds since 1970.
        age: seconds since it was given, or how many it has lived, with its connections.
        expires_in: seconds until it expires by itself, or None.
        uses: connections made with it.
        refused: connections refused, for coming from elsewhere.
        client_bytes: received from the client on its connections.
        server_bytes: received from the server.
        path: the data path of its connections.
        why: the reason for that.
        close_reason: why it ended; None while it permits anything.
    """

    id: int
    listener: str
    rule: str
    session: int
    client: str
    user: str | None
    filter: str | None
    trigger: str | None
    protocol: str
    transport: str
    proxy_address: str | None
    target: str | None
    peers: str | None
    created: float
    age: float
    expires_in: float | None
    uses: int
    refused: int
    client_bytes: int
    server_bytes: int
    path: str
    why: str
    close_reason: str | None

    def __str__(self) -> str:
        fields = attrs.asdict(self)
        return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)


def _nobody() -> None:
    return


@attrs.define(slots=True, eq=False)
class FirewallAction:
    """One revocable permission.

    It is cancelled by itself after single use, at its time-out, and when its session ends (with
    ADDRESS_BASED, when the last session of the client's address does).
    What its attributes mean, `LedgerEntry` says; `choice` is the data path of its connections, and
    `let_in` takes those who have come and were not noticed yet, for they have come in time.
    """

    id: int
    session: Session
    protocol: ProtocolDefinition
    transport: Transport
    proxy_address: Endpoint | None
    target: Destination | None
    peers: IpFilter | None
    created: float
    expires: float | None
    filter_name: str | None
    _withdraw: Callable[[FirewallAction, str], None] = attrs.field(repr=False)
    uses: int = 0
    refused: int = 0
    close_reason: str | None = None
    choice: Choice | None = None
    trigger: str | None = None
    client_bytes: int = 0
    server_bytes: int = 0
    let_in: Callable[[], None] = attrs.field(default=_nobody, repr=False)
    _is_settled: bool = attrs.field(default=False, init=False)

    def __str__(self) -> str:
        return str(self.entry())

    @property
    def is_active(self) -> bool:
        """Whether it still permits anything."""
        return self.close_reason is None

    def cancel(self, reason: str = "cancelled") -> bool:
        """Withdraw it; return False when it had ended already."""
        if self.close_reason is not None:
            return False
        self.close_reason = reason
        self._withdraw(self, reason)
        if reason != USED:  # the connection that has used it up is about to be made
            self.settle()
        return True

    def expire(self) -> None:
        """End it because nobody came in time."""
        if self.is_active:
            self.let_in()
        self.cancel("expired")

    def carried(self, connection: Connection) -> None:
        """Take down what one of its connections, which has just ended, has carried."""
        self.client_bytes += connection.client_bytes
        self.server_bytes += connection.server_bytes
        if connection.data_path:
            self.choice = connection.choice
        self.settle()

    def settle(self) -> None:
        """Write the end down, once it permits nothing any more and no connection of it is left."""
        if self._is_settled or self.close_reason is None:
            return
        for connection in self.session.connections:
            if connection.permission is self and not connection.is_closed:
                return
        self._is_settled = True
        self.session.engine.ledger.ended(self)

    def entry(self) -> LedgerEntry:
        """Return what the ledger says of it now."""
        return _entry(_facts(self))


_Facts = tuple[Any, ...]
"""What an entry is made of when somebody wants to read it: words cost more than values."""

_WHERE, _WHEN = 9, 13
"""Where in them the transport stands, with the addresses behind it, and where the times do."""


def _facts(action: FirewallAction) -> _Facts:
    session = action.session
    now = session.engine.deadlines.now()
    client_bytes, server_bytes = action.client_bytes, action.server_bytes
    if not action._is_settled:  # noqa: SLF001 - an action and its facts are one thing
        for connection in session.connections:
            if connection.permission is action and not connection.is_closed:
                client_bytes += connection.client_bytes
                server_bytes += connection.server_bytes
    return (
        action.id, session.listener_name, session.rule, session.id, session.client_address.host,
        session.authenticated_user, action.filter_name, action.trigger, action.protocol.name,
        action.transport, action.proxy_address, action.target, action.peers, time.time(),
        now - action.created, None if action.expires is None else action.expires - now,
        action.uses, action.refused, client_bytes, server_bytes, action.choice,
        action.close_reason,
    )  # fmt: skip


def _entry(facts: _Facts) -> LedgerEntry:
    now, age, expires_in, *counts, choice, close_reason = facts[_WHEN:]
    values = [
        *facts[:_WHERE],
        facts[_WHERE].value,
        *(None if each is None else str(each) for each in facts[_WHERE + 1 : _WHEN]),
        round(now - age, 3),
        round(age, 3),
        None if expires_in is None else round(expires_in, 3),
        *counts,
        "" if choice is None else choice.path.value,
        "" if choice is None else choice.reason,
        close_reason,
    ]
    return LedgerEntry(*values)


class Ledger:
    """All active permissions, those that ended lately, and the file where both are written.

    Args:
        history: how many of the ended ones to remember.
        file: where each is written when it begins and when it has ended.
    """

    def __init__(self, history: int = 0, file: LedgerFile | None = None) -> None:
        self._actions: dict[int, FirewallAction] = {}
        self._history: deque[_Facts] = deque(maxlen=history)
        self._file = file

    def __len__(self) -> int:
        return len(self._actions)

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter([action.entry() for action in self._actions.values()])

    @property
    def history(self) -> list[LedgerEntry]:
        """Those that have ended with all of their connections, the latest last."""
        return [_entry(facts) for facts in self._history]

    def enter(self, action: FirewallAction) -> None:
        """Write a permission down; what is not in the ledger is not permitted."""
        self._actions[action.id] = action
        if self._file is not None:
            self._file.write("opened", attrs.asdict(action.entry()))

    def strike(self, action: FirewallAction) -> None:
        """Strike out a permission that permits nothing any more."""
        self._actions.pop(action.id, None)

    def ended(self, action: FirewallAction) -> None:
        """Take down how a permission has ended."""
        if not self._history.maxlen and self._file is None:
            return
        facts = _facts(action)
        self._history.append(facts)
        if self._file is not None:
            self._file.write("ended", attrs.asdict(_entry(facts)))

    def reopen(self) -> None:
        """Go on in a new file of the same name, after the old one was moved away."""
        if self._file is not None:
            self._file.reopen()

    def finish(self) -> None:
        """Let what is left be written to the file, and close that."""
        if self._file is not None:
            self._file.finish()

    async def written(self) -> None:
        """Wait until that is done, unless the disk hangs."""
        if self._file is not None:
            await asyncio.to_thread(self._file.join)
