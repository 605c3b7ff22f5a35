"""Who may come through a pinhole in the kernel, how often and for how long (S17-S24, S37)."""

import asyncio
import contextlib
import re

import pytest
from calls import F, carries, is_refused, proxy_address
from kernel_world import come, elements, opened, path, world
from own_network import in_own_network, shell
from rig import HOST, OTHER_HOST, THIRD_HOST, eventually

from fwproxy import IpFilter
from fwproxy.config.config import DatapathConfig, Limits, SecondaryConfig


def soonest_expiry():
    """Return the milliseconds until the first element of any set expires."""
    found = re.findall(r"expires (?:(\d+)s)?(?:(\d+)ms)?", shell("nft list ruleset"))
    return min(int(seconds or 0) * 1000 + int(rest or 0) for seconds, rest in found)


@in_own_network
async def test_s17_of_twenty_at_once_one_gets_through():
    async with world() as here:
        primary = await here.primary()
        connection, client = await opened(here, primary)
        comers = await asyncio.gather(
            *(here.connect(proxy_address(connection)) for _ in range(20)), return_exceptions=True
        )
        through = [each for each in comers if not isinstance(each, Exception)]
        assert len(through) == 1
        assert all(
            isinstance(each, ConnectionRefusedError) for each in comers if each not in through
        )
        assert await carries(through[0], await here.accept(client))
        await eventually(lambda: connection.permission.close_reason == "used")
        assert await is_refused(here, proxy_address(connection))


@in_own_network
@pytest.mark.parametrize(
    ("ip_filter", "stranger"),
    [
        (IpFilter.only(OTHER_HOST), HOST),
        (IpFilter.only(OTHER_HOST, "10.0.0.0/8"), THIRD_HOST),
        (IpFilter().include_range("127.0.0.2", "127.0.0.2").include("192.0.2.0/24"), HOST),
        (IpFilter.everyone().exclude(HOST), HOST),
    ],
)
async def test_s24_who_is_not_allowed_is_refused_and_uses_nothing_up(ip_filter, stranger):
    async with world() as here:
        primary = await here.primary()
        connection, client = await opened(here, primary, ip_filter=ip_filter)
        assert connection.choice.path.value == "kernel"
        for _ in range(3):
            assert await is_refused(here, proxy_address(connection), stranger)
        server, accepted = await come(here, connection, client, OTHER_HOST)
        assert await carries(server, accepted)


@in_own_network
async def test_s24_nobody_may_come_through_an_empty_filter():
    async with world() as here:
        primary = await here.primary()
        connection, _ = await opened(here, primary, ip_filter=IpFilter())
        for source in (HOST, OTHER_HOST):
            assert await is_refused(here, proxy_address(connection), source)
        assert connection.permission.is_active


@in_own_network
async def test_a_filter_of_many_ranges_is_for_user_space():
    async with world() as here:
        primary = await here.primary()
        many = IpFilter.only(HOST, *(f"10.0.{number}.0/25" for number in range(100)))
        connection, client = await opened(here, primary, ip_filter=many)
        assert connection.choice.reason == "more than 64 ranges of peers"
        server, accepted = await come(here, connection, client)
        assert await carries(server, accepted)
        await eventually(lambda: connection.data_path == "splice")


@in_own_network
async def test_s18_an_unused_pinhole_expires_and_a_used_one_is_unaffected():
    async with world(secondary=SecondaryConfig(timeout=60)) as here:
        primary = await here.primary()
        unused, _ = await opened(here, primary, flags=F.TIMEOUT)
        used, client = await opened(here, primary, flags=F.TIMEOUT)
        server, accepted = await come(here, used, client)
        await eventually(lambda: used.data_path == "kernel")
        here.advance(61)
        assert unused.close_reason == "expired"
        assert not elements()
        assert await is_refused(here, proxy_address(unused))
        assert await carries(server, accepted)


@in_own_network
async def test_s18_the_kernel_closes_a_pinhole_also_when_nobody_else_does():
    async with world(secondary=SecondaryConfig(timeout=0.3)) as here:
        primary = await here.primary()
        here.engine.deadlines.run_due = lambda now: None  # the process hangs
        connection, _ = await opened(here, primary, flags=F.TIMEOUT)
        await eventually(lambda: elements().keys() <= {"sources4"})
        assert connection.permission.is_active
        assert await is_refused(here, proxy_address(connection))


@in_own_network
async def test_s20_without_a_time_out_it_is_renewed_until_killed():
    datapath = DatapathConfig(kernel="require", kernel_lease=10)
    async with world(datapath=datapath) as here:
        primary = await here.primary()
        connection, client = await opened(here, primary)
        assert "timeout 10s" in shell("nft list ruleset")
        await asyncio.sleep(0.2)
        before = soonest_expiry()
        here.advance(1000)
        assert soonest_expiry() > before
        server, accepted = await come(here, connection, client)
        assert await carries(server, accepted)
        connection.kill()
        assert not {name for name in elements() if not name.startswith("killed")}


@in_own_network
async def test_s37_many_may_come_where_the_call_says_so():
    async with world() as here:
        primary = await here.primary()
        connection, client = await opened(here, primary, flags=F.ALLOW_MULTIPLE)
        ends = [await come(here, connection, client) for _ in range(5)]
        for server, accepted in ends:
            assert await carries(server, accepted)
        await eventually(lambda: connection.permission.uses == 5)
        assert connection.permission.is_active
        assert path(here).flows == 5


@in_own_network
async def test_connections_beyond_the_sessions_limit_are_cut_off():
    limits = Limits(max_connections_per_session=3, idle_timeout=1e6)
    async with world(limits=limits) as here:
        primary = await here.primary()
        connection, client = await opened(here, primary, flags=F.ALLOW_MULTIPLE)
        one = await come(here, connection, client)
        await eventually(lambda: path(here).flows == 1)
        server = await here.connect(proxy_address(connection))
        await eventually(lambda: connection.permission.uses == 2)
        with contextlib.suppress(ConnectionError):
            await server.send(b"?")
            assert not await server.receive()
        assert path(here).flows == 1
        assert await carries(*one)
