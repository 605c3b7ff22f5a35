"""Accepting, also when the kernel has no more to give."""

import asyncio
import errno
import resource
import socket

import pytest
from rig import HOST, Peer, Upstream, advance, closing, eventually, turns
from wires import running_deadlines, running_poller

from fwproxy.address import Endpoint
from fwproxy.datapath.accept import Acceptor


class Door:
    """An acceptor with what it has accepted and complained of."""

    def __init__(self, poller, deadlines, sock=None):
        self.listener = Upstream()
        self.accepted: list[tuple[socket.socket, Endpoint]] = []
        self.complaints: list[OSError] = []
        self.deadlines = deadlines
        self.sock = sock or self.listener.sock
        self.fault: Exception | None = None
        self.acceptor = Acceptor(
            poller, deadlines, self.sock, self._take, retry=5, on_exhausted=self.complaints.append
        )

    def _take(self, sock, peer):
        self.accepted.append((sock, peer))
        if self.fault is not None:
            raise self.fault

    async def knock(self) -> Peer:
        return await Peer.connect(self.listener.address)

    def rest_is_over(self) -> None:
        advance(self.deadlines, 6)

    def close(self) -> None:
        self.acceptor.close()
        self.listener.close()
        for sock, _ in self.accepted:
            sock.close()


async def test_whoever_comes_is_handed_over_without_blocking():
    async with running_poller() as poller, running_deadlines() as deadlines:
        door = Door(poller, deadlines)
        with closing(door):
            peers = [await door.knock() for _ in range(3)]
            with closing(*peers):
                await eventually(lambda: len(door.accepted) == 3)
                assert [peer for _, peer in door.accepted] == [peer.address for peer in peers]
                assert not any(sock.getblocking() for sock, _ in door.accepted)


async def test_closing_refuses_further_ones_and_may_be_repeated():
    async with running_poller() as poller, running_deadlines() as deadlines:
        door = Door(poller, deadlines)
        with closing(door):
            address = door.listener.address
            door.acceptor.close()
            door.acceptor.close()
            with pytest.raises(ConnectionRefusedError):
                await Peer.connect(address)


class Listening:
    """A listening socket whose accept fails as often as it is told to."""

    def __init__(self, sock: socket.socket, *errors: int) -> None:
        self._sock = sock
        self.errors = list(errors)
        self.attempts = 0

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def accept(self):
        self.attempts += 1
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, errno.errorcode[number])
        return self._sock.accept()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_out_of_resources_it_rests_and_recovers(number):
    async with running_poller() as poller, running_deadlines() as deadlines:
        listener = Upstream()
        sock = Listening(listener.sock, number, number)
        door = Door(poller, deadlines, sock)
        with closing(door, listener), closing(*[await Peer.connect(listener.address)]):
            await eventually(lambda: sock.attempts == 1)
            for _ in range(5):  # new clients do not end the rest
                peer = await Peer.connect(listener.address)
                with closing(peer):
                    await turns(10)
            assert (sock.attempts, len(door.complaints), len(deadlines)) == (1, 1, 1)
            door.rest_is_over()
            await eventually(lambda: sock.attempts == 2)
            await turns(50)
            assert (sock.attempts, len(door.complaints), len(deadlines)) == (2, 2, 1)
            door.rest_is_over()
            await eventually(lambda: len(door.accepted) == 6)
            assert [error.errno for error in door.complaints] == [number] * 2


async def test_a_resting_acceptor_can_be_closed():
    async with running_poller() as poller, running_deadlines() as deadlines:
        listener = Upstream()
        sock = Listening(listener.sock, errno.EMFILE)
        door = Door(poller, deadlines, sock)
        with closing(door, listener), closing(*[await Peer.connect(listener.address)]):
            await eventually(lambda: door.complaints)
            door.acceptor.close()
            assert len(deadlines) == 0


async def test_the_real_limit_of_descriptors():
    async with running_poller() as poller, running_deadlines() as deadlines:
        door = Door(poller, deadlines)
        with closing(door), closing(*[await door.knock() for _ in range(2)]):
            await eventually(lambda: len(door.accepted) == 2)
            client = socket.socket()
            client.settimeout(0)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno(), hard))
            try:
                with closing(client):
                    client.connect_ex(door.listener.address.sockaddr)
                    await eventually(lambda: door.complaints)
                    await turns(50)
                    assert len(door.complaints) == 1
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                    door.rest_is_over()
                    await eventually(lambda: len(door.accepted) == 3)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_client_that_has_gone_again_is_nothing():
    async with running_poller() as poller, running_deadlines() as deadlines:
        listener = Upstream()
        sock = Listening(listener.sock, errno.ECONNABORTED, errno.EPROTO)
        door = Door(poller, deadlines, sock)
        with closing(door, listener), closing(*[await Peer.connect(listener.address)]):
            await eventually(lambda: door.accepted)
            assert not door.complaints
            assert sock.attempts == 3


async def test_a_fault_of_the_receiver_is_reported_and_accepting_goes_on():
    faults = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    async with running_poller() as poller, running_deadlines() as deadlines:
        door = Door(poller, deadlines)
        door.fault = ValueError("a fault")
        with closing(door), closing(*[await door.knock() for _ in range(2)]):
            await eventually(lambda: len(door.accepted) == 2)
    assert faults == [door.fault] * 2


async def test_closing_while_handing_over_accepts_no_second_one():
    async with running_poller() as poller, running_deadlines() as deadlines:
        door = Door(poller, deadlines)
        with closing(door):
            door.acceptor._on_accept = lambda sock, peer: (
                door._take(sock, peer),
                door.acceptor.close(),
            )
            peers = [socket.create_connection((HOST, door.listener.address.port)) for _ in range(3)]
            with closing(*peers):
                await eventually(lambda: door.accepted)
                await turns()
                assert len(door.accepted) == 1
