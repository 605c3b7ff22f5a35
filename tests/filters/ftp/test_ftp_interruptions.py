"""Sessions through a real firewall: what breaks into a transfer, and what ends a session."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any

import pytest
from ftp_dialogue import FILE, Dialogue
from ftp_ends import open_ftp
from rig import Mute, Peer, Upstream, advance, eventually, unused_endpoint

from fwproxy.address import HostName
from fwproxy.config.config import Limits

BIG = bytes(range(256)) * 40_000
UNREAD = 1 << 14  # bytes that find room in the buffers of the kernel, however short of memory it is


# Status and abort during a transfer.


def endless(dialogue: Dialogue, argument: bytes) -> None:
    """Start a RETR that goes on until it is stopped."""

    async def send() -> None:
        _, writer = await dialogue.data()
        await dialogue.say(b"150 Here it comes\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"x" * 10_000)
                await writer.drain()

    dialogue.server._tasks.add(asyncio.create_task(send()))


def abort(dialogue: Dialogue, argument: bytes) -> bytes:
    for writer in dialogue._writers:
        writer.transport.abort()
    return b"426 Aborted\r\n226 Abort ok\r\n"


async def test_status_and_abort_during_a_transfer():
    handlers: Any = {"RETR": endless, "ABOR": abort, "STAT": b"211-Sending\r\n211 End\r\n"}
    async with open_ftp(handlers=handlers) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await client.codes(1) == [150]
        assert await data.read(100_000)
        assert await client.ask("STAT") == b"211-Sending\r\n211 End\r\n"
        assert await client.code("NOOP") == 200
        client.peer.sock.send(b"\xff\xf4\xff", socket.MSG_OOB)
        await client.send(b"\xf2ABOR\r\n")
        assert await client.codes(2) == [426, 226]
        assert await data.read_all()
        data.close()
        await world.settled()
        world.server.handlers["RETR"] = lambda dialogue, _: dialogue.send_file()
        assert await world.fetch(client) == FILE


async def test_the_urgent_byte_of_a_synch_stays_in_its_place_and_goes_on_as_urgent():
    with contextlib.closing(Upstream()) as upstream:
        async with open_ftp(upstream=upstream.address) as world:
            client = await world.connect()
            server = world.add(await upstream.accept())
            for pieces in ([b"\xff\xf4\xff\xf2"], [b"\xff\xf4\xff", b"\xf2"], [b"\xff\xf2"]):
                for piece in pieces:
                    client.peer.sock.send(piece, socket.MSG_OOB)
                await client.send(b"ABOR\r\nNOOP\r\n")
                assert await eventually(lambda: urgent_byte(server), "nothing urgent") == b"\xf2"
                assert await server.read(15) == b"\xff\xf4\xffABOR\r\nNOOP\r\n"


def urgent_byte(peer: Peer) -> bytes:
    """Return the urgent byte that has come, if one has."""
    try:
        return peer.sock.recv(1, socket.MSG_OOB)
    except OSError:  # none yet
        return b""


async def test_a_client_that_breaks_its_data_connection():
    async with open_ftp(handlers={"RETR": endless}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await data.read(1000)
        data.reset()
        assert await client.codes(1) == [150]
        await world.settled()
        assert await world.is_alive(client)


@pytest.mark.parametrize("code", [226, 426])
async def test_a_broken_upload_is_no_success(code):
    async def stored(dialogue: Dialogue, argument: bytes) -> bytes:
        reader, writer = await dialogue.data()
        await dialogue.say(b"150 Go on\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()
        return b"%d The server's opinion\r\n" % code

    async with open_ftp(handlers={"STOR": stored}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"STOR f\r\n")
        assert await client.codes(1) == [150]
        await data.send(b"half of ")
        data.reset()
        assert await client.codes(1) == [426]
        await world.settled()
        assert await world.is_alive(client)


async def test_a_server_that_breaks_its_data_connection():
    async def broken(dialogue: Dialogue, argument: bytes) -> bytes:
        _, writer = await dialogue.data()
        await dialogue.say(b"150 Go\r\n")
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        return b"426 Broken\r\n"

    async with open_ftp(handlers={"RETR": broken}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await client.codes(2) == [150, 426]
        assert await data.is_cut_off()
        assert await world.is_alive(client)


# Ends.


async def test_a_server_that_closes_after_quit():
    async with open_ftp() as world:
        client = await world.login()
        assert await client.code("QUIT") == 221
        assert await client.rest() == b""
        await world.settled()


async def test_a_server_that_closes_while_the_client_still_reads():
    def send_and_leave(dialogue: Dialogue, argument: bytes) -> Any:
        async def send() -> bytes:
            _, writer = await dialogue.data()
            await dialogue.say(b"150 Go\r\n")
            writer.write(BIG)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            await dialogue.say(b"226 Done\r\n")
            dialogue.leave()
            return b""

        return send()

    async with open_ftp(handlers={"RETR": send_and_leave}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        begun = await data.read(len(BIG) - UNREAD)
        assert await client.rest() == b"150 Go\r\n226 Done\r\n"
        assert begun + await data.read_all() == BIG


async def test_a_client_that_never_closes_after_the_server_has():
    async with open_ftp() as world:
        client = await world.login()
        world.server.last.leave()
        assert await client.rest() == b""
        assert len(world.firewall.sessions) == 1
        advance(world.firewall.engine.deadlines, world.firewall.engine.limits.drain_timeout + 1)
        await eventually(lambda: not len(world.firewall.sessions))


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_vanishes_during_a_transfer(how):
    async with open_ftp(handlers={"RETR": endless}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await data.read(1000)
        for peer in (client.peer, data):
            peer.close() if how == "close" else peer.reset()
        await eventually(lambda: not len(world.firewall.sessions))


@pytest.mark.parametrize("kind", ["refuses", "hangs", "does not resolve"])
async def test_an_upstream_that_cannot_be_had(kind):
    mute = Mute()
    with contextlib.closing(mute):
        upstream = {
            "refuses": unused_endpoint(),
            "hangs": mute.address,
            "does not resolve": HostName("no.such.host.invalid", 21),
        }[kind]
        async with open_ftp(upstream=upstream, limits=Limits(connect_timeout=5)) as world:
            refused = asyncio.create_task(world.is_refused(world.address))
            if kind == "hangs":
                await eventually(lambda: len(world.firewall.sessions))
                advance(world.firewall.engine.deadlines, 6)
            assert await refused
            await eventually(lambda: not len(world.firewall.sessions))


async def test_a_reply_that_the_client_does_not_read_holds_the_server_up_and_nothing_else():
    reply = b"211-Long\r\n" + b" x" * 4000 + b"\r\n211 End\r\n"
    async with open_ftp(handlers={"STAT": reply}) as world:
        lazy, busy = await world.login(), await world.login()
        await lazy.send(b"STAT\r\n" * 2000)
        assert await world.fetch(busy) == FILE
        for _ in range(2000):
            assert await lazy.reply() == reply
        assert await world.is_alive(lazy)
