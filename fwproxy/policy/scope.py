"""What a rule or a listener grants to filters: how much they may open, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import attrs

from fwproxy.address import Transport, parse_prefix
from fwproxy.bounds import PortRange, positive
from fwproxy.errors import ConfigError, InvalidArgumentError

Call = Literal["bind", "redirect", "connect", "allow", "approve", "emulate", "share"]
"""The calls of a session that open something, in a word."""

CALLS: dict[Call, str] = {
    "bind": "bind_for_client",
    "redirect": "redirect_connections",
    "connect": "connect_for_client",
    "allow": "allow_future_connect",
    "approve": "retroactive_allow_bind",
    "emulate": "emulate_client_bind",
    "share": "share_redirection",
}

PARTIES = ("client", "server")
"""Peers that are the two ends of the session itself."""


def _known_calls(
    _: object, attribute: attrs.Attribute[Any], calls: tuple[Call, ...] | None
) -> None:
    wrong = [call for call in calls or () if call not in get_args(Call)]
    if wrong:
        raise ConfigError.at((), f"{wrong[0]!r} is none of {', '.join(CALLS)}", attribute.name)


@attrs.frozen(slots=True)
class Scope:
    """What filters may open for a session; what is not said is not restricted.

    Attributes:
        max_permissions: permissions that are open at a time, of one session.
        transports: TCP, UDP or both.
        peers: who may be at the other end: `client` and `server`, which are those of the session,
            prefixes, and names of networks. Where a filter may name client addresses besides the
            client's own, they must be among them too.
        ports: the proxy's ports.
        timeout: seconds after which an unused permission expires, and an idle UDP one, whether or
            not the filter asks for it.
        calls: what filters may call.
    """

    max_permissions: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(positive)
    )
    transports: tuple[Transport, ...] | None = None
    peers: tuple[str, ...] | None = None
    ports: PortRange | None = None
    timeout: float | None = attrs.field(default=None, validator=attrs.validators.optional(positive))
    calls: tuple[Call, ...] | None = attrs.field(default=None, validator=_known_calls)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The peers that are prefixes or addresses."""
        return tuple(peer for peer in self.peers or () if is_prefix(peer))

    @property
    def networks(self) -> tuple[str, ...]:
        """The peers that are names of networks."""
        others = (peer for peer in self.peers or () if peer not in PARTIES)
        return tuple(peer for peer in others if not is_prefix(peer))

    def problems(
        self, networks: Iterable[str], pools: Iterable[PortRange]
    ) -> Iterator[tuple[str, str]]:
        """Yield what does not fit the rest of the configuration: the key and what is wrong."""
        known = set(networks)
        for item, peer in enumerate(self.networks):
            if peer not in known:
                names = ", ".join([*PARTIES, *sorted(known)])
                yield "peers", f"{self.networks[item]!r} is no prefix, and none of {names}"
        ranges = list(pools)
        if self.ports is not None and not any(pool.holds(self.ports) for pool in ranges):
            yield "ports", f"{self.ports} is not within {' or '.join(map(str, ranges))}"


def is_prefix(peer: str) -> bool:
    """Tell whether a peer is written as a prefix or an address."""
    try:
        parse_prefix(peer)
    except InvalidArgumentError:
        return False
    return True
