"""How many FTP sessions there may be, and how long they may say nothing."""

from __future__ import annotations

import asyncio

import pytest
from ftp_dialogue import FILE, Dialogue, Handler
from ftp_ends import OTHER_V4, FtpClient, FtpWorld, open_ftp
from rig import Peer, advance, eventually

from fwproxy.config.config import Limits


async def is_turned_away(world: FtpWorld, source: str | None = None) -> bool:
    """Tell whether a client is let go before it is greeted."""
    try:
        client = await world.connect(source)
        return await client.rest() == b""
    except ConnectionError:  # before or after connect has returned
        return True


@pytest.mark.parametrize("limits", [Limits(max_sessions=2), Limits(max_sessions_per_client=2)])
async def test_one_client_too_many_is_turned_away_until_another_has_left(limits):
    async with open_ftp(limits=limits) as world:
        first, second = await world.login(), await world.login()
        assert await is_turned_away(world)
        assert await world.is_alive(first)
        assert await world.fetch(second) == FILE
        assert await first.code("QUIT") == 221
        first.close()
        await eventually(lambda: len(world.firewall.sessions) == 1)
        assert await world.fetch(await world.login()) == FILE


async def test_the_limit_of_one_client_leaves_room_for_others():
    async with open_ftp(limits=Limits(max_sessions_per_client=1)) as world:
        await world.login()
        other = await world.connect(OTHER_V4)
        await other.login()
        assert await is_turned_away(world, OTHER_V4)


async def test_a_client_that_says_nothing_for_long_is_let_go():
    async with open_ftp() as world:
        client = await world.login()
        advance(world.firewall.engine.deadlines, world.firewall.engine.limits.idle_timeout + 1)
        await eventually(lambda: not len(world.firewall.sessions), "the session goes on")
        assert await client.peer.is_cut_off()


IDLE = 300
MOMENT = 2


class Slow:
    """A server whose transfers begin, and go on when the test says so."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler | bytes] = {
            "RETR": self._begin,
            "STAT": b"211 Still there\r\n",
        }
        self.writer: asyncio.StreamWriter

    async def begun(self, world: FtpWorld) -> tuple[FtpClient, Peer]:
        """Begin a transfer; return the client's ends of the two connections."""
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        assert await client.code("RETR f") == 150
        return client, data

    async def _begin(self, dialogue: Dialogue, argument: bytes) -> bytes:
        _, self.writer = await dialogue.data()
        return b"150 Here it comes\r\n"


async def test_a_control_connection_may_say_nothing_for_as_long_as_its_transfer_runs():
    slow = Slow()
    async with open_ftp(limits=Limits(idle_timeout=IDLE), handlers=slow.handlers) as world:
        client, data = await slow.begun(world)
        for _ in range(5):
            advance(world.firewall.engine.deadlines, IDLE - MOMENT)
            slow.writer.write(b"x")
            assert await data.receive() == b"x"
        advance(world.firewall.engine.deadlines, IDLE - MOMENT)
        assert world.connections == 2
        advance(world.firewall.engine.deadlines, 2 * MOMENT)
        assert not len(world.firewall.sessions)
        assert await client.peer.is_cut_off()
        assert await data.is_cut_off()


async def test_a_transfer_may_stall_for_as_long_as_its_control_connection_talks():
    slow = Slow()
    async with open_ftp(limits=Limits(idle_timeout=IDLE), handlers=slow.handlers) as world:
        client, data = await slow.begun(world)
        for _ in range(5):
            advance(world.firewall.engine.deadlines, IDLE - MOMENT)
            assert await client.code("STAT") == 211
        slow.writer.write(b"x")
        assert await data.receive() == b"x"
