"""What conntrack has said is heard late, or not at all: nothing is taken for something else."""

import pytest
from calls import carries, proxy_address
from kernel_world import opened, path, world
from own_network import in_own_network
from rig import Hearing, eventually


@in_own_network
async def test_who_has_come_through_a_pinhole_that_is_gone_is_not_taken_for_the_next_ones():
    async with world() as here:
        primary = await here.primary()
        first, early = await opened(here, primary)
        address = proxy_address(first)
        late = here.arrive(address)
        first.kill()
        second, client = await opened(here, primary, proxy_address=address)
        await eventually(lambda: not path(here)._events._take(1))
        assert second.permission.is_active
        assert await carries(here.arrive(address), await here.accept(client))
        with pytest.raises(ConnectionError):
            await carries(late, await here.accept(early))


@in_own_network
async def test_a_connection_that_both_have_closed_was_one_also_if_that_was_not_heard():
    async with world() as here:
        primary = await here.primary()
        hearing = Hearing(primary.session)
        connection, client = await opened(here, primary, session_filter=hearing)
        server = here.arrive(proxy_address(connection))
        events = path(here)._events
        events._take(1)  # that there is somebody
        events._sock.recv(1 << 16)  # that he was answered: as if it were lost
        end = await here.accept(client)
        assert not hearing.heard
        server.close()
        end.close()
        await eventually(lambda: connection.is_closed)
        assert connection.close_reason == "both ends have closed"
        assert len(hearing.heard) == 1
