"""Which address of the proxy faces a client or a server, and which one they see as the source.

A proxy in user space speaks with its own address: the one that the client knows it by. In full
proxy mode, across a NAT, it is the proxy's address in the client's network (S25). Where
`[secondary] source = "peer"` says that the host brings foreign packets to the proxy, nothing is
translated otherwise: the client sees who has connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from fwproxy.address import Endpoint
from fwproxy.errors import (
    AddressNotAvailableError,
    BadContextError,
    InvalidArgumentError,
    NatAddressNotAvailableError,
)
from fwproxy.flags import ConnectionFlags, SecondaryFlags
from fwproxy.policy.policy import NetworkRelation

if TYPE_CHECKING:
    from fwproxy.session.session import Session

TRANSLATED = frozenset({NetworkRelation.NAT, NetworkRelation.REVERSE_NAT})


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
    return session.engine.policy.relation(peer.host, client.host) in TRANSLATED


def _facing(session: Session, client: Endpoint) -> Endpoint | None:
    """Return the proxy's own address in the client's network."""
    host = session.engine.policy.facing(client.host, client.version, session.internal_host)
    return None if host is None else Endpoint(host)


def source_towards_server(session: Session, server: Endpoint, asked: Endpoint | None) -> Source:
    """Return where to leave from towards a server.

    Args:
        session: whose server it is.
        server: where to.
        asked: what the call says about it (S36); None leaves it open.

    Raises:
        NatAddressNotAvailableError: no address of the proxy fits, across NAT.
        AddressNotAvailableError: the server shall see the client, and speaks another IP version.
    """
    client = session.client_address
    if session.terms.shows_client and (asked is None or asked.host == client.host):
        if client.version != server.version:
            raise AddressNotAvailableError(f"{server} cannot see {client.host} as its client")
        return Source(asked or client, is_foreign=True)
    own = asked or _nat_source(session, server)
    return ANY_SOURCE if own is None else Source(own)


def _nat_source(session: Session, server: Endpoint) -> Endpoint | None:
    """Return the proxy's own address that a server sees across NAT; None leaves it to the host.

    Raises:
        NatAddressNotAvailableError: there are own addresses in the server's network, and none
            of its IP version.
    """
    policy = session.engine.policy
    if not policy.map.translates:
        return None
    if policy.relation(session.client_address.host, server.host) not in TRANSLATED:
        return None
    network = policy.network_of(server.host)
    if network is None or not policy.networks[network].addresses:
        return None
    primary = None if session.primary is None else session.primary.external_socket_name
    prefer = None if primary is None else primary.host
    return _own_address(session, [network], server.version, prefer)


def address_towards_server(session: Session) -> Endpoint:
    """Return the address of the proxy to bind for a server that shall come.

    It is the one that the primary connection has left from. Without a connected server it is the
    proxy's own address in the server's network, or in the one beyond the client's.

    Raises:
        NatAddressNotAvailableError: no address of the proxy is known there.
        BadContextError: nothing is known of where a server may be.
    """
    primary = session.primary
    name = None if primary is None else primary.external_socket_name
    if name is not None:
        return name.with_port(0)
    policy, server = session.engine.policy, session.server_host
    reference = server or session.client_address.host
    here = policy.network_of(reference)
    networks = policy.map.beyond(here) if server is None else [here] if here else []
    if not policy.networks or not networks:
        raise BadContextError("without a connected server a proxy address must be given")
    return _own_address(session, networks, Endpoint(reference).version)


def _own_address(
    session: Session, networks: Sequence[str], version: int, prefer: str | None = None
) -> Endpoint:
    for network in networks:
        host = session.engine.policy.map.facing(network, version, prefer)
        if host is not None:
            return Endpoint(host)
    names = " or ".join(networks)
    raise NatAddressNotAvailableError(
        f"no IPv{version} address of the proxy is known in {names} "
        f"(networks.{networks[0]}.addresses)"
    )


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
