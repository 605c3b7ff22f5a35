"""What holds for a session: what its filters may open, its quotas, and who reads its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from fwproxy.dispatch import BoundFilter
from fwproxy.engine.quotas import Usage
from fwproxy.policy.grants import Grant

if TYPE_CHECKING:
    from fwproxy.session.session import Session


@attrs.frozen(slots=True, eq=False)
class Terms:
    """Terms that a listener offers, under one of the rules; made once, for all of its sessions.

    Attributes:
        grants: what filters may open; all of them hold at once.
        bound_filters: the filters that read the primary connection.
        usage: what all sessions under the rule have together, if that is limited.
        shows_client: whether the server sees the client's address, and not the proxy's.
    """

    grants: tuple[Grant, ...] = ()
    bound_filters: tuple[BoundFilter, ...] = ()
    usage: Usage | None = None
    shows_client: bool = False


def govern(session: Session, terms: Terms) -> None:
    """Let terms hold for a session, instead of those that held before.

    Filters that the session has met already stay: one that has asked a gateway's client for the
    server cannot be taken out of the conversation.

    Raises:
        QuotaError: the rule has as many connections as it may have, or they come too fast.
    """
    before, usage = session.terms, terms.usage
    if before is terms:
        return
    if usage is not None and usage is not before.usage:
        usage.check(len(session.permissions), len(session.connections))
        usage.arrive(session.engine.deadlines.now())
    if before.usage is not None:
        session.leave(before.usage)
    if usage is not None:
        session.join(usage)
    session.terms = terms
    if not session.session_filters:
        session.bound_filters = terms.bound_filters
    if session.primary is not None:
        session.primary.shows_client(terms.shows_client)
