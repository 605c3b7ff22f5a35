"""What a listener serves: one protocol, or the one that the server's port tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

import attrs

from fwproxy.address import Transport
from fwproxy.protocol import ProtocolDefinition
from fwproxy.session.terms import Terms


@attrs.frozen(slots=True, eq=False)
class Service:
    """One protocol as a listener serves it.

    Attributes:
        protocol: its definition.
        terms: what holds for its sessions, and
        terms_by_rule: what holds instead under rules that say more than yes, by their place.
        rules_grant: whether any of those bounds what filters may open.
    """

    protocol: ProtocolDefinition
    terms: Terms
    terms_by_rule: Mapping[int, Terms]
    rules_grant: bool = attrs.field(init=False)

    @rules_grant.default
    def _any_rule_grants(self) -> bool:
        return any(each.grants != self.terms.grants for each in self.terms_by_rule.values())

    def terms_of(self, number: int | None) -> Terms:
        """Return the terms under a rule, by its place among the rules."""
        return self.terms if number is None else self.terms_by_rule.get(number, self.terms)


class Services:
    """The protocols of one listener.

    Args:
        protocols: their definitions; of those with a port, the first one has it. A definition
            without ports is for every port that nobody else has.
        serve: makes the service of a definition.
        is_fixed: there is only one, and every port is its.
    """

    def __init__(
        self,
        protocols: Iterable[ProtocolDefinition],
        serve: Callable[[ProtocolDefinition], Service],
        *,
        is_fixed: bool,
    ) -> None:
        self._by_port: dict[tuple[Transport, int], Service] = {}
        self._others: dict[Transport, Service] = {}
        for protocol in protocols:
            service = serve(protocol)
            if is_fixed or not protocol.ports:
                self._others.setdefault(protocol.transport, service)
            else:
                for port in protocol.ports:
                    self._by_port.setdefault((protocol.transport, port), service)

    @cached_property
    def usual(self) -> Service:
        """The one without a port of its own."""
        return next(iter(self._others.values()))

    def find(self, transport: Transport, port: int) -> Service | None:
        """Return what is served at a server's port, or None if nothing with this transport is."""
        return self._by_port.get((transport, port)) or self._others.get(transport)
