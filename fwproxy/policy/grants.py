"""Holding filters to what a rule or a listener grants them, whatever they ask for.

Every call that opens something passes `granted` first. It refuses what no grant covers, and
returns the call narrowed down to what they all cover. `Session.check_room` counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint, IpFilter
from fwproxy.bounds import PortRange
from fwproxy.errors import AddressNotAllowedError, PolicyRulesDeniedError, QuotaError
from fwproxy.policy.networks import Networks
from fwproxy.policy.scope import CALLS, Call, Scope

if TYPE_CHECKING:
    from fwproxy.secondary.call import SecondaryCall
    from fwproxy.session.session import Session

_INBOUND = frozenset[Call]({"bind", "approve", "emulate"})
"""The calls that let peers come."""


@attrs.frozen(slots=True)
class Grant:
    """A scope in its place.

    Attributes:
        scope: what is granted.
        owner: whose it is, in words.
        hosts: its peers that are prefixes and networks.
    """

    scope: Scope
    owner: str
    hosts: IpFilter

    @classmethod
    def of(cls, scope: Scope, owner: str, networks: Networks) -> Grant:
        """Look the scope's networks up."""
        hosts = IpFilter().include(*scope.prefixes)
        for name in scope.networks:
            hosts = hosts.include_filter(networks.hosts_of(name))
        return cls(scope, owner, hosts)

    def peers(self, session: Session) -> IpFilter | None:
        """Return who may be at the other end; None is everybody."""
        peers = self.scope.peers
        if peers is None:
            return None
        hosts = self.hosts
        if "client" in peers:
            hosts = hosts.include(session.client_address.host)
        if "server" in peers and session.server_host is not None:
            hosts = hosts.include(session.server_host)
        return hosts

    def check_call(self, name: Call, call: SecondaryCall) -> None:
        """Make sure that the call is granted at all, over its transport.

        Raises:
            PolicyRulesDeniedError: it is not.
        """
        calls, transports = self.scope.calls, self.scope.transports
        if calls is not None and name not in calls:
            raise self._denied(CALLS[name], "calls")
        if transports is not None and call.protocol.transport not in transports:
            raise self._denied(call.protocol.transport.value, "transports")

    def _denied(self, what: str, key: str) -> PolicyRulesDeniedError:
        return PolicyRulesDeniedError(f"{self.owner} does not grant {what} ({self.key(key)})")

    def key(self, name: str) -> str:
        """Return the setting's name, for messages."""
        return f"{self.owner.partition(' ')[0]}s.secondary.{name}"

    def check_count(self, held: int, more: int) -> None:
        """Make sure that a session that holds so many permissions may have that many more.

        Raises:
            QuotaError: it may not.
        """
        most = self.scope.max_permissions
        if most is not None and more and held + more > most:
            raise QuotaError(
                f"{self.owner} grants {most} permissions at a time ({self.key('max_permissions')})"
            )

    def check_peer(self, session: Session, host: str) -> None:
        """Make sure that a host may be at the other end.

        Raises:
            AddressNotAllowedError: it may not.
        """
        peers = self.peers(session)
        if peers is not None and not peers.is_included(host):
            raise AddressNotAllowedError(
                f"{self.owner} does not grant connections with {host} ({self.key('peers')})"
            )


def granted(
    call: SecondaryCall, name: Call, remotes: Iterable[str] = (), more: int = 0
) -> SecondaryCall:
    """Return the call as far as it is granted.

    Args:
        call: what a filter asks for.
        name: by which call.
        remotes: the hosts that it wants the proxy to connect to.
        more: what counts as permissions besides those that `Session.check_room` is asked for.

    Raises:
        PolicyRulesDeniedError: the call, its transport or its ports are not granted, or it comes
            before the primary connection has a rule.
        AddressNotAllowedError: a remote host is not, or nobody who is may come.
        QuotaError: there are as many permissions as are granted.
    """
    session = call.session
    if not session.rule and session.service.rules_grant:
        raise PolicyRulesDeniedError(
            f"what rules grant is not known until one has let {session.client_address.host} in"
        )
    if not session.terms.grants:
        return call
    remotes = tuple(remotes)
    for grant in session.terms.grants:
        grant.check_call(name, call)
        grant.check_count(session.held, more)
        for host in remotes:
            grant.check_peer(session, host)
        scope = grant.scope
        call = attrs.evolve(
            call,
            ip_filter=_narrowed(session, call.ip_filter, grant) if name in _INBOUND else None,
            ports=_common(call.ports, scope.ports, grant),
            longest=min(filter(None, (call.longest, scope.timeout)), default=None),
        )
    return call


def check_client_addresses(session: Session, clients: Iterable[Endpoint]) -> None:
    """Make sure that client addresses besides the client's own are granted as peers.

    Raises:
        AddressNotAllowedError: one is not.
    """
    own = session.client_address.host
    for client in clients:
        if client.host != own and not client.is_unspecified:
            for grant in session.terms.grants:
                grant.check_peer(session, client.host)


def narrowed(session: Session, ip_filter: IpFilter | None) -> IpFilter | None:
    """Return who may be at the remote end, of those that a filter would let come."""
    for grant in session.terms.grants:
        peers = grant.peers(session)
        if peers is not None:
            ip_filter = peers if ip_filter is None else ip_filter.intersect(peers)
    return ip_filter


def _narrowed(session: Session, ip_filter: IpFilter | None, grant: Grant) -> IpFilter | None:
    peers = grant.peers(session)
    if peers is None:
        return ip_filter
    left = peers if ip_filter is None else ip_filter.intersect(peers)
    if not left and (ip_filter or ip_filter is None):
        asked = "anybody" if ip_filter is None else str(ip_filter)
        raise AddressNotAllowedError(
            f"{grant.owner} does not grant connections from {asked} ({grant.key('peers')})"
        )
    return left


def _common(one: PortRange | None, other: PortRange | None, grant: Grant) -> PortRange | None:
    if one is None or other is None:
        return one or other
    first, last = max(one.first, other.first), min(one.last, other.last)
    if first > last:
        raise PolicyRulesDeniedError(
            f"{grant.owner} grants the ports {other}, and none of {one} ({grant.key('ports')})"
        )
    return PortRange(first, last)
