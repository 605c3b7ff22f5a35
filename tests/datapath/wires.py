"""A poller without a firewall, and wires: TCP connections with one end for the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from rig import HOST, Peer, turns

from fwproxy.clock import Deadlines
from fwproxy.datapath.poll import Poller


@contextlib.asynccontextmanager
async def running_poller() -> AsyncIterator[Poller]:
    """Run a poller; afterwards it may watch nothing any more."""
    poller = Poller(asyncio.get_running_loop())
    try:
        yield poller
        await turns(3)
        assert len(poller) == 0
    finally:
        poller.close()


@contextlib.asynccontextmanager
async def running_deadlines() -> AsyncIterator[Deadlines]:
    """Run a wheel; afterwards no deadline may be left in it."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop.time)
    yield deadlines
    await turns(3)
    assert len(deadlines) == 0


def tcp_pair(*, small: bool = False) -> tuple[socket.socket, Peer]:
    """Return the two ends of a connection: a bare non-blocking socket, and the test's.

    With *small* buffers a writer is soon made to wait.
    """
    with socket.socket() as listener:
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind((HOST, 0))
        listener.listen(1)
        far = socket.socket()
        if small:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    near.settimeout(0)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    if small:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return near, Peer(far)
