"""The pool of ports for secondary listeners, on the real kernel."""

import contextlib
import errno
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import HOST, OTHER_HOST, closing, free_ports

from fwproxy.address import Endpoint, Transport
from fwproxy.config.config import PortRange
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAvailableError,
    PortsExhaustedError,
)
from fwproxy.ports.pool import PortPool

TCP, UDP = Transport.TCP, Transport.UDP
ANY = Endpoint(HOST)
BOTH = pytest.mark.parametrize("transport", [TCP, UDP])


def address_of(sock: socket.socket) -> Endpoint:
    return Endpoint.from_sockaddr(sock.getsockname())


def ports_of(sockets: list[socket.socket]) -> list[int]:
    return [address_of(sock).port for sock in sockets]


def give_back(pool: PortPool, sockets: list[socket.socket], transport: Transport) -> None:
    for sock in sockets:
        address = address_of(sock)
        sock.close()
        pool.release(address, transport)


@BOTH
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_ports_are_consecutive_and_the_lowest_is_a_multiple(transport, count):
    pool = PortPool(free_ports(64))
    sockets = pool.allocate(ANY, transport, count)
    with closing(*sockets):
        lowest = ports_of(sockets)[0]
        assert ports_of(sockets) == list(range(lowest, lowest + count))
        assert lowest % count == 0
        assert pool.ports.first <= lowest
        assert lowest + count - 1 <= pool.ports.last
        assert pool.in_use == count


def test_tcp_ports_listen_with_the_backlog_as_given(monkeypatch):
    heard = []
    monkeypatch.setattr(socket.socket, "listen", lambda sock, backlog: heard.append(backlog))
    with closing(*PortPool(free_ports(8)).allocate(ANY, TCP, 2, backlog=17)):
        assert heard == [17, 17]


@BOTH
def test_an_exhausted_pool_says_so_and_recovers(transport):
    pool = PortPool(free_ports(4))
    held = [pool.allocate(ANY, transport)[0] for _ in range(4)]
    with closing(*held):
        assert sorted(ports_of(held)) == list(range(pool.ports.first, pool.ports.last + 1))
        with pytest.raises(PortsExhaustedError, match=r"secondary\.ports"):
            pool.allocate(ANY, transport)
        give_back(pool, [held[2]], transport)
        again = pool.allocate(ANY, transport)
        with closing(*again):
            assert pool.in_use == 4
        give_back(pool, [held[0], held[1], held[3]], transport)


def test_the_pool_of_one_address_and_transport_says_nothing_of_another():
    pool = PortPool(free_ports(1, hosts=(HOST, OTHER_HOST)))
    held = pool.allocate(ANY, TCP)
    held += pool.allocate(ANY, UDP)
    held += pool.allocate(Endpoint(OTHER_HOST), TCP)
    with closing(*held):
        assert len(set(ports_of(held))) == 1
        assert pool.in_use == 3


@BOTH
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_strangers_port_in_the_middle_leaves_nothing_bound(transport, taken):
    ports = free_ports(3, align=3)
    pool = PortPool(ports)
    with socket.socket(type=transport.socket_type) as stranger:
        stranger.bind((HOST, ports.first + taken))
        if transport is TCP:
            stranger.listen()
        with pytest.raises(PortsExhaustedError):
            pool.allocate(ANY, transport, 3)
        assert pool.in_use == 0
    sockets = pool.allocate(ANY, transport, 3)
    with closing(*sockets):
        assert ports_of(sockets) == [ports.first, ports.first + 1, ports.first + 2]


def test_a_strangers_port_is_passed_over():
    ports = free_ports(6, align=2)
    pool = PortPool(ports)
    with socket.socket() as stranger:
        stranger.bind((HOST, ports.first + 3))
        stranger.listen()
        for _ in range(10):
            sockets = pool.allocate(ANY, TCP, 2)
            assert ports_of(sockets)[0] in {ports.first, ports.first + 4}
            give_back(pool, sockets, TCP)
    assert pool.in_use == 0


@pytest.mark.parametrize(("first", "last", "count"), [(20001, 20003, 4), (20001, 20006, 4)])
def test_a_range_without_an_aligned_place_is_exhausted(first, last, count):
    with pytest.raises(PortsExhaustedError):
        PortPool(PortRange(first, last)).allocate(ANY, TCP, count)


@BOTH
def test_a_port_asked_for_is_taken_as_it_is(transport):
    inside, outside = free_ports(2), free_ports(1)
    pool = PortPool(inside)
    for port in (inside.last, outside.first):
        sockets = pool.allocate(Endpoint(HOST, port), transport)
        assert ports_of(sockets) == [port]
        with pytest.raises(AddressInUseError) as caught:
            pool.allocate(Endpoint(HOST, port), transport)
        assert not isinstance(caught.value, PortsExhaustedError)
        give_back(pool, sockets, transport)
    assert pool.in_use == 0


def test_ports_outside_the_range_do_not_fill_it():
    outside = free_ports(2)
    pool = PortPool(free_ports(2))
    held = [pool.allocate(Endpoint(HOST, outside.first + n), TCP)[0] for n in range(2)]
    held += [pool.allocate(ANY, TCP)[0] for _ in range(2)]
    with closing(*held):
        assert pool.in_use == 4


@BOTH
@pytest.mark.parametrize("count", [1, 3])
def test_an_address_of_another_computer_is_not_available(transport, count):
    pool = PortPool(free_ports(9))
    with pytest.raises(AddressNotAvailableError):
        pool.allocate(Endpoint("192.0.2.77"), transport, count)
    assert pool.in_use == 0


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_want_of_descriptors_leaves_nothing_bound(fails_at):
    made = []

    def make(*args: int) -> socket.socket:
        if len(made) == fails_at - 1:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(socket.socket(*args))
        return made[-1]

    pool = PortPool(free_ports(3, align=3), open_socket=make)
    with pytest.raises(AddressNotAvailableError, match="Too many open files"):
        pool.allocate(ANY, TCP, 3)
    assert pool.in_use == 0
    assert all(sock.fileno() == -1 for sock in made)


def test_what_was_not_handed_out_can_be_released():
    pool = PortPool(free_ports(2))
    pool.release(Endpoint(HOST, 1), TCP)
    assert pool.in_use == 0


OPERATIONS = st.lists(
    st.tuples(st.sampled_from([TCP, UDP]), st.integers(1, 4)) | st.integers(0, 30), max_size=30
)


@settings(max_examples=40, deadline=None)
@given(OPERATIONS)
def test_no_port_is_handed_out_twice_and_none_is_lost(operations):
    pool = PortPool(free_ports(12))
    held: list[tuple[Transport, list[socket.socket]]] = []
    with contextlib.ExitStack() as stack:
        for operation in operations:
            if isinstance(operation, int):
                if held:
                    transport, sockets = held.pop(operation % len(held))
                    give_back(pool, sockets, transport)
                continue
            transport, count = operation
            with contextlib.suppress(PortsExhaustedError):
                sockets = pool.allocate(ANY, transport, count)
                stack.enter_context(closing(*sockets))
                held.append((transport, sockets))
            out = [(kind, port) for kind, sockets in held for port in ports_of(sockets)]
            assert len(out) == len(set(out)) == pool.in_use
        for transport, sockets in held:
            give_back(pool, sockets, transport)
    assert pool.in_use == 0
