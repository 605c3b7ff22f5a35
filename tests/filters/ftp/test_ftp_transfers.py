"""Sessions through a real firewall: transfers of every kind, one by one, many and at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ftp_dialogue import FILE
from ftp_ends import V4, V6, FtpClient, FtpWorld, Listening, data_port, open_ftp, waiting
from rig import Peer

from fwproxy import ListenerKind

FAMILIES = {"44": (V4, V4), "46": (V4, V6), "64": (V6, V4), "66": (V6, V6)}
IPV4_ONLY = {"PORT", "PASV"}


async def set_up(world: FtpWorld, client: FtpClient, verb: str) -> Any:
    """Set a data connection up; return what yields the client's end of it, once."""
    if verb in {"PASV", "EPSV"}:
        return await world.open_data(await world.passive(client, verb))
    listening = waiting(world)
    command = listening.port_command if verb == "PORT" else listening.eprt_command
    assert await client.code(command) == 200
    return listening


async def data_of(end: Peer | Listening) -> Peer:
    return end if isinstance(end, Peer) else await end.accept()


@pytest.mark.parametrize("mode", ["client", "active", "passive"])
@pytest.mark.parametrize(
    ("families", "verb"),
    [
        (families, verb)
        for families in FAMILIES
        for verb in ("PORT", "EPRT", "PASV", "EPSV")
        if families[0] == "4" or verb not in IPV4_ONLY
    ],
)
async def test_transfers(families, mode, verb):
    async with open_ftp(*FAMILIES[families], data_mode=mode) as world:
        client = await world.login()
        end = await set_up(world, client, verb)
        await client.send(b"RETR f\r\n")
        data = await data_of(end)
        assert await data.read_all() == FILE
        data.close()
        assert await client.codes(2) == [150, 226]
        end = await set_up(world, client, verb)
        await client.send(b"STOR f\r\n")
        data = await data_of(end)
        await data.send(FILE)
        data.close()
        assert await client.codes(2) == [150, 226]
        assert world.server.last.stored == [FILE]
        await world.settled()
        assert await world.is_alive(client)
        assert await client.code("QUIT") == 221


async def test_many_transfers_in_one_session():
    async with open_ftp() as world:
        client = await world.login()
        for _ in range(5):
            assert await world.fetch(client) == FILE
            assert await world.fetch(client, "EPSV", "LIST") == b"a file\r\n"
            assert await world.fetch(client, "PASV", "MLSD /dir") == b"type=file; a file\r\n"
            listening = waiting(world)
            assert await client.code(listening.port_command) == 200
            assert await client.code("REST 100") == 350
            await client.send(b"STOU\r\n")
            data = await listening.accept()
            await data.send(b"x" * 1000)
            data.close()
            assert await client.codes(2) == [150, 226]
        await world.settled()
        assert len(world.server.last.stored) == 5
        assert await client.code("QUIT") == 221


async def test_many_sessions_at_once():
    async with open_ftp() as world:

        async def one(verb: str) -> None:
            client = await world.login()
            assert await world.fetch(client, verb) == FILE
            assert await client.code("QUIT") == 221

        await asyncio.gather(*(one(verb) for verb in ["PASV", "EPSV"] * 10))
        await world.settled()


async def test_a_transfer_and_what_follows_it_in_one_piece():
    async with open_ftp() as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\nPASV\r\n")
        assert await data.read_all() == FILE
        data.close()
        assert await client.codes(2) == [150, 226]
        data = await world.open_data(data_port(await client.reply()))
        await client.send(b"RETR f\r\nQUIT\r\n")
        assert await data.read_all() == FILE
        assert await client.codes(3) == [150, 226, 221]


async def test_active_commands_and_transfer_in_one_piece():
    for mode in ("client", "passive"):
        async with open_ftp(data_mode=mode) as world:
            client = await world.login()
            listening = waiting(world)
            await client.send(f"{listening.port_command}\r\nRETR f\r\nQUIT\r\n".encode())
            data = await listening.accept()
            assert await data.read_all() == FILE
            assert await client.codes(4) == [200, 150, 226, 221]


async def test_a_client_that_has_said_everything_and_closed_its_side():
    async with open_ftp() as world:
        client = await world.connect()
        listening = waiting(world)
        await client.send(
            b"USER joe\r\nPASS x\r\n%b\r\nLIST\r\nQUIT\r\n" % listening.port_command.encode()
        )
        client.peer.half_close()
        data = await listening.accept()
        assert await data.read_all() == b"a file\r\n"
        assert await client.codes(7) == [220, 331, 230, 200, 150, 226, 221]
        assert await client.rest() == b""


@pytest.mark.parametrize("name", [b"caf\xe9.txt", "Grüße-日本".encode(), b"a\xff\xffb", b" x "])
async def test_names_of_all_kinds_arrive(name):
    async with open_ftp(handlers={"SIZE": b"213 5 \xe9\r\n"}) as world:
        client = await world.login()
        assert await client.ask(b"SIZE " + name) == b"213 5 \xe9\r\n"
        assert world.server.last.lines[-1] == b"SIZE " + name


async def test_long_replies_go_through():
    status = b"211-Status\r\n" + b" line\r\n" * 50_000 + b"211 End\r\n"
    async with open_ftp(handlers={"STAT": status}) as world:
        client = await world.login()
        assert await client.ask("STAT") == status
        assert await world.is_alive(client)


async def test_kinds_of_listeners_are_what_they_are_called():
    async with open_ftp(kind=ListenerKind.FORWARD) as world:
        assert (await world.login()).is_idle
