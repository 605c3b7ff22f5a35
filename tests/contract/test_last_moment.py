"""Who has come to a port before its end, and is noticed only after it, is let in all the same.

On a busy machine both may be noticed at once, and the end may be the first.
"""

import pytest
from calls import UNKNOWN, F, bind, carries, own, proxy_address, redirect
from clusters import end, open_cluster, share, shared
from kernel_world import opened
from kernel_world import world as kernel_world
from own_network import in_own_network
from rig import OTHER_HOST, Mute, eventually, open_world

from fwproxy.config.config import Limits
from fwproxy.connection.connection import ConnectionState

LONG = Limits(idle_timeout=1e6)


@pytest.mark.parametrize("call", ["bind", "redirect"])
async def test_who_has_come_in_time_is_let_in_as_the_permission_expires(call):
    async with open_world(limits=LONG) as world:
        primary, far = await world.primary(), world.listen()
        if call == "bind":
            (made,) = await bind(primary, far.address, flags=F.TIMEOUT)
            address, action = proxy_address(made), made.permission
        else:
            found = await redirect(primary, far.address, flags=F.TIMEOUT)
            address, action = found.internal_address, found.actions[0]
        near = world.arrive(address)
        world.advance(61)
        assert action.close_reason == "used"
        assert await carries(near, await world.accept(far))


async def test_all_of_them_are_where_a_permission_is_for_many():
    async with open_world(limits=LONG) as world:
        primary, far = await world.primary(), world.listen()
        (made,) = await bind(primary, far.address, flags=F.ALLOW_MULTIPLE, backlog=4)
        peers = [world.arrive(proxy_address(made)) for _ in range(3)]
        made.permission.expire()
        assert made.permission.close_reason == "expired"
        assert made.permission.uses == 3
        for peer in peers:
            assert await carries(peer, await world.accept(far))


async def test_nobody_else_is():
    async with open_world(limits=LONG) as world:
        primary, far = await world.primary(), world.listen()
        found = await redirect(primary, far.address, flags=F.TIMEOUT)
        stranger = world.arrive(found.internal_address, OTHER_HOST)
        world.advance(61)
        assert await stranger.is_cut_off()
        assert found.actions[0].close_reason == "expired"
        assert found.actions[0].refused == 1


async def test_nobody_is_who_comes_to_a_port_that_is_taken_away():
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        (made,) = await bind(primary, own())
        server = world.arrive(proxy_address(made))
        made.kill()
        assert await server.is_cut_off()


async def test_a_server_that_came_before_its_session_ended_is_heard():
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        (made,) = await bind(primary, UNKNOWN)
        found = await redirect(primary, made)
        client = await world.connect(found.internal_address)
        await eventually(lambda: made.client_sock)
        server = world.arrive(proxy_address(made))
        primary.session.end("its primary connection has ended")
        await server.send(b"the file")
        server.close()
        assert await client.read_all() == b"the file"


async def test_a_server_that_came_in_vain_hears_no_end_but_a_reset():
    async with open_world(limits=LONG) as world:
        primary, client = await world.primary(), world.add(Mute())
        (made,) = await bind(primary, client.address)
        server = await world.connect(proxy_address(made))
        await eventually(lambda: made.state is ConnectionState.CONNECTING)
        primary.session.end("its primary connection has ended")
        assert await server.is_cut_off()


async def test_a_shared_port_stays_for_who_comes_in_the_last_moment():
    async with open_cluster(settings=shared(linger=30.0), limits=LONG) as world:
        primary, far = await world.primary(), world.listen()
        made = await share(primary, far.address)
        await end(world, primary)
        client = world.arrive(made.proxy_address)
        world.advance(31)
        assert made.action.is_active
        server = await world.accept(far)
        assert await carries(client, server)
        client.close()
        server.close()
        await world.ended()
        world.advance(31)
        assert made.action.close_reason == "expired"


# In the kernel.


@in_own_network
async def test_who_has_come_through_the_kernel_in_time_is_let_in():
    async with kernel_world() as here:
        connection, client = await opened(here, await here.primary(), flags=F.TIMEOUT)
        server = here.arrive(proxy_address(connection))
        here.advance(61)
        assert connection.permission.close_reason == "used"
        assert await carries(server, await here.accept(client))
        assert connection.data_path == "kernel"
