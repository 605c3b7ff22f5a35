"""Protocol definitions: a name, a transport, ports, secondary protocols, and the filters."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import attrs

from fwproxy.address import Transport
from fwproxy.bounds import PortRange
from fwproxy.errors import InvalidArgumentError

_NAMESPACE = uuid.UUID("6c1b2c44-6f5e-5a0e-9a3c-0d6b5f2f7c11")


def protocol_id(name: str) -> uuid.UUID:
    """Return the identity of a protocol that has no better one: the same name, the same id."""
    return uuid.uuid5(_NAMESPACE, name)


def _all_ports(ports: Iterable[int | str | PortRange]) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for item in ports:
        each = PortRange.parse(item) if isinstance(item, str) else item
        found.update(dict.fromkeys([each] if isinstance(each, int) else each.numbers))
    return tuple(found)


def _check_ports(_: object, __: object, ports: tuple[int, ...]) -> None:
    for port in ports:
        if not 1 <= port <= 65535:
            raise InvalidArgumentError(f"port {port} is outside 1-65535")


@attrs.frozen(slots=True)
class ProtocolDefinition:
    """One protocol.

    Attributes:
        name: what configuration and log call it.
        transport: TCP or UDP.
        ports: the server's usual ports, given as numbers and ranges (`"6000-6063"`); the first is
            the default one.
        secondary: names of the protocols of its secondary connections.
        filters: names of the filters that read its primary connections, in call order.
        id: its identity; made from the name unless given.

    Raises:
        InvalidArgumentError: a port is outside 1-65535.
    """

    name: str
    transport: Transport = Transport.TCP
    ports: tuple[int, ...] = attrs.field(default=(), converter=_all_ports, validator=_check_ports)
    secondary: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    id: uuid.UUID = attrs.field(
        default=attrs.Factory(lambda self: protocol_id(self.name), takes_self=True)
    )

    @property
    def port_ranges(self) -> list[str]:
        """The ports as people write them."""
        spans: list[list[int]] = []
        for port in self.ports:
            if spans and port == spans[-1][-1] + 1:
                spans[-1][1:] = [port]
            else:
                spans.append([port])
        return ["-".join(map(str, span)) for span in spans]

    def over(self, transport: Transport) -> ProtocolDefinition:
        """Return the same protocol over another transport."""
        return self if transport is self.transport else attrs.evolve(self, transport=transport)


TCP = ProtocolDefinition("tcp")
UDP = ProtocolDefinition("udp", Transport.UDP)
FTP_DATA = ProtocolDefinition("ftp-data")
FTP = ProtocolDefinition("ftp", ports=(21,), secondary=("ftp-data",), filters=("ftp",))

BUILT_IN: tuple[ProtocolDefinition, ...] = (TCP, UDP, FTP, FTP_DATA)
