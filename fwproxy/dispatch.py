"""Events to the session filters, and their verdicts back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from fwproxy.events import BindTcp, BindUdp, ConnectionTerminating, Event, Listen
from fwproxy.filter import FAULTS, Filter, Hooks, SessionFilter
from fwproxy.flags import Verdict

if TYPE_CHECKING:
    from fwproxy.session.session import Session

_T = TypeVar("_T")

_BINDS = frozenset({BindTcp, BindUdp, Listen})
_STRENGTH = {Verdict.PASS: 0, Verdict.ALLOW: 1, Verdict.EMULATE: 2, Verdict.DENY: 3}


@attrs.frozen(slots=True, eq=False)
class BoundFilter:
    """A filter as one listener uses it.

    Attributes:
        filter: the filter, shared by the whole process.
        hooks: what its `filter_init` said.
        settings: its settings for this listener.
    """

    filter: Filter
    hooks: Hooks
    settings: Any


def fold(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the strongest verdict: DENY, then EMULATE, ALLOW, PASS."""
    return max(verdicts, key=_STRENGTH.__getitem__, default=Verdict.PASS)


def dispatch(
    session: Session, event: Event, caller: SessionFilter | None = None
) -> Verdict | asyncio.Future[Verdict]:
    """Tell an event to every filter that hooks it, in the listener's order, and fold the verdicts.

    The answer is there at once unless a handler is a coroutine. The first DENY ends the round.
    A handler that raises, or takes longer than `limits.filter_timeout`, denies.

    Args:
        session: whose filters are asked.
        event: what has happened or is about to.
        caller: the session filter whose own call causes the event; it is not asked.
    """
    if not session.bound_filters:
        return Verdict.PASS
    return _round(session, event, caller, 0, Verdict.PASS)


def _round(
    session: Session, event: Event, caller: SessionFilter | None, first: int, verdict: Verdict
) -> Verdict | asyncio.Future[Verdict]:
    for number in range(first, len(session.bound_filters)):
        bound = session.bound_filters[number]
        try:
            session_filter = _hooked(session, bound, event)
            if session_filter is None or session_filter is caller:
                continue
            event.connection.heard_by = bound.filter.name
            answer = session_filter.firewall_event_handler(event)
            if answer is not None and not isinstance(answer, Verdict):
                handler = begin(answer)
                rest = _await_round(session, event, caller, number, verdict, handler)
                return follow(rest, handler)
        except FAULTS as error:  # uncertain means deny
            return _denied(session, bound, event, error)
        if answer is not None:
            verdict = fold((verdict, answer))
            if verdict is Verdict.DENY:
                break
    return verdict


async def _await_round(
    session: Session,
    event: Event,
    caller: SessionFilter | None,
    number: int,
    verdict: Verdict,
    handler: asyncio.Future[Verdict | None],
) -> Verdict:
    try:
        heard = await in_time(handler, session.engine.limits.filter_timeout)
        verdict = fold((verdict, heard or Verdict.PASS))
    except FAULTS as error:  # uncertain means deny
        if _is_our_own_end(error):
            raise
        return _denied(session, session.bound_filters[number], event, error)
    if verdict is Verdict.DENY:
        return verdict
    rest = _round(session, event, caller, number + 1, verdict)
    return rest if isinstance(rest, Verdict) else await rest


def begin(answer: Awaitable[_T]) -> asyncio.Future[_T]:
    """Start a filter's coroutine, so that it runs or is cancelled but never just forgotten."""
    handler = asyncio.ensure_future(answer)
    handler.add_done_callback(_look_at_error)
    return handler


def follow(
    work: Coroutine[Any, Any, _T], handler: asyncio.Future[Verdict | None]
) -> asyncio.Future[_T]:
    """Start what waits for a handler; its end, also before it has begun, ends the handler."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda _: handler.cancel())
    return task


async def in_time(handler: asyncio.Future[_T], seconds: float) -> _T:
    """Wait for a filter's coroutine.

    One that goes on although it is cancelled is left to itself: nobody waits for it any more.

    Raises:
        TimeoutError: it takes longer than *seconds*.
    """
    done, _ = await asyncio.wait([handler], timeout=seconds)
    if not done:
        raise TimeoutError("a handler took too long (filter_timeout)")
    return handler.result()


def _look_at_error(task: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining about what one has ended with who was left to himself."""
    if not task.cancelled():
        task.exception()


def _is_our_own_end(error: BaseException) -> bool:
    """Tell a cancellation of the task that waits for the filter from one by the filter."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _hooked(session: Session, bound: BoundFilter, event: Event) -> SessionFilter | None:
    """Return the filter's part of the session if it wants the event, attaching it if need be."""
    name = bound.filter.name
    attached = session.session_filters.get(name)
    kind = type(event)
    if not _wants(bound, attached, kind, of_secondary=event.connection.is_secondary):
        return None
    if attached is not None or kind is ConnectionTerminating:
        return attached
    return session.attach_filter(name)  # no effect if it is there and has no interest


def _wants(
    bound: BoundFilter, attached: SessionFilter | None, kind: type[Event], *, of_secondary: bool
) -> bool:
    hooks = bound.hooks if attached is None or attached.hooks is None else attached.hooks
    return kind in (hooks.associated if of_secondary and kind not in _BINDS else hooks.events)


def hearers(session: Session, kind: type[Event], *, of_secondary: bool) -> list[str]:
    """Return the names of the filters that would hear such an event now, attached or not yet."""
    found = []
    for bound in session.bound_filters:
        name = bound.filter.name
        attached = session.session_filters.get(name)
        indifferent = attached is None and name in session.session_filters
        if not indifferent and _wants(bound, attached, kind, of_secondary=of_secondary):
            found.append(name)
    return found


def _denied(session: Session, bound: BoundFilter, event: Event, error: BaseException) -> Verdict:
    session.engine.log.error(
        "filter failed",
        filter=bound.filter.name,
        event_type=type(event).__name__,
        session=session.id,
        connection=event.connection.id,
        error=f"{type(error).__name__}: {error}",
        exc_info=error,
    )
    return Verdict.DENY
