"""Messages of conntrack: as the kernel sends them, cut short, and anything else."""

import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from fwproxy import Endpoint, Transport
from fwproxy.datapath.kernel.conntrack import (
    FlowReport,
    Refusal,
    Stage,
    Tuple,
    delete,
    dump,
    get,
    messages,
)

NEW, DELETED, CREATED = 256, 258, 0x400


def attribute(kind, content):
    packed = struct.pack("=HH", 4 + len(content), kind) + content
    return packed + bytes(-len(packed) % 4)


def ends(transport, way):
    number = {Transport.TCP: socket.IPPROTO_TCP, Transport.UDP: socket.IPPROTO_UDP}[transport]
    version = way.source.version
    hosts = [socket.inet_pton(end.family, end.host) for end in (way.source, way.target)]
    first = 1 if version == 4 else 3
    packed = b"".join(attribute(first + index, host) for index, host in enumerate(hosts))
    ports = attribute(1, bytes([number]))
    ports += attribute(2, way.source.port.to_bytes(2, "big"))
    ports += attribute(3, way.target.port.to_bytes(2, "big"))
    return attribute(1 | 1 << 15, packed) + attribute(2 | 1 << 15, ports)


def message(kind, flags, transport, original, reply, *more):
    body = struct.pack("=BBH", original.source.family, 0, 0)
    body += attribute(1 | 1 << 15, ends(transport, original))
    body += attribute(2 | 1 << 15, ends(transport, reply))
    body += b"".join(more)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 7, 0) + body


def tcp_state(number):
    return attribute(4, attribute(1, attribute(1, bytes([number]))))


ORIGINAL = Tuple(Endpoint("192.0.2.2", 40000), Endpoint("192.0.2.1", 50000))
REPLY = Tuple(Endpoint("198.51.100.2", 20), Endpoint("198.51.100.1", 40000))
ORIGINAL_6 = Tuple(Endpoint("2001:db8::2", 40000), Endpoint("2001:db8::1", 50000))
ID = attribute(12, (77).to_bytes(4, "big"))
COUNTS = attribute(9, attribute(2, (1234).to_bytes(8, "big"))) + attribute(
    10, attribute(2, (99).to_bytes(8, "big"))
)
WHOLE = message(DELETED, 0, Transport.TCP, ORIGINAL, REPLY, ID, COUNTS)


def test_a_flow_from_its_first_packet_to_its_end():
    stages = [
        (message(NEW, CREATED, Transport.TCP, ORIGINAL, REPLY, ID), Stage.NEW),
        (message(NEW, 0, Transport.TCP, ORIGINAL, REPLY, ID, tcp_state(3)), Stage.ESTABLISHED),
        (message(NEW, 0, Transport.TCP, ORIGINAL, REPLY, ID, tcp_state(7)), Stage.CLOSED),
        (message(NEW, 0, Transport.TCP, ORIGINAL, REPLY, ID, tcp_state(8)), Stage.RESET),
        (WHOLE, Stage.FORGOTTEN),
    ]
    reports = list(messages(b"".join(data for data, _ in stages)))
    assert [each.stage for each in reports] == [stage for _, stage in stages]
    assert {each.id for each in reports} == {77}
    assert {(each.original, each.reply) for each in reports} == {(ORIGINAL, REPLY)}
    assert (reports[-1].original_bytes, reports[-1].reply_bytes) == (1234, 99)
    assert reports[0].original_bytes is None


def test_ipv6_and_datagrams_that_are_answered():
    answered = attribute(3, (1 << 1).to_bytes(4, "big"))
    data = message(NEW, 0, Transport.UDP, ORIGINAL_6, ORIGINAL_6, ID, answered)
    (report,) = messages(data)
    assert (report.transport, report.stage) == (Transport.UDP, Stage.ESTABLISHED)
    assert report.original == ORIGINAL_6


def test_what_is_asked_bears_the_flow_that_is_meant():
    for original in (ORIGINAL, ORIGINAL_6):
        for request in (
            get(1, Transport.TCP, original), delete(2, Transport.UDP, original, 77)
        ):  # fmt: skip
            assert struct.unpack_from("=I", request) == (len(request),)
            assert socket.inet_pton(original.source.family, original.source.host) in request
            assert original.target.port.to_bytes(2, "big") in request
    assert (0x6677).to_bytes(4, "big") in dump(3, 0x6677)


def test_an_answer_with_an_error_number():
    data = struct.pack("=IHHIIi", 20, 2, 0, 7, 0, -2)
    assert list(messages(data)) == [Refusal(7, 2)]


def test_every_part_of_a_message_is_no_event():
    for length in range(len(WHOLE)):
        assert not list(messages(WHOLE[:length]))


@settings(max_examples=100)
@given(st.binary(max_size=400), st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_nothing_that_comes_is_fatal(noise, position, value):
    changed = bytearray(WHOLE)
    changed[position] = value
    for data in (noise, bytes(changed) + noise, WHOLE[:16] + noise):
        for each in messages(data):
            assert isinstance(each, FlowReport | Refusal)
