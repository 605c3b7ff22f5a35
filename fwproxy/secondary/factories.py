"""Data filter factories: data filters for connections that their filter does not hear of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint, Transport
from fwproxy.clock import Deadline
from fwproxy.connection.facts import Attached
from fwproxy.errors import InvalidArgumentError, PolicyRulesDeniedError, QuotaError
from fwproxy.events import AcceptedConnection, BindUdp, ConnectTcp, Event, UdpDestination
from fwproxy.filter import FAULTS, DataFilter, Priority
from fwproxy.flags import SecondaryFlags
from fwproxy.ledger.ledger import FirewallAction

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection
    from fwproxy.session.session import Session

DataFilterFactory = Callable[["Connection", object], DataFilter | None]
"""Makes the data filter of a connection, given the context too; None stays away from it."""

_TRANSPORTS: dict[type[Event], Transport] = {
    AcceptedConnection: Transport.TCP,
    BindUdp: Transport.UDP,
    ConnectTcp: Transport.TCP,
    UdpDestination: Transport.UDP,
}
_FLAGS = SecondaryFlags.ALLOW_MULTIPLE | SecondaryFlags.TIMEOUT
_ANY = Endpoint("0.0.0.0")


@attrs.define(slots=True, eq=False)
class FactoryAction(FirewallAction):
    """A data filter factory in its place; it is used up like a permission, and opens nothing.

    Attributes:
        event_type: the event at which it is called.
        address: the remote one for connects, the bound one for binds and accepts; None is any.
        factory: makes the data filters.
        priority: where in the chain they stand.
        context: goes with each of them.
        single: ends with the first connection.
        missed: the permissions that match and were given before, while nobody expected a data
            filter: it cannot be attached to their connections any more (S31).
    """

    event_type: type[Event] = attrs.field(kw_only=True)
    address: Endpoint | None = attrs.field(kw_only=True)
    factory: DataFilterFactory = attrs.field(kw_only=True)
    priority: Priority = attrs.field(kw_only=True)
    context: object = attrs.field(kw_only=True)
    single: bool = attrs.field(kw_only=True)
    missed: tuple[FirewallAction, ...] = ()
    expiry: Deadline | None = None

    @property
    def by(self) -> str:
        """What log and ledger call it."""
        return getattr(self.factory, "__qualname__", type(self.factory).__name__)

    def matches(self, kind: type[Event], address: Endpoint | None) -> bool:
        """Tell whether it is for such an event; an address that is not known may be any."""
        if kind is not self.event_type or not self.is_active:
            return False
        wanted = self.address
        if wanted is None or address is None:
            return True
        return wanted.port in {0, address.port} and (
            wanted.is_unspecified or wanted.host == address.host
        )


class Factories:
    """The data filter factories of one session, in the order in which they were set."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._actions: list[FactoryAction] = []

    def __len__(self) -> int:
        return len(self._actions)

    def set(
        self,
        event_type: type[Event],
        address: Endpoint | None,
        factory: DataFilterFactory,
        priority: Priority,
        context: object,
        flags: SecondaryFlags,
    ) -> FactoryAction:
        """Do what `Session.set_data_filter_factory` says."""
        self._check(event_type, flags)
        session, engine = self._session, self._session.engine
        seconds = engine.config.secondary.timeout if SecondaryFlags.TIMEOUT in flags else None
        now = engine.deadlines.now()
        action = FactoryAction(
            id=next(engine.permission_numbers),
            session=session,
            protocol=session.protocol,
            transport=_TRANSPORTS[event_type],
            proxy_address=address or _ANY,
            target=None,
            peers=None,
            created=now,
            expires=None if seconds is None else now + seconds,
            filter_name=None,
            withdraw=self._withdraw,
            event_type=event_type,
            address=address,
            factory=factory,
            priority=priority,
            context=context,
            single=SecondaryFlags.ALLOW_MULTIPLE not in flags,
        )
        action.missed = self._missed(action)
        if seconds is not None:
            action.expiry = engine.deadlines.after(seconds, action.expire)
        self._actions.append(action)
        return action

    def _check(self, event_type: type[Event], flags: SecondaryFlags) -> None:
        if event_type not in _TRANSPORTS:
            names = ", ".join(kind.__name__ for kind in _TRANSPORTS)
            raise InvalidArgumentError(f"{event_type.__name__} is none of {names}")
        if flags & ~_FLAGS:
            raise InvalidArgumentError(f"set_data_filter_factory does not take {flags & ~_FLAGS}")
        limit = self._session.engine.limits.max_factories_per_session
        if len(self._actions) >= limit:
            raise QuotaError(f"more than {limit} data filter factories (max_factories_per_session)")

    def _missed(self, action: FactoryAction) -> tuple[FirewallAction, ...]:
        """Find what was decided without it, and say so (S31)."""
        missed = tuple(
            permission
            for permission in self._session.permissions
            if permission.choice is not None
            and permission.choice.event == action.event_type.__name__
            and (action.event_type is BindUdp or not permission.choice.takes_filters)
            and action.matches(action.event_type, _address_of(permission, action.event_type))
        )
        if missed:
            self._too_late(action, permissions=[permission.id for permission in missed])
        return missed

    def _too_late(self, action: FactoryAction, **what: object) -> None:
        self._session.engine.log.warning(
            "data filter factory comes too late",
            session=self._session.id,
            factory=action.by,
            event_type=action.event_type.__name__,
            **what,
        )

    def _withdraw(self, action: FirewallAction, reason: str) -> None:  # noqa: ARG002 - no ledger
        assert isinstance(action, FactoryAction)  # noqa: S101 - made above
        self._actions.remove(action)
        if action.expiry is not None:
            action.expiry.cancel()

    def expected(self, kind: type[Event], address: Endpoint | None) -> list[str]:
        """Return the names of those that will be asked for a data filter."""
        return [action.by for action in self._actions if action.matches(kind, address)]

    def attach(self, connection: Connection, kind: type[Event], address: Endpoint) -> None:
        """Attach what they make for a connection whose filters have been heard.

        Raises:
            PolicyRulesDeniedError: one failed; bytes must not pass unseen.
        """
        if not connection.choice.takes_filters:
            return  # which was said when the factory was set
        served = {entry.action for entry in connection.data_filters or ()}
        for action in tuple(self._actions):
            if action in served or not action.matches(kind, address):
                continue
            if connection.takes_filters:
                self._attach_one(action, connection)
            else:  # a filter talks with the client already, which has yet to name its server
                self._too_late(action, connection=connection.id)

    def _attach_one(self, action: FactoryAction, connection: Connection) -> None:
        try:
            data_filter = action.factory(connection, action.context)
        except FAULTS as error:  # uncertain means deny
            self._session.engine.log.exception(
                "data filter factory failed",
                session=self._session.id,
                connection=connection.id,
                factory=action.by,
                error=f"{type(error).__name__}: {error}",
            )
            raise PolicyRulesDeniedError(f"data filter factory {action.by} failed") from error
        if data_filter is None:
            return
        connection.place(Attached(action.priority, data_filter, action.context, action.by, action))
        action.uses += 1
        if action.single:
            action.cancel("used")

    def cancel_all(self, reason: str) -> None:
        """Cancel every one."""
        for action in tuple(self._actions):
            action.cancel(reason)


def _address_of(permission: FirewallAction, kind: type[Event]) -> Endpoint | None:
    """Return the address that a permission's connections will have for such an event."""
    outbound: Sequence[type[Event]] = (ConnectTcp, UdpDestination)
    target = permission.target
    if kind in outbound:  # a host name is none: nothing is known of its address yet
        return target if isinstance(target, Endpoint) else None
    return permission.proxy_address
