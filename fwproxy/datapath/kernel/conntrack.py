"""What conntrack says over netlink: messages in bytes, without sockets.

Layouts are those of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h. Only what the proxy
needs is read; what is cut short or malformed is not an event.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import socket
from collections.abc import Iterator

import attrs

from fwproxy.address import Endpoint, Transport
from fwproxy.datapath.kernel.messages import (
    ACK,
    CREATE,
    DUMP,
    GENERIC,
    NESTED,
    attribute,
    attributes,
    error_of,
    message,
    split,
)

_CTNETLINK = 1 << 8
_NEW, _GET, DELETE = _CTNETLINK, _CTNETLINK | 1, _CTNETLINK | 2

_ORIGINAL, _REPLY, _STATUS, PROTOINFO, _TIMEOUT = 1, 2, 3, 4, 7
MARK, _COUNTERS_ORIGINAL, _COUNTERS_REPLY, _ID, _MARK_MASK = 8, 9, 10, 12, 21
_IP, _PROTO = 1, 2
_SOURCE_4, _TARGET_4, _SOURCE_6, _TARGET_6 = 1, 2, 3, 4
_NUMBER, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3
TCP_INFO, TCP_STATE = 1, 1
_BYTES = 2
_SEEN_REPLY = 1 << 1

_NUMBERS = {socket.IPPROTO_TCP: Transport.TCP, socket.IPPROTO_UDP: Transport.UDP}
_PROTOCOLS = {transport: number for number, transport in _NUMBERS.items()}


class Stage(enum.Enum):
    """How far a flow has come."""

    NEW = "new"
    """Its first packet has passed."""
    ESTABLISHED = "established"
    """Both ends have spoken: TCP after its handshake."""
    CLOSED = "closed"
    """Both ends have closed it."""
    RESET = "reset"
    """One end has reset it."""
    FORGOTTEN = "forgotten"
    """Conntrack knows nothing of it any more."""


_TCP_STAGES = {3: Stage.ESTABLISHED, 4: Stage.ESTABLISHED, 5: Stage.ESTABLISHED,
               6: Stage.ESTABLISHED, 7: Stage.CLOSED, 8: Stage.RESET}  # fmt: skip
"""By TCP_CONNTRACK_*: established, fin wait, close wait, last ack, time wait, close."""
UNREMARKABLE = (2, 4, 5, 6)
"""The first answer, and what is between established and closed."""


@attrs.frozen(slots=True)
class Tuple:
    """One direction of a flow."""

    source: Endpoint
    target: Endpoint


@attrs.frozen(slots=True)
class FlowReport:
    """What conntrack says of one flow at one moment.

    Attributes:
        id: conntrack's number for it.
        transport: TCP or UDP.
        original: the direction of its first packet, before translation.
        reply: what answers look like before they are translated back.
        stage: how far it has come.
        original_bytes: bytes of packets in the original direction, if they are counted.
        reply_bytes: the same in the other.
        timeout: seconds until conntrack forgets it, if nothing comes; None once it has.
    """

    id: int
    transport: Transport
    original: Tuple
    reply: Tuple
    stage: Stage
    original_bytes: int | None = None
    reply_bytes: int | None = None
    timeout: int | None = None


@attrs.frozen(slots=True)
class Refusal:
    """The kernel's answer to a request, or the end of a dump: an error number, 0 for success."""

    sequence: int
    error: int


def messages(data: bytes) -> Iterator[FlowReport | Refusal]:
    """Yield what a datagram from the kernel holds; what is malformed or not ours is left out."""
    for kind, flags, sequence, body in split(data):
        error = error_of(kind, body)
        if error is not None:
            yield Refusal(sequence, error)
        elif kind in {_NEW, DELETE}:
            report = _report(body[GENERIC.size :], kind, is_new=bool(flags & CREATE))
            if report is not None:
                yield report


