"""Others who change nftables and conntrack while the kernel carries connections."""

import asyncio
import contextlib
from pathlib import Path

import attrs
import pytest
from calls import bind, carries, proxy_address
from kernel_world import come, opened, path, tables, world
from own_network import in_own_network, shell
from rig import eventually

from fwproxy.config.config import DatapathConfig, Limits
from fwproxy.engine.kernel import table_settings


def process_namespace():
    return Path("/proc/self/ns/pid").stat().st_ino


@in_own_network
async def test_an_owned_table_outlives_a_flush_of_the_ruleset():
    async with world() as here:
        shell("nft add table inet innocent")
        primary = await here.primary()
        connection, client = await opened(here, primary)
        shell("nft flush ruleset")
        assert tables() == [path(here).table_name]
        with contextlib.suppress(Exception):
            shell(f"nft delete table inet {path(here).table_name}")
        assert await carries(*await come(here, connection, client))


@in_own_network
@pytest.mark.parametrize(
    "harm", ["flush ruleset", "flush table inet {}", "delete map inet {} open6"]
)
async def test_a_table_that_anybody_can_change_is_restored(monkeypatch, harm, logged):
    """As on kernels that know no owners of tables."""

    def settings(config):
        return attrs.evolve(table_settings(config), can_own=False)

    monkeypatch.setattr("fwproxy.engine.kernel.table_settings", settings)
    async with world() as here:
        shell("nft add table inet innocent")
        primary = await here.primary()
        connection, client = await opened(here, primary)
        with contextlib.suppress(Exception):
            shell(f"nft '{harm.format(path(here).table_name)}'")
        here.advance(3)
        assert await carries(*await come(here, connection, client))
        made = [await opened(here, primary) for _ in range(2)]
        assert made[1][0].choice.path.value == "kernel"
    assert not [each for each in tables() if each != "innocent"]


@in_own_network
async def test_tables_of_dead_processes_are_removed_and_no_others(logged):
    elsewhere = "fwproxy_1_999999999_1_1"
    mine = f"fwproxy_{process_namespace()}_999999999_1_1"
    for name in (elsewhere, mine, "fwproxy-redirect", "fwproxy_of_somebody", "filter"):
        shell(f"nft add table inet {name}")
    shell("nft add table ip fwproxy_1_1_1_1")
    async with world() as here:
        own = path(here).table_name
        assert own in tables()
        assert mine not in tables()
        assert {elsewhere, "fwproxy-redirect", "fwproxy_of_somebody", "filter"} <= set(tables())
    assert own not in tables()


@in_own_network
async def test_lost_events_are_made_up_for(logged):
    datapath = DatapathConfig(kernel="require", kernel_event_buffer=1)
    limits = Limits(max_permissions_per_session=500, max_connections_per_session=500)
    async with world(datapath=datapath, limits=limits) as here:
        primary = await here.primary()
        client = here.listen()
        made = await bind(primary, *[client.address] * 100)
        comings = [asyncio.create_task(here.connect(proxy_address(each))) for each in made]
        accepted = [await here.accept(client) for _ in made]
        servers = await asyncio.gather(*comings)
        await eventually(lambda: all(each.state.value == "established" for each in made))
        for each in (*servers, *accepted):
            each.close()
        await eventually(lambda: all(each.is_closed for each in made))
        assert [line for line in logged if line["event"].startswith("conntrack events were lost")]


@in_own_network
async def test_two_proxies_in_one_network_do_not_meddle():
    async with world() as one, world() as other:
        assert len(tables()) == 2
        first, second = await one.primary(), await other.primary()
        for here, primary in ((one, first), (other, second)):
            connection, client = await opened(here, primary)
            assert await carries(*await come(here, connection, client))
            assert path(here).flows == 1
