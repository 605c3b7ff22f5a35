"""Connecting: success, every kind of failure, and giving up."""

import asyncio
import errno
import socket

import pytest
from rig import (
    HOST,
    OTHER_HOST,
    Mute,
    Peer,
    Upstream,
    closing,
    eventually,
    free_ports,
    turns,
    unused_endpoint,
)
from wires import running_poller

from fwproxy.address import Endpoint
from fwproxy.datapath.dial import Dial


class Outcome:
    """What a dial has said."""

    def __init__(self):
        self.sock = None
        self.error = None
        self.calls = 0

    def __call__(self, sock, error):
        self.calls += 1
        self.sock, self.error = sock, error


@pytest.mark.parametrize("host", [HOST, "::1"])
@pytest.mark.parametrize("with_source", [False, True])
async def test_a_connection_that_stands_is_handed_over(host, with_source):
    async with running_poller() as poller:
        upstream, outcome = Upstream(host), Outcome()
        with closing(upstream):
            source = Endpoint(host) if with_source else None
            dial = Dial(poller, upstream.address, source, outcome)
            server = await upstream.accept()
            await eventually(lambda: outcome.calls)
            with closing(server, outcome.sock):
                assert dial.is_done
                assert outcome.error is None
                assert Endpoint.from_sockaddr(outcome.sock.getsockname()) == server.remote
                assert not outcome.sock.getblocking()
                paced_by = outcome.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                assert paced_by.rstrip(b"\0") == b"reno"  # which does not pace
                assert len(poller) == 1  # still watched, for the next owner
                dial.cancel()
                assert outcome.sock.fileno() >= 0
                poller.forget(outcome.sock.fileno())


async def test_it_leaves_from_exactly_the_source():
    async with running_poller() as poller:
        source = Endpoint(OTHER_HOST, free_ports(1, hosts=(OTHER_HOST,)).first)
        upstream, outcome = Upstream(), Outcome()
        with closing(upstream):
            Dial(poller, upstream.address, source, outcome)
            server = await upstream.accept()
            await eventually(lambda: outcome.calls)
            poller.forget(outcome.sock.fileno())
            with closing(outcome.sock, server):
                assert server.remote == source


async def test_a_refusal_is_told():
    async with running_poller() as poller:
        outcome = Outcome()
        dial = Dial(poller, unused_endpoint(), None, outcome)
        await eventually(lambda: outcome.calls)
        assert outcome.sock is None
        assert outcome.error.errno == errno.ECONNREFUSED
        assert dial.is_done


@pytest.mark.parametrize(
    ("target", "source", "number"),
    [
        (Endpoint(HOST, 1), Endpoint("192.0.2.77"), errno.EADDRNOTAVAIL),
        (Endpoint("255.255.255.255", 1), None, errno.ENETUNREACH),
        (Endpoint("::1", 1), Endpoint(HOST), None),
    ],
)
async def test_a_failure_at_once_is_told_at_once(target, source, number):
    async with running_poller() as poller:
        outcome = Outcome()
        dial = Dial(poller, target, source, outcome)
        assert dial.is_done
        assert outcome.calls == 1
        assert isinstance(outcome.error, OSError)
        assert number is None or outcome.error.errno == number


async def test_after_giving_up_nothing_is_told():
    async with running_poller() as poller:
        mute, outcome = Mute(), Outcome()
        with closing(mute):
            dial = Dial(poller, mute.address, None, outcome)
            await turns()
            assert not dial.is_done
            dial.cancel()
            dial.cancel()
            assert dial.is_done
            await turns()
        assert outcome.calls == 0


async def test_who_has_answered_is_reset_if_nobody_waits_any_more():
    async with running_poller() as poller:
        upstream, outcome = Upstream(), Outcome()
        with closing(upstream):
            dial = Dial(poller, upstream.address, None, outcome)
            sock, _ = upstream.sock.accept()  # the kernel has done its part at once
            assert not dial.is_done
            dial.cancel()
            with closing(Peer(sock)) as peer:
                assert await peer.is_cut_off()
        assert outcome.calls == 0


async def test_a_fault_of_the_receiver_is_reported():
    faults = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    async with running_poller() as poller:
        upstream = Upstream()
        taken = []

        def fail(sock, error):
            taken.append(sock)
            raise ValueError("a fault")

        with closing(upstream):
            Dial(poller, upstream.address, None, fail)
            server: Peer = await upstream.accept()
            await eventually(lambda: faults)
            poller.forget(taken[0].fileno())
            with closing(server, *taken):
                assert [type(fault) for fault in faults] == [ValueError]
                assert poller.quiet_fd == -1