def _report(body: bytes, kind: int, *, is_new: bool) -> FlowReport | None:
    found = attributes(body)
    original, reply = _tuple(found.get(_ORIGINAL, b"")), _tuple(found.get(_REPLY, b""))
    if original is None or reply is None:
        return None
    transport = original[0]
    if kind == DELETE:
        stage = Stage.FORGOTTEN
    elif is_new:
        stage = Stage.NEW
    elif transport is Transport.TCP:
        stage = _TCP_STAGES.get(_tcp_state(found.get(PROTOINFO)), Stage.NEW)
    else:
        answered = _number(found.get(_STATUS), 4) & _SEEN_REPLY
        stage = Stage.ESTABLISHED if answered else Stage.NEW
    return FlowReport(
        id=_number(found.get(_ID), 4),
        transport=transport,
        original=original[1],
        reply=reply[1],
        stage=stage,
        original_bytes=_counted(found.get(_COUNTERS_ORIGINAL)),
        reply_bytes=_counted(found.get(_COUNTERS_REPLY)),
        timeout=_number(found[_TIMEOUT], 4) if _TIMEOUT in found else None,
    )


@functools.lru_cache(maxsize=4096)
def _tuple(data: bytes) -> tuple[Transport, Tuple] | None:
    """Read one direction of a flow; the reports of a flow repeat it as it was."""
    parts = attributes(data)
    if _IP not in parts or _PROTO not in parts:
        return None
    hosts, ports = attributes(parts[_IP]), attributes(parts[_PROTO])
    transport = _NUMBERS.get(_number(ports.get(_NUMBER), 1))
    source = _host(hosts.get(_SOURCE_4, hosts.get(_SOURCE_6)))
    target = _host(hosts.get(_TARGET_4, hosts.get(_TARGET_6)))
    if transport is None or source is None or target is None:
        return None
    return transport, Tuple(
        Endpoint.from_sockaddr((source, _number(ports.get(_SOURCE_PORT), 2))),
        Endpoint.from_sockaddr((target, _number(ports.get(_TARGET_PORT), 2))),
    )


def _host(data: bytes | None) -> str | None:
    if data is None or len(data) not in {4, 16}:
        return None
    if len(data) == 4:
        return socket.inet_ntop(socket.AF_INET, data)
    return str(ipaddress.IPv6Address(bytes(data)))


def _number(data: bytes | None, size: int) -> int:
    return int.from_bytes(data, "big") if data is not None and len(data) == size else 0


def _counted(data: bytes | None) -> int | None:
    if data is None:
        return None
    return _number(attributes(data).get(_BYTES), 8)


def _tcp_state(data: bytes | None) -> int:
    tcp = attributes(data).get(TCP_INFO) if data is not None else None
    return _number(attributes(tcp).get(TCP_STATE), 1) if tcp is not None else 0


@functools.lru_cache(maxsize=4096)
def _packed_tuple(transport: Transport, found: Tuple) -> bytes:
    version = found.source.version
    kinds = (_SOURCE_4, _TARGET_4) if version == 4 else (_SOURCE_6, _TARGET_6)
    ends = (found.source, found.target)
    hosts = b"".join(
        attribute(kind, socket.inet_pton(end.family, end.host))
        for kind, end in zip(kinds, ends, strict=True)
    )
    ports = attribute(_NUMBER, bytes([_PROTOCOLS[transport]]))
    for kind, end in zip((_SOURCE_PORT, _TARGET_PORT), ends, strict=True):
        ports += attribute(kind, end.port.to_bytes(2, "big"))
    return attribute(_IP | NESTED, hosts) + attribute(_PROTO | NESTED, ports)


def _request(kind: int, flags: int, sequence: int, family: int, body: bytes) -> bytes:
    return message(kind, flags, sequence, body, generic=GENERIC.pack(family, 0, 0))


def get(sequence: int, transport: Transport, original: Tuple) -> bytes:
    """Return the question what there is to say of a flow."""
    body = attribute(_ORIGINAL | NESTED, _packed_tuple(transport, original))
    return _request(_GET, 0, sequence, original.source.family, body)


def delete(sequence: int, transport: Transport, original: Tuple, number: int) -> bytes:
    """Return the request to forget a flow, if it is still the one with this number."""
    body = attribute(_ORIGINAL | NESTED, _packed_tuple(transport, original))
    body += attribute(_ID, number.to_bytes(4, "big"))
    return _request(DELETE, ACK, sequence, original.source.family, body)


def dump(sequence: int, mark: int) -> bytes:
    """Return the question which flows with a mark there are."""
    body = attribute(MARK, mark.to_bytes(4, "big"))
    body += attribute(_MARK_MASK, (0xFFFFFFFF).to_bytes(4, "big"))
    return _request(_GET, DUMP, sequence, socket.AF_UNSPEC, body)
