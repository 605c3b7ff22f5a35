"""Which messages of conntrack the kernel passes on: the program runs in the kernel, on a pair of
sockets of this test."""

import socket
import struct

import pytest

from fwproxy import Endpoint
from fwproxy.datapath.kernel import event_filter
from fwproxy.datapath.kernel.conntrack import Stage, messages
from fwproxy.datapath.kernel.messages import NESTED, attribute

MARK = 0x6677
UPDATE, DESTROY = 256, 258
CREATED = 0x400
SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE = range(1, 9)


def ends(protocol, source, target):
    hosts = [socket.inet_aton(end.host) for end in (source, target)]
    ports = [end.port.to_bytes(2, "big") for end in (source, target)]
    packed = attribute(1, hosts[0]) + attribute(2, hosts[1])
    numbers = attribute(1, bytes([protocol])) + attribute(2, ports[0]) + attribute(3, ports[1])
    return attribute(1 | NESTED, packed) + attribute(2 | NESTED, numbers)


def event(kind=UPDATE, state=None, mark=MARK, protocol=socket.IPPROTO_TCP, flags=0, *, late=True):
    """What conntrack says; the mark after the state of TCP or before it."""
    near, far = Endpoint("192.0.2.2", 40000), Endpoint("192.0.2.1", 50000)
    parts = [attribute(1 | NESTED, ends(protocol, near, far))]
    parts += [attribute(2 | NESTED, ends(protocol, far, near)), attribute(12, bytes(4))]
    marked = [] if mark is None else [attribute(8, mark.to_bytes(4, "big"))]
    if state is not None:
        inner = attribute(2, b"\x07") + attribute(1, bytes([state]))
        parts.append(attribute(4 | NESTED, attribute(1 | NESTED, inner)))
    body = b"".join([*parts, *marked] if late else [*marked, *parts])
    header = struct.pack("=IHHII", 20 + len(body), kind, flags, 0, 0)
    return header + struct.pack("=BBH", socket.AF_INET, 0, 0) + body


def passes(message):
    """Tell whether the kernel lets a message through to a socket."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        event_filter.attach(there, MARK)
        there.settimeout(0)
        here.send(message)
        try:
            return there.recv(1 << 16) == message
        except BlockingIOError:
            return False


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("state", "is_heard"),
    [
        (SYN_SENT, True),
        (SYN_RECV, False),
        (ESTABLISHED, True),
        (FIN_WAIT, False),
        (CLOSE_WAIT, False),
        (LAST_ACK, False),
        (TIME_WAIT, True),
        (CLOSE, True),
        (None, True),
    ],
)
def test_of_tcp_only_what_says_something_new(state, is_heard, late):
    assert passes(event(state=state, late=late)) is is_heard


@pytest.mark.parametrize("state", [None, *range(1, 9)])
def test_the_end_of_a_flow_is_heard_in_whatever_state_it_was(state):
    message = event(DESTROY, state)
    assert [report.stage for report in messages(message)] == [Stage.FORGOTTEN]
    assert passes(message)


@pytest.mark.parametrize("kind", [UPDATE, DESTROY])
@pytest.mark.parametrize("mark", [None, 0, MARK + 1, MARK << 8])
def test_nothing_of_other_flows(kind, mark):
    assert not passes(event(kind, ESTABLISHED, mark))
    assert not passes(event(kind, None, mark))


def test_datagrams():
    assert passes(event(protocol=socket.IPPROTO_UDP, flags=CREATED))
    assert passes(event(protocol=socket.IPPROTO_UDP))


@pytest.mark.parametrize("size", [0, 1, 19, 20, 24])
def test_what_is_cut_short_is_refused(size):
    assert not passes(event(state=ESTABLISHED)[:size] or b"\0")
