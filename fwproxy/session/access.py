"""Asking the policy without connecting: `host_access_check`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint, HostName, is_ip
from fwproxy.errors import InvalidArgumentError, NoServerReplyError
from fwproxy.policy.policy import Decision
from fwproxy.secondary.call import SecondaryCall

if TYPE_CHECKING:
    from fwproxy.session.session import Session


@attrs.frozen(slots=True)
class HostAccess:
    """What the policy says of a host, address by address.

    Attributes:
        host: as it was asked about.
        decisions: the answer for each of its addresses, in the order in which they are tried.
    """

    host: str
    decisions: tuple[tuple[str, Decision], ...]

    @property
    def allowed_addresses(self) -> tuple[str, ...]:
        """The addresses that a connection could be made to."""
        return tuple(address for address, decision in self.decisions if decision.allowed)

    @property
    def is_allowed(self) -> bool:
        """Whether a connection could be made to at least one of them, as connecting would."""
        return bool(self.allowed_addresses)


async def host_access_check(
    call: SecondaryCall, host: str, source_port: int | None, path: str | None
) -> HostAccess:
    """Do what `Session.host_access_check` says."""
    session, protocol = call.session, call.protocol
    session.check_room(0, 0)
    if source_port is not None and not 1 <= source_port <= 65535:
        raise InvalidArgumentError(f"source port {source_port} is outside 1-65535")
    addresses = [Endpoint(host)] if is_ip(host) else await _resolve(session, HostName(host))
    hosts = dict.fromkeys(address.host for address in addresses)
    found = HostAccess(host, tuple((each, session.decide_host(protocol, each)) for each in hosts))
    session.engine.log.debug(
        "access checked",
        session=session.id,
        protocol=protocol.name,
        host=host,
        source_port=source_port,
        path=path,
        allowed=found.is_allowed,
    )
    return found


async def _resolve(session: Session, name: HostName) -> list[Endpoint]:
    try:
        async with asyncio.timeout(session.engine.limits.connect_timeout):
            return await session.engine.resolver.resolve(name)
    except TimeoutError:
        raise NoServerReplyError(f"resolving {name.host} took too long") from None
