"""Which addresses a client, or its server, may name as the ends of secondary connections."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from fwproxy.address import Endpoint
from fwproxy.flags import SecondaryFlags

if TYPE_CHECKING:
    from fwproxy.session.session import Session

LOWEST_UNRESTRICTED_PORT = 1024


def client_address_problem(session: Session, client: Endpoint, flags: SecondaryFlags) -> str | None:
    """Say why the session's client may not name *client* as its own, or None (S01, S03).

    All zeros are no problem: what they stand for is supplied later, and looked at then (S05).
    """
    if client.is_unspecified:
        return None
    problem = _port_problem(client, flags)
    own = session.client_address.host
    if problem is None and not _is_near(session, own, client.host, flags):
        problem = f"{client} is not an address of the client {own}"
    return problem


def server_address_problem(
    session: Session, address: Endpoint, flags: SecondaryFlags
) -> str | None:
    """Say why *address* may not be named as one of the external peer, or None.

    The flags widen it with the peer as the point of reference, and not the client.
    """
    server = session.server_host
    problem = _port_problem(address, flags)
    if problem is None and not _is_near(session, server, address.host, flags):
        problem = f"{address} is not an address of the server {server or '(there is none yet)'}"
    return problem


def _port_problem(address: Endpoint, flags: SecondaryFlags) -> str | None:
    """Say why the port may not be named, or None: services live below 1024, clients do not."""
    lowest = 1 if SecondaryFlags.IGNORE_RESTRICTED_PORTS in flags else LOWEST_UNRESTRICTED_PORT
    if address.port >= lowest:
        return None
    return f"port {address.port} of {address} is restricted (below {LOWEST_UNRESTRICTED_PORT})"


def _is_near(session: Session, reference: str | None, host: str, flags: SecondaryFlags) -> bool:
    """Tell whether *host* is the *reference*, or as near to it as the flags allow."""
    if host == reference or SecondaryFlags.ALLOW_ADDRESSES_ALL in flags:
        return True
    if reference is None:
        return False
    class_c = SecondaryFlags.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK in flags
    if class_c and _same_class_c(reference, host):
        return True
    if SecondaryFlags.ALLOW_ADDRESSES_IN_NETWORK in flags:
        policy = session.engine.policy
        network = policy.network_of(reference)
        return network is not None and policy.network_of(host) == network
    return False


def _same_class_c(one: str, other: str) -> bool:
    if ":" in one or ":" in other:
        return False
    return ipaddress.ip_address(other) in ipaddress.ip_network(f"{one}/24", strict=False)
