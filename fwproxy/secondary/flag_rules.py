"""Which flags each call takes, which exclude each other, and why.

A call takes every flag that its row does not name; the row says why it does not take the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from fwproxy.address import Transport
from fwproxy.errors import InvalidArgumentError
from fwproxy.flags import SecondaryFlags

ADDRESS_FLAGS = (
    SecondaryFlags.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK
    | SecondaryFlags.ALLOW_ADDRESSES_IN_NETWORK
    | SecondaryFlags.ALLOW_ADDRESSES_ALL
)
"""The flags that widen which addresses a peer may name."""

_F = SecondaryFlags
_REPLIES_FLOW = "replies to the client flow in any case"
_FOR_INBOUND = "it is about the source that a client of bind_for_client sees"
_OWNED = "what waits at a port belongs to the session; only allow_future_connect takes it"


def _no_addresses(why: str) -> dict[SecondaryFlags, str]:
    return dict.fromkeys([*ADDRESS_FLAGS, _F.IGNORE_RESTRICTED_PORTS], why)


REFUSED: Mapping[str, Mapping[SecondaryFlags, str]] = {
    "bind_for_client": {_F.ADDRESS_BASED: _OWNED},
    "redirect_connections": {  # S40
        **_no_addresses("its targets are not named as the client's own: the rules decide"),
        _F.ADDRESS_BASED: _OWNED,
        _F.BIDIRECTIONAL: _REPLIES_FLOW,
        _F.PROXY_MODE: _FOR_INBOUND,
    },
    "connect_for_client": {
        _F.ALLOW_MULTIPLE: "it makes one connection",
        _F.TIMEOUT: "it waits for nobody",
        _F.ADDRESS_BASED: _OWNED,
        _F.BIDIRECTIONAL: "it carries no datagrams",
        _F.PROXY_MODE: _FOR_INBOUND,
    },
    "emulate_client_bind": {
        _F.ADDRESS_BASED: _OWNED,
        _F.PROXY_MODE: "the filter plays whoever comes",
        _F.INCREASE_RECEIVE_BUFFER: "nothing is bound",
    },
    "allow_future_connect": {
        _F.BIDIRECTIONAL: _REPLIES_FLOW,
        _F.PROXY_MODE: _FOR_INBOUND,
    },
    "retroactive_allow_bind": {
        **_no_addresses("the client holds the bind: it names no address"),
        _F.ADDRESS_BASED: _OWNED,
        _F.PROXY_MODE: _FOR_INBOUND,
    },
}
"""The flags that a call does not take, and why not."""

EXCLUSIVE: Mapping[str, tuple[tuple[SecondaryFlags, SecondaryFlags, str], ...]] = {
    "bind_for_client": (
        (
            _F.TIMEOUT,
            _F.ALLOW_MULTIPLE,
            "a port that serves many connections is not given up after one time-out",
        ),
    ),
}
"""Pairs of flags that exclude each other in a call, and why (S16)."""


def check_flags(call: str, flags: SecondaryFlags, transport: Transport) -> None:
    """Make sure that a call takes these flags, together and over this transport.

    Raises:
        InvalidArgumentError: it does not; the message says which and why.
    """
    refused = REFUSED[call]
    for flag in flags:
        if flag in refused:
            raise InvalidArgumentError(f"{call} does not take {flag.name}: {refused[flag]}")
    for one, other, why in EXCLUSIVE.get(call, ()):
        if one | other in flags:
            raise InvalidArgumentError(
                f"{one.name} and {other.name} exclude each other in {call}: {why}"
            )
    if _F.BIDIRECTIONAL in flags and transport is Transport.TCP:
        raise InvalidArgumentError(
            "BIDIRECTIONAL is for UDP only: a TCP connection always goes both ways"
        )
