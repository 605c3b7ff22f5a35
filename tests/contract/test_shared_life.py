"""S64 and S69 of the filter API: how long a shared port stays, and how many there may be."""

import socket

import attrs
import pytest
from calls import carries
from clusters import LOOPBACK, NAME, end, open_cluster, share, shared
from rig import HOST, PROBE_DATA, free_ports

from fwproxy import HostName, Transport
from fwproxy.config.config import Limits
from fwproxy.config.shared import SharedConfig, SharedTarget
from fwproxy.errors import (
    AddressInUseError,
    AddressNotAvailableError,
    InvalidArgumentError,
    PortsExhaustedError,
    QuotaError,
    TerminatingError,
)

LONG = Limits(idle_timeout=1e6)


async def test_s64_it_stays_while_anybody_who_asked_for_it_lives_and_a_while_longer():
    async with open_cluster(settings=shared(linger=30.0), limits=LONG) as world:
        first, second = await world.primary(), await world.primary()
        server = world.listen()
        made = await share(first, server.address)
        await share(second, server.address)
        await end(world, first)
        world.advance(1000)
        assert made.action.is_active
        await end(world, second)
        world.advance(29)
        assert made.action.is_active
        world.advance(2)
        assert made.action.close_reason == "expired"


async def test_s64_after_that_it_is_closed_and_opened_anew_at_the_same_port():
    async with open_cluster(settings=shared(linger=30.0), limits=LONG) as world:
        first = await world.primary()
        server = world.listen()
        made = await share(first, server.address)
        await end(world, first)
        world.advance(31)
        assert made.action.close_reason == "expired"
        assert not len(world.engine.ledger)
        assert not len(world.engine.shared)
        with pytest.raises(ConnectionRefusedError):
            await world.connect(made.proxy_address)
        again = await share(await world.primary(), server.address)
        assert again.proxy_address == made.proxy_address
        assert again.action is not made.action
        again.action.cancel()


async def test_s64_a_connection_through_it_keeps_it_and_a_new_user_saves_it():
    async with open_cluster(settings=shared(linger=30.0), limits=LONG) as world:
        first = await world.primary()
        server = world.listen()
        made = await share(first, server.address)
        client = await world.connect(made.proxy_address)
        far = await world.accept(server)
        assert await carries(client, far)
        await end(world, first)
        world.advance(1000)
        assert made.action.is_active
        client.close()
        far.close()
        await world.ended()
        world.advance(20)
        late = await world.connect(made.proxy_address)
        other = await world.accept(server)
        assert await carries(late, other)
        world.advance(20)
        assert made.action.is_active
        late.close()
        other.close()
        await world.ended()
        world.advance(31)
        assert not made.action.is_active


async def test_s69_the_ledger_has_one_entry_for_all():
    async with open_cluster() as world:
        primaries = [await world.primary() for _ in range(2)]
        for primary in primaries:
            made = await share(primary, NAME)
        (entry,) = world.firewall.ledger
        assert entry.session == primaries[0].session.id
        assert entry.listener == "probe"
        assert entry.protocol == PROBE_DATA.name
        assert entry.target == "one.cluster:9092"
        assert entry.proxy_address == str(made.proxy_address)
        assert entry.peers is None
        assert entry.expires_in is None
        assert not primaries[0].session.permissions


async def test_s69_cancelling_it_closes_the_port_and_leaves_who_has_come():
    async with open_cluster() as world:
        primary = await world.primary()
        server = world.listen()
        made = await share(primary, server.address)
        client = await world.connect(made.proxy_address)
        far = await world.accept(server)
        assert made.action.cancel()
        with pytest.raises(ConnectionRefusedError):
            await world.connect(made.proxy_address)
        assert await carries(client, far)
        again = await share(primary, server.address)
        assert again.proxy_address == made.proxy_address


async def test_s69_the_number_is_bounded_and_what_nobody_uses_makes_room():
    limits = Limits(max_shared_redirections=2, idle_timeout=1e6)
    async with open_cluster(settings=shared(linger=1e6), limits=limits) as world:
        leaving = await world.primary()
        old, older = [await share(leaving, HostName(f"{n}.cluster", 1)) for n in "ab"]
        staying = await world.primary()
        with pytest.raises(QuotaError, match="max_shared_redirections"):
            await share(staying, HostName("c.cluster", 1))
        await share(staying, HostName("a.cluster", 1))
        await end(world, leaving)
        await share(staying, HostName("c.cluster", 1))
        assert old.action.is_active
        assert older.action.close_reason == "another one needs its place"
        with pytest.raises(QuotaError):
            await share(staying, HostName("d.cluster", 1))
        for port in world.engine.shared:
            port.close("the test is over")


async def test_s69_a_range_that_is_used_up():
    async with open_cluster(settings=shared(2)) as world:
        primary = await world.primary()
        made = [await share(primary, HostName(f"{n}.cluster", 1)) for n in "ab"]
        with pytest.raises(PortsExhaustedError, match=r"shared\.ports"):
            await share(primary, HostName("c.cluster", 1))
        made[0].action.cancel()
        assert await share(primary, HostName("c.cluster", 1))


async def test_s69_another_program_has_the_port():
    block = free_ports(2)
    settings = SharedConfig(
        ports=block, linger=0.0, allow=(LOOPBACK,), targets=(SharedTarget(NAME, block.first),)
    )
    async with open_cluster(settings=settings) as world:
        primary = await world.primary()
        world.add(socket.create_server((HOST, block.first)))
        with pytest.raises(AddressInUseError):  # a configured port has no substitute
            await share(primary, NAME)
        made = await share(primary, HostName("two.cluster", 1))
        assert made.proxy_address.port == block.last
        made.action.cancel()
        world.add(socket.create_server((HOST, block.last)))
        with pytest.raises(PortsExhaustedError):
            await share(primary, HostName("two.cluster", 1))
        assert not len(world.engine.ledger)


async def test_s69_want_of_descriptors_shares_nothing(monkeypatch):
    async with open_cluster() as world:
        primary = await world.primary()

        def exhausted(*_, **__):
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(world.engine.poller, "open_socket", exhausted)
            with pytest.raises(AddressNotAvailableError, match="Too many open files"):
                await share(primary, NAME)
        watch = world.engine.poller.watch

        with monkeypatch.context() as patch:
            patch.setattr(world.engine.poller, "watch", exhausted)
            with pytest.raises(OSError, match="Too many open files"):
                await share(primary, NAME)
        assert world.engine.poller.watch == watch
        assert not len(world.engine.ledger)
        assert not len(world.engine.shared)
        assert await share(primary, NAME)


async def test_s69_the_stop_of_the_firewall_closes_them():
    async with open_cluster(settings=shared(linger=1e6)) as world:
        made = await share(await world.primary(), NAME)
        await world.firewall.stop(0)
        assert made.action.close_reason == "the proxy is stopped"
        with pytest.raises(ConnectionRefusedError):
            await world.connect(made.proxy_address)


async def test_s69_arguments_that_make_no_sense():
    async with open_cluster() as world:
        primary = await world.primary()
        with pytest.raises(InvalidArgumentError, match="needs a port"):
            await share(primary, HostName("one.cluster", 0))
        udp = attrs.evolve(PROBE_DATA, transport=Transport.UDP)
        with pytest.raises(InvalidArgumentError, match="for TCP"):
            await share(primary, NAME, protocol=udp)
        await end(world, primary)
        with pytest.raises(TerminatingError):
            await share(primary, NAME)
