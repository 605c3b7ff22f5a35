"""How many FTP sessions there may be, and how long they may say nothing."""

from __future__ import annotations

import pytest
from ftp_ends import FILE, OTHER_V4, FtpWorld, open_ftp
from rig import advance, eventually

from fwproxy.config import Limits


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
