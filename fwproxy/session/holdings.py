"""What a session holds, its connections and permissions, and how many more it may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fwproxy.address import Endpoint
from fwproxy.engine.engine import Engine
from fwproxy.engine.quotas import Usage
from fwproxy.errors import QuotaError, TerminatingError
from fwproxy.ledger.ledger import FirewallAction
from fwproxy.session.terms import Terms

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection
    from fwproxy.session.session import Session


class Shared(Protocol):
    """What several sessions use."""

    def left_by(self, session: Session) -> None:
        """Hear that a session has ended."""


class Holdings:
    """The engine's side of what a session has; its life is led by `Session`.

    Attributes:
        connections: those that are there.
        permissions: those that are unused.
        terms: what the listener and the rule of its primary connection say.
        rule: the name of that rule; empty until there was a decision.
        usages: whose quotas it counts against; empty while none is configured.
    """

    __slots__ = ("usages",)

    engine: Engine
    id: int
    client_address: Endpoint
    connections: set[Connection]
    permissions: set[FirewallAction]
    terms: Terms
    rule: str
    usages: tuple[Usage, ...]
    end_reason: str | None
    _shared: set[Shared] | None

    @property
    def held(self) -> int:
        """How many permissions there are for it, with the ports that it shares."""
        return len(self.permissions) + len(self._shared or ())

    def hold(self, action: FirewallAction) -> None:
        """Own a permission."""
        self.permissions.add(action)
        for usage in self.usages:
            usage.permissions += 1

    def let_go(self, action: FirewallAction) -> None:
        """Own a permission no longer; harmless when it is not this session's."""
        if action in self.permissions:
            self.permissions.discard(action)
            for usage in self.usages:
                usage.permissions -= 1

    def join(self, usage: Usage) -> None:
        """Count against somebody's quotas from now on, with all that there is."""
        usage.sessions += 1
        usage.connections += len(self.connections)
        usage.permissions += len(self.permissions)
        self.usages = (*self.usages, usage)

    def leave(self, usage: Usage) -> None:
        """Count against somebody's quotas no longer."""
        usage.sessions -= 1
        usage.connections -= len(self.connections)
        usage.permissions -= len(self.permissions)
        self.usages = tuple(each for each in self.usages if each is not usage)

    def count_connection(self, change: int) -> None:
        """Count one that has come or gone."""
        for usage in self.usages:
            usage.connections += change

    def check_room(self, permissions: int, connections: int) -> None:
        """Make sure that the session may have that many more.

        Raises:
            TerminatingError: it is ending.
            QuotaError: it may not.
        """
        self._check_alive()
        try:
            self._check_quotas(permissions, connections)
        except QuotaError as error:
            self.report_quota(error)
            raise

    def _check_quotas(self, permissions: int, connections: int) -> None:
        limits = self.engine.limits
        if len(self.permissions) + permissions > limits.max_permissions_per_session:
            raise QuotaError(
                f"more than {limits.max_permissions_per_session} permissions "
                "(max_permissions_per_session)"
            )
        if len(self.connections) + connections > limits.max_connections_per_session:
            raise QuotaError(
                f"more than {limits.max_connections_per_session} connections "
                "(max_connections_per_session)"
            )
        for grant in self.terms.grants:
            grant.check_count(self.held, permissions)
        for usage in self.usages:
            usage.check(permissions, connections)

    def has_room(self, permissions: int = 0, connections: int = 1) -> bool:
        """Tell whether there may be that many more; one connection, if nothing else is said."""
        try:
            self._check_quotas(permissions, connections)
        except QuotaError as error:
            self.report_quota(error)
            return False
        return True

    def report_quota(self, error: QuotaError) -> None:
        """Log that a quota is reached, once for a burst."""
        more = self.engine.bursts.note(str(error), self.client_address.host)
        if more is not None:
            self.engine.log.warning(
                "quota reached",
                session=self.id,
                client=self.client_address.host,
                rule=self.rule or None,
                reason=str(error),
                more=more or None,
            )

    def _check_alive(self) -> None:
        if self.end_reason is not None:
            raise TerminatingError("the session is ending")
