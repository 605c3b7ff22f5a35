"""The ledger: every permission that there is, whose it is, and why it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Destination, Endpoint, IpFilter, Transport
from fwproxy.protocol import ProtocolDefinition

if TYPE_CHECKING:
    from fwproxy.datapath.choice import Choice
    from fwproxy.session import Session


@attrs.frozen(slots=True)
class LedgerEntry:
    """One permission as it stood when the ledger was asked.

    Attributes:
        id: the permission's number.
        listener: the way in that its session used.
        session: the session's number.
        filter: the name of the session filter's class that asked for it, if it said so.
        protocol: the name of the secondary protocol.
        transport: TCP or UDP.
        proxy_address: where the proxy waits; None where the client connects by itself.
        target: where it connects to; None for a client address that is not known yet.
        peers: who may come; None is everybody.
        age: seconds since it was given.
        expires_in: seconds until it expires by itself, or None.
        uses: connections made with it.
        refused: connections refused, for coming from elsewhere.
        path: the data path of its connections.
        why: why it is that one.
    """

    id: int
    listener: str
    session: int
    filter: str | None
    protocol: str
    transport: str
    proxy_address: str | None
    target: str | None
    peers: str | None
    age: float
    expires_in: float | None
    uses: int
    refused: int
    path: str | None = None
    why: str | None = None


@attrs.define(slots=True, eq=False)
class FirewallAction:
    """One revocable permission.

    It is cancelled by itself after single use, at its time-out, and when its session ends (with
    ADDRESS_BASED, when the last session of the client's address does).
    What its attributes mean, `LedgerEntry` says; `choice` is the data path of its connections.
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

    def __str__(self) -> str:
        fields = attrs.asdict(self.entry())
        return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)

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
        return True

    def expire(self) -> None:
        """End it because nobody came in time."""
        self.cancel("expired")

    def entry(self) -> LedgerEntry:
        """Return what the ledger says of it now."""
        now = self.session.engine.deadlines.now()
        return LedgerEntry(
            id=self.id,
            listener=self.session.listener_name,
            session=self.session.id,
            filter=self.filter_name,
            protocol=self.protocol.name,
            transport=self.transport.value,
            proxy_address=None if self.proxy_address is None else str(self.proxy_address),
            target=None if self.target is None else str(self.target),
            peers=None if self.peers is None else str(self.peers),
            age=round(now - self.created, 3),
            expires_in=None if self.expires is None else round(self.expires - now, 3),
            uses=self.uses,
            refused=self.refused,
            path=None if self.choice is None else self.choice.path.value,
            why=None if self.choice is None else self.choice.reason,
        )


class Ledger:
    """All active permissions."""

    def __init__(self) -> None:
        self._actions: dict[int, FirewallAction] = {}

    def __len__(self) -> int:
        return len(self._actions)

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter([action.entry() for action in self._actions.values()])

    def enter(self, action: FirewallAction) -> None:
        """Write a permission down; what is not in the ledger is not permitted."""
        self._actions[action.id] = action

    def strike(self, action: FirewallAction) -> None:
        """Strike out a permission that has ended."""
        self._actions.pop(action.id, None)
