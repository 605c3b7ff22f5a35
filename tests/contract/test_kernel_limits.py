"""Hosts that cannot carry connections in the kernel, fail to at run time, or are kept busy."""

import asyncio
import re
from pathlib import Path

import pytest
from calls import F, bind, carries, proxy_address, redirect
from kernel_world import auto_world, come, elements, opened, path, world
from own_network import NEAR, in_own_network, shell
from rig import HOST, eventually, probe_config

from fwproxy import Endpoint, Firewall
from fwproxy.config.config import DatapathConfig, Limits, SecondaryConfig
from fwproxy.config.listeners import ListenerConfig, ListenerKind
from fwproxy.errors import ConfigError, KernelPathError

REQUIRED = DatapathConfig(kernel="require")
PLENTY = Limits(
    max_permissions_per_session=1000, max_connections_per_session=1000, idle_timeout=1e6
)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@in_own_network
@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ("capability", "no CAP_NET_ADMIN"),
        ("library", "libnftables.so.none is not installed (nftables)"),
        ("events", "net.netfilter.nf_conntrack_events is 0"),
        ("maps", "no such map"),
    ],
)
async def test_auto_falls_back_and_says_why_and_require_does_not_start(
    monkeypatch, lacking, reason
):
    if lacking == "capability":
        monkeypatch.setattr("fwproxy.datapath.kernel.host.can_administer", lambda: False)
    elif lacking == "library":
        monkeypatch.setattr("fwproxy.datapath.kernel.nft._LIBRARY", "libnftables.so.none")
    elif lacking == "events":
        shell("echo 0 >/proc/sys/net/netfilter/nf_conntrack_events")
    else:

        def refuse(self, commands):
            raise KernelPathError("no such map")

        monkeypatch.setattr("fwproxy.datapath.kernel.nft.Nftables.run", refuse)
    with pytest.raises(ConfigError, match=re.escape(reason)):
        await Firewall(probe_config(kind=ListenerKind.REDIRECT, datapath=REQUIRED)).start()
    async with auto_world() as here:
        primary = await here.primary(source=NEAR)
        client = here.listen(NEAR)
        (connection,) = await bind(primary, client.address)
        assert connection.choice.path.value == "splice"
        assert reason in connection.choice.reason
        assert await carries(*await come(here, connection, client))


@in_own_network
async def test_what_the_kernel_refuses_at_run_time_is_spliced(monkeypatch):
    async with world() as here:
        primary = await here.primary()

        def refuse(self, pinholes):
            raise KernelPathError("no memory")

        with monkeypatch.context() as broken:
            broken.setattr("fwproxy.datapath.kernel.table.KernelTable.open", refuse)
            connection, client = await opened(here, primary)
            server = here.listen()
            made = await redirect(primary, server.address)
        assert (connection.choice.path.value, connection.choice.reason) == ("splice", "no memory")
        assert await carries(*await come(here, connection, client))
        assert made.actions[0].choice.reason == "no memory"
        coming = await here.connect(made.internal_address)
        assert await carries(coming, await here.accept(server))
        again, _ = await opened(here, primary)
        assert again.choice.path.value == "kernel"


@in_own_network
async def test_churn_leaves_nothing():
    """Some pinholes are used, some cancelled, some expire."""
    async with world(secondary=SecondaryConfig(timeout=60), limits=PLENTY) as here:
        primary = await here.primary()
        before = open_files()
        client = here.listen()
        for number in range(300):
            (connection,) = await bind(primary, client.address, flags=F.TIMEOUT)
            assert connection.choice.path.value == "kernel"
            if number % 3 == 0:
                server, accepted = await come(here, connection, client)
                server.close()
                accepted.close()
            elif number % 3 == 1:
                connection.kill()
        here.advance(61)
        await eventually(lambda: path(here).flows == 0)
        assert len(path(here)) == 0
        assert not elements()
        client.close()
        await eventually(lambda: open_files() <= before)


def living(mark):
    """Return what conntrack has of connections that are not over; it remembers all for a while.

    It had better not forget them sooner: the next one may have the same ends, and the client's
    TCP remembers for a minute.
    """
    lines = shell(f"conntrack -L --mark {mark} 2>/dev/null").splitlines()
    return [line for line in lines if " TIME_WAIT " not in line and " CLOSE " not in line]


@in_own_network
async def test_concurrent_churn_leaves_nothing_in_the_process_or_in_the_kernel():
    """Several hundred a second, as many as a machine can; `make bench` has a rate and a minute."""
    async with world(secondary=SecondaryConfig(timeout=60), limits=PLENTY) as here:
        primary = await here.primary()
        before = open_files()
        client, accepting = here.listen(), asyncio.Lock()

        async def churn(worker):
            for number in range(100):
                (connection,) = await bind(primary, client.address, flags=F.TIMEOUT)
                assert connection.choice.path.value == "kernel"
                what = (worker + number) % 4
                if what == 0:
                    connection.kill()
                elif what < 3:  # the client accepts them in the order in which they come
                    server = await here.connect(proxy_address(connection))
                    async with accepting:  # a socket has room for one who waits
                        accepted = await here.accept(client)
                    for end in (server, accepted) if what == 1 else (accepted, server):
                        end.close()

        await asyncio.gather(*(churn(worker) for worker in range(8)))
        here.advance(61)
        await eventually(lambda: path(here).flows == 0)
        assert len(path(here)) == 0
        assert not elements()
        client.close()
        await eventually(lambda: open_files() <= before)
        mark = here.engine.config.datapath.kernel_mark
        await eventually(lambda: not living(mark))


@in_own_network
async def test_no_more_is_given_to_a_conntrack_that_is_nearly_full(monkeypatch):
    """Simulated, as its size is that of all networks of a host together."""
    counts = {"netfilter/nf_conntrack_count": "960", "netfilter/nf_conntrack_max": "1000"}
    async with world() as here:
        primary = await here.primary()
        with monkeypatch.context() as full:
            full.setattr("fwproxy.datapath.kernel.host.setting", lambda name: counts.get(name, ""))
            here.advance(3)
            connection, client = await opened(here, primary)
            assert connection.choice.path.value == "splice"
            assert "conntrack is nearly full" in connection.choice.reason
            assert await carries(*await come(here, connection, client))
        here.advance(3)
        again, _ = await opened(here, primary)
        assert again.choice.path.value == "kernel"


@in_own_network
@pytest.mark.parametrize(
    ("limits", "is_passed"),
    [
        (Limits(), True),
        (Limits(max_connections_per_client=3), False),
        (Limits(connection_rate_per_client=3.0), False),
    ],
)
async def test_nobody_is_let_through_who_has_to_be_counted(logged, limits, is_passed):
    passed = ListenerConfig("passed", Endpoint(HOST), "ftp", ListenerKind.REDIRECT, use_filters=())
    async with world(more=[passed], limits=limits):
        said = [line for line in logged if line.get("listener") == "passed"]
    assert (
        "listener is let through in the kernel" in {line["event"] for line in said}
    ) is is_passed
    assert ("clients have quotas" in {line.get("reason") for line in said}) is not is_passed
