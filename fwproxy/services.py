"""What a listener serves: one protocol, or the one that the server's port tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from fwproxy.address import Transport
from fwproxy.dispatch import BoundFilter
from fwproxy.protocol import ProtocolDefinition


@attrs.frozen(slots=True, eq=False)
class Service:
    """One protocol as a listener serves it.

    Attributes:
        protocol: its definition.
        bound_filters: its filters with their settings for the listener, in call order.
    """

    protocol: ProtocolDefinition
    bound_filters: tuple[BoundFilter, ...]


class Services:
    """The protocols of one listener.

    Args:
        protocols: their definitions; of those with a port, the first one has it. A definition
            without ports is for every port that nobody else has.
        bind: returns the filters of a definition.
        is_fixed: there is only one, and every port is its.
    """

    def __init__(
        self,
        protocols: Iterable[ProtocolDefinition],
        bind: Callable[[ProtocolDefinition], tuple[BoundFilter, ...]],
        *,
        is_fixed: bool,
    ) -> None:
        self._by_port: dict[tuple[Transport, int], Service] = {}
        self._others: dict[Transport, Service] = {}
        for protocol in protocols:
            service = Service(protocol, bind(protocol))
            if is_fixed or not protocol.ports:
                self._others.setdefault(protocol.transport, service)
            else:
                for port in protocol.ports:
                    self._by_port.setdefault((protocol.transport, port), service)

    @property
    def usual(self) -> Service:
        """The one without a port of its own."""
        return next(iter(self._others.values()))

    def find(self, transport: Transport, port: int) -> Service | None:
        """Return what is served at a server's port, or None if nothing with this transport is."""
        return self._by_port.get((transport, port)) or self._others.get(transport)
