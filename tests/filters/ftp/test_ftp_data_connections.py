"""Sessions through a real firewall: data connections that cannot be made, and who may use one."""

from __future__ import annotations

import asyncio

import pytest
from ftp_dialogue import FILE, Dialogue
from ftp_ends import OTHER_V4, V4, FtpClient, Listening, data_port, open_ftp, waiting
from rig import advance, eventually, free_ports, unused_endpoint

from fwproxy.config.config import SecondaryConfig

# Data connections that cannot be made.


async def test_a_server_whose_data_port_refuses():
    released = asyncio.Event()

    async def late(dialogue: Dialogue, argument: bytes) -> bytes:
        await released.wait()
        return b"150 Hoping\r\n425 Nobody came\r\n"

    async with open_ftp(handlers={"RETR": late}) as world:
        client = await world.login()
        port = await world.passive(client)
        world.server.last.close_listener()
        await client.send(b"RETR f\r\n")
        assert await world.is_refused(port)
        assert await client.ask("LPSV") == b"425 Cannot open a data connection\r\n"
        assert await client.codes(1) == [502]
        released.set()
        assert await world.is_alive(client)
        await world.settled()
        world.server.handlers["RETR"] = lambda dialogue, _: dialogue.send_file()
        assert await world.fetch(client) == FILE


async def test_a_server_whose_data_port_refuses_before_the_transfer():
    async with open_ftp() as world:
        client = await world.login()
        port = await world.passive(client)
        world.server.last.close_listener()
        assert await world.is_refused(port)
        await world.settled()
        assert await client.code("RETR f") == 425
        assert world.server.last.lines[-1] == b"PASV"
        assert await world.fetch(client) == FILE


async def test_a_client_whose_data_port_refuses():
    async with open_ftp() as world:
        client = await world.login()
        (*_, high, low) = (0, *divmod(unused_endpoint().port, 256))
        assert await client.code(f"PORT 127,0,0,1,{high},{low}") == 200
        await client.send(b"RETR f\r\n")
        assert await client.final_code() == 425
        await world.settled()
        assert await world.is_alive(client)
        assert await world.fetch(client) == FILE


@pytest.mark.parametrize("who", ["client", "server"])
async def test_both_wait_and_one_of_them_is_gone(who):
    async def refused(dialogue: Dialogue, argument: bytes) -> bytes:
        if who == "server":
            return b"425 Nobody came\r\n"
        return await dialogue.send_file()

    async with open_ftp(data_mode="passive", handlers={"RETR": refused}) as world:
        client = await world.login()
        listening = Listening()
        assert await client.code(listening.port_command) == 200
        if who == "client":
            listening.close()
        else:
            world.add(listening)
            world.server.last.close_listener()
        await client.send(b"RETR f\r\n")
        assert await client.final_code() == 425
        await world.settled()
        assert await world.is_alive(client)
        world.server.handlers["RETR"] = lambda dialogue, _: dialogue.send_file()
        assert await world.fetch(client) == FILE


async def test_a_client_that_never_comes_to_a_server_that_is_there():
    async with open_ftp(data_mode="active") as world:
        client = await world.login()
        port = await world.passive(client)
        await client.send(b"RETR f\r\n")
        assert await client.codes(1) == [150]
        await eventually(lambda: world.permissions == 1, "the server has not come")
        advance(world.firewall.engine.deadlines, 61)
        assert (await client.codes(1))[0] in {425, 426}
        await world.settled()
        assert await world.is_refused(port)
        assert await world.is_alive(client)


@pytest.mark.parametrize("mode", ["client", "active"])
@pytest.mark.parametrize("verb", ["PASV", "PORT"])
async def test_unused_permissions_expire(verb, mode):
    async with open_ftp(data_mode=mode) as world:
        client = await world.login()
        if verb == "PASV":
            await world.passive(client)
        else:
            assert await client.code(waiting(world).port_command) == 200
        assert world.permissions == (2 if (verb, mode) == ("PASV", "active") else 1)
        advance(world.firewall.engine.deadlines, 61)
        await world.settled()
        assert await client.code("RETR f") == 425
        assert b"RETR f" not in world.server.last.lines
        assert await world.is_alive(client)


# Who may use a data connection, and how often.


async def test_only_the_client_may_come_and_only_once():
    async with open_ftp() as world:
        client = await world.login()
        port = await world.passive(client)
        assert await world.is_refused(port, OTHER_V4)
        assert await world.is_refused(port, OTHER_V4)
        data = await world.open_data(port, V4)
        await client.send(b"RETR f\r\n")
        assert await data.read_all() == FILE
        assert await world.is_refused(port, V4)
        assert await client.codes(2) == [150, 226]


async def test_only_the_server_may_come_and_only_once():
    async with open_ftp() as world:
        client = await world.login()
        listening = waiting(world)
        assert await client.code(listening.port_command) == 200
        port = world.server.last._target
        assert port is not None
        assert await world.is_refused(port, OTHER_V4)
        await client.send(b"RETR f\r\n")
        data = await listening.accept()
        assert await data.read_all() == FILE
        assert await client.codes(2) == [150, 226]
        assert await world.is_refused(port, V4)
        assert not listening.was_called


@pytest.mark.parametrize("mode", ["client", "active"])
@pytest.mark.parametrize("then", ["PASV", "PORT", "EPSV", "QUIT", "REIN", "close", "reset"])
@pytest.mark.parametrize("first", ["PASV", "PORT"])
async def test_unused_permissions_are_withdrawn(first, then, mode):
    async with open_ftp(data_mode=mode) as world:
        client = await world.login()
        if first == "PASV":
            await world.passive(client)
        else:
            assert await client.code(waiting(world).port_command) == 200
        before = {entry.id for entry in world.firewall.ledger}
        assert before
        if then == "close":
            client.close()
        elif then == "reset":
            client.peer.reset()
        elif then == "PORT":
            assert await client.code(waiting(world).port_command) == 200
        else:
            assert await client.code(then) in {220, 221, 227, 229}
        await eventually(lambda: not before & {entry.id for entry in world.firewall.ledger})
        if then in {"QUIT", "REIN", "close", "reset"}:
            await eventually(lambda: not world.permissions)


async def test_the_pool_of_ports_is_exhausted_and_recovers(log):
    secondary = SecondaryConfig(ports=free_ports(1))
    async with open_ftp(secondary=secondary) as world:
        first, second = await world.login(), await world.login()
        port = await world.passive(first)
        assert await second.ask("PASV") == b"425 Cannot open a data connection\r\n"
        listening = waiting(world)
        assert await second.ask(listening.port_command) == b"425 Cannot open a data connection\r\n"
        assert await world.is_alive(second)
        refusals = [line for line in log if line["event"] == "data connection refused"]
        assert len(refusals) == 2
        assert all("secondary.ports" in line["reason"] for line in refusals)
        data = await world.open_data(port)
        await first.send(b"RETR f\r\n")
        assert await data.read_all() == FILE
        assert await world.fetch(second) == FILE
        assert await client_is_told_the_port(second, secondary.ports.first)


async def client_is_told_the_port(client: FtpClient, port: int) -> bool:
    return data_port(await client.ask("PASV")).port == port
