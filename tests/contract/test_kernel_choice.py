"""Whether the kernel carries connections: what the configuration wants and the host grants."""

import pytest
from calls import F, bind, redirect
from kernel_world import path, tables, world
from own_network import NEAR, OTHER, in_own_network, shell

from fwproxy import Endpoint, IpFilter
from fwproxy.config.config import DatapathConfig


@in_own_network
@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_loopback_is_not_worth_conntrack_unless_it_is_required(mode):
    async with world(datapath=DatapathConfig(kernel=mode)) as here:
        assert path(here) is None
        assert not tables()


@in_own_network
async def test_what_must_be_forwarded_is_spliced_where_nothing_is():
    async with world(host=NEAR) as here:
        primary = await here.primary(source=NEAR)
        target = Endpoint("198.51.100.9", 5000)
        made = await redirect(primary, target, flags=F.TIMEOUT)
        # The client is on this host, so that nothing has to be forwarded.
        assert "198.51.100.9" in made.actions[0].choice.reason
        shell("ip route add 198.51.100.0/24 dev lo")
        made = await redirect(primary, target, flags=F.TIMEOUT)
        assert made.actions[0].choice.path.value == "kernel"
        (connection,) = await bind(
            primary, Endpoint("198.51.100.9", 5000), flags=F.ALLOW_ADDRESSES_ALL,
            ip_filter=IpFilter.only("203.0.113.1"),
        )  # fmt: skip
        assert connection.choice.reason == "ipv4.ip_forward is off"
        assert here.address.host != OTHER
