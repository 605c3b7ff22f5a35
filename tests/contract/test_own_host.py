"""What only the proxy's host can reach is not for clients elsewhere, whatever servers name."""

from __future__ import annotations

import pytest
from rig import HOST, Primary, open_world

from fwproxy import Endpoint
from fwproxy.errors import PolicyRulesDeniedError
from fwproxy.flags import SecondaryFlags
from fwproxy.protocol import TCP

ELSEWHERE, SERVER = Endpoint("198.51.100.7"), Endpoint("192.0.2.1", 21)
ANYWHERE = SecondaryFlags.ALLOW_ADDRESSES_ALL
OWN = [HOST, "127.9.9.9", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1"]


def moved(primary: Primary, client: Endpoint, server: Endpoint) -> None:
    """Let the session believe that its ends are elsewhere."""
    primary.session.client_address = client
    primary.connection.server_address = server


@pytest.mark.parametrize("host", OWN)
async def test_a_server_elsewhere_cannot_lead_a_client_elsewhere_to_the_proxys_host(host):
    async with open_world() as world:
        primary = await world.primary()
        moved(primary, ELSEWHERE, SERVER)
        target = Endpoint(host, 6379)
        with pytest.raises(PolicyRulesDeniedError, match="own host"):
            await primary.session.redirect_connections([target], protocol=TCP)
        with pytest.raises(PolicyRulesDeniedError, match="own host"):
            await primary.session.allow_future_connect(target, protocol=TCP, flags=ANYWHERE)
        moved(primary, Endpoint(HOST), primary.connection.server_address)


@pytest.mark.parametrize(
    ("client", "server"), [(ELSEWHERE, Endpoint(HOST, 21)), (Endpoint(HOST), SERVER)]
)
async def test_with_one_of_them_on_that_host_it_may_be(client, server):
    async with open_world() as world:
        primary = await world.primary()
        moved(primary, client, server)
        target = Endpoint(HOST, 6379)
        assert await primary.session.redirect_connections([target], protocol=TCP)
        moved(primary, Endpoint(HOST), server)
