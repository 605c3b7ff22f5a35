"""Which address a client sees as the source of an inbound connection.

A proxy in user space speaks with its own address: the one that the client knows it by. In full
proxy mode, across a NAT, it is the proxy's address in the client's network (S25). Where
`[secondary] source = "peer"` says that the host brings foreign packets to the proxy, nothing is
translated otherwise: the client sees who has connected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint
from fwproxy.errors import InvalidArgumentError
from fwproxy.flags import ConnectionFlags, SecondaryFlags
from fwproxy.policy import NetworkRelation

if TYPE_CHECKING:
    from fwproxy.session import Session

_TRANSLATED = frozenset({NetworkRelation.NAT, NetworkRelation.REVERSE_NAT})


@attrs.frozen(slots=True)
class Source:
    """Where to leave from.

    Attributes:
        address: the local address; None is any.
        is_foreign: whether it is the address of another host.
    """

    address: Endpoint | None
    is_foreign: bool = False


ANY_SOURCE = Source(None)
"""Whatever the kernel chooses."""


def source_towards_client(
    session: Session, client: Endpoint, peer: Endpoint | None, flags: SecondaryFlags
) -> Source:
    """Return the source that *client* sees of a connection that *peer* has made."""
    usual = Source(session.internal_source(client), is_foreign=session.listener.is_transparent)
    if peer is None or peer.version != client.version:
        return usual
    if SecondaryFlags.PROXY_MODE in flags and _is_translated(session, client, peer):
        facing = _facing(session, client)
        return usual if facing is None else Source(facing)
    if session.engine.config.secondary.source == "peer":
        return Source(peer.with_port(0), is_foreign=True)
    return usual


def _is_translated(session: Session, client: Endpoint, peer: Endpoint) -> bool:
    return session.engine.policy.relation(peer.host, client.host) in _TRANSLATED


def _facing(session: Session, client: Endpoint) -> Endpoint | None:
    """Return the proxy's own address in the client's network."""
    policy = session.engine.policy
    network = policy.networks.get(policy.network_of(client.host) or "")
    addresses = [Endpoint(host) for host in (network.addresses if network else ())]
    fitting = [address for address in addresses if address.version == client.version]
    known = [address for address in fitting if address.host == session.internal_host]
    return next(iter([*known, *fitting]), None)


def check_proxy_mode(session: Session, flags: SecondaryFlags) -> None:
    """Make sure that PROXY_MODE is asked for only where the primary connection has it (S26).

    Raises:
        InvalidArgumentError: it is not.
    """
    if SecondaryFlags.PROXY_MODE in flags and not is_full_proxy(session):
        raise InvalidArgumentError(
            "PROXY_MODE is for sessions whose primary connection is in full proxy mode, and "
            f"{'this one is not' if session.primary else 'there is none'}"
        )


def is_full_proxy(session: Session) -> bool:
    """Tell whether the server of the primary connection sees an address of the proxy."""
    full = ConnectionFlags.INTERNAL_ADDRESS_TRANSLATION
    return session.primary is not None and full in session.primary.connection_flags
