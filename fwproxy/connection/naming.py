"""Names and addresses that a session asks for; its filters hear of each question and its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint, HostName
from fwproxy.dispatch import dispatch
from fwproxy.errors import NameNotFoundError, NoServerReplyError, PolicyRulesDeniedError, QuotaError
from fwproxy.events import Event, GetHostByAddr, GetHostByName
from fwproxy.filter import SessionFilter
from fwproxy.flags import Verdict

if TYPE_CHECKING:
    from fwproxy.connection.connection import Connection


async def host_by_name(
    connection: Connection, name: HostName, caller: SessionFilter | None = None
) -> list[Endpoint]:
    """Resolve a name on behalf of a connection, in the time that a connect may take.

    Args:
        connection: whose session asks.
        name: the name, with the port that the addresses shall have.
        caller: the session filter that asks; it does not hear of it.

    Raises:
        NoServerReplyError: it does not resolve, or not in time.
        PolicyRulesDeniedError: a filter says no, before or afterwards.
        QuotaError: the session asks for too many at a time.
    """
    await _tell(GetHostByName(connection, name.host), caller)
    try:
        async with _question(connection, name.host):
            found = await connection.session.engine.resolver.resolve(name)
    except NoServerReplyError:
        await _tell(GetHostByName(connection, name.host, ()), caller)
        raise
    addresses = tuple(address.host for address in found)
    await _tell(GetHostByName(connection, name.host, addresses), caller)
    return found


async def host_by_address(
    connection: Connection, address: Endpoint, caller: SessionFilter | None = None
) -> str:
    """Find the name of an address on behalf of a connection; otherwise as above."""
    await _tell(GetHostByAddr(connection, address.host), caller)
    try:
        async with _question(connection, address.host):
            name = await connection.session.engine.resolver.name_of(address)
    except NoServerReplyError:
        await _tell(GetHostByAddr(connection, address.host, ""), caller)
        raise
    await _tell(GetHostByAddr(connection, address.host, name), caller)
    return name


@contextlib.asynccontextmanager
async def _question(connection: Connection, what: str) -> AsyncIterator[None]:
    """Bound the questions of one session, in number and in time."""
    session, limits = connection.session, connection.session.engine.limits
    if session.resolutions >= limits.max_resolutions_per_session:
        raise QuotaError(
            f"{session.resolutions} names are being resolved (max_resolutions_per_session)"
        )
    session.resolutions += 1
    try:
        async with asyncio.timeout(limits.connect_timeout):
            yield
    except TimeoutError:
        raise NameNotFoundError(f"{what} does not resolve in time (connect_timeout)") from None
    finally:
        session.resolutions -= 1


async def _tell(event: Event, caller: SessionFilter | None) -> None:
    verdict = dispatch(event.connection.session, event, caller)
    if not isinstance(verdict, Verdict):
        verdict = await verdict
    if verdict is Verdict.DENY:
        raise PolicyRulesDeniedError("the resolution was denied by a filter")
