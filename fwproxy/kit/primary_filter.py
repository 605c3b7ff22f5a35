"""A filter that does nothing but put one data filter into every client's primary connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fwproxy.events import AcceptedConnection, ConnectTcp, Event
from fwproxy.filter import DataFilter, Filter, Hooks, Priority, SessionFilter

if TYPE_CHECKING:
    from fwproxy.firewall import Firewall
    from fwproxy.session.session import Session


class PrimaryFilter(Filter):
    """A filter for protocols that need only their primary connection read.

    Each data filter gets the filter's settings, as they hold for the session's listener, as its
    context. On a gateway it is there before the server is (`Connection.connect`).

    Attributes:
        data_filter: its class, called without arguments.
        priority: where in the chain it stands.
    """

    data_filter: ClassVar[type[DataFilter]]
    priority: ClassVar[Priority] = Priority.MIDDLE

    def filter_init(self, firewall: Firewall) -> Hooks:  # noqa: ARG002 - the same for all
        """Hear of primary connections before bytes flow."""
        return Hooks.on(AcceptedConnection, ConnectTcp)

    def attach_to_session(self, session: Session) -> SessionFilter:
        """Serve every session."""
        return _PrimarySession(session, self)


class _PrimarySession(SessionFilter):
    """Attaches the data filter to the one primary connection that a session has."""

    def __init__(self, session: Session, owner: PrimaryFilter) -> None:
        super().__init__(session)
        self._owner = owner
        self._is_attached = False

    def firewall_event_handler(self, event: Event) -> None:
        """Attach at the first event: a gateway's accept is followed by a connect."""
        if not self._is_attached:
            owner = self._owner
            settings = self.session.filter_settings(owner.name)
            event.connection.attach_data_filter(owner.data_filter(), owner.priority, settings)
            self._is_attached = True
