"""S16-S24 of the filter API: how long what `bind_for_client` has bound lives, and for whom."""

import socket

import pytest
from calls import (
    F,
    bind,
    bind_udp,
    carries,
    is_refused,
    own,
    proxy_address,
    redirect,
)
from rig import (
    HOST,
    OTHER_HOST,
    THIRD_HOST,
    closing,
    eventually,
    free_ports,
    leftovers,
    open_world,
    turns,
)

from fwproxy import IpFilter, Transport
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy.connection.connection import ConnectionState
from fwproxy.errors import InvalidArgumentError
from fwproxy.secondary import call as secondary

LONG = Limits(idle_timeout=1e6)
"""So that no idle session ends while a permission is waited for."""
HOUR = 3600
BOTH = pytest.mark.parametrize("transport", list(Transport))


@BOTH
async def test_s16_timeout_and_allow_multiple_exclude_each_other_for_bind_only(transport):
    flags = F.TIMEOUT | F.ALLOW_MULTIPLE
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(InvalidArgumentError, match="TIMEOUT and ALLOW_MULTIPLE"):
            await bind(primary, transport=transport, flags=flags)
        assert await redirect(primary, world.upstream.address, transport=transport, flags=flags)


async def test_s17_a_second_connection_is_refused():
    async with open_world() as world:
        primary = await world.primary()
        listener = world.listen()
        (connection,) = await bind(primary, listener.address, backlog=5)
        address = proxy_address(connection)
        server = await world.connect(address)
        assert await carries(server, await world.accept(listener))
        assert await is_refused(world, address)
        assert connection.state is ConnectionState.ESTABLISHED


def is_gone(sock):
    """Tell whether the peer has closed or reset a connection that said nothing."""
    try:
        return not sock.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_s17_those_who_waited_beside_the_first_are_refused_too():
    """They were in the kernel's queue before the proxy looked."""
    async with open_world() as world:
        primary = await world.primary()
        listener = world.listen()
        (connection,) = await bind(primary, listener.address, backlog=5)
        address = proxy_address(connection).sockaddr
        servers = [socket.create_connection(address) for _ in range(3)]
        with closing(*servers):
            client = await world.accept(listener)
            await eventually(lambda: connection.state is ConnectionState.ESTABLISHED)
            await eventually(lambda: [is_gone(server) for server in servers].count(True) == 2)
        assert await client.read_all() == b""


async def test_s17_allow_multiple_serves_many_at_a_time():
    async with open_world() as world:
        primary = await world.primary()
        listener = world.listen()
        (bound,) = await bind(primary, listener.address, flags=F.ALLOW_MULTIPLE, backlog=5)
        for _ in range(3):
            server = await world.connect(proxy_address(bound))
            assert await carries(server, await world.accept(listener))
        assert bound.state is ConnectionState.BOUND
        (entry,) = world.firewall.ledger
        assert entry.uses == 3
        assert len(primary.session.connections) == 5


async def test_s17_allow_multiple_keeps_to_the_sessions_connections():
    limits = Limits(max_connections_per_session=3)
    async with open_world(limits=limits) as world:
        primary = await world.primary()
        listener = world.listen()
        (bound,) = await bind(primary, listener.address, flags=F.ALLOW_MULTIPLE, backlog=5)
        server = await world.connect(proxy_address(bound))
        client = await world.accept(listener)
        assert await carries(server, client)
        assert await is_refused(world, proxy_address(bound))
        server.close()
        client.close()
        await eventually(lambda: len(primary.session.connections) == 2)
        again = await world.connect(proxy_address(bound))
        assert await carries(again, await world.accept(listener))


async def test_s17_a_second_source_of_datagrams_is_refused():
    async with open_world() as world:
        primary = await world.primary()
        client, first, second = (world.datagrams() for _ in range(3))
        (connection,) = await bind_udp(primary, client.address)
        first.send(b"first", proxy_address(connection))
        assert (await client.receive())[0] == b"first"
        second.send(b"second", proxy_address(connection))
        first.send(b"third", proxy_address(connection))
        assert (await client.receive())[0] == b"third"
        assert connection.server_address == first.address


async def test_s17_allow_multiple_takes_many_sources_of_datagrams():
    limits = Limits(max_peers_per_connection=2)
    async with open_world(limits=limits) as world:
        primary = await world.primary()
        client = world.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.ALLOW_MULTIPLE)
        for name in (b"one", b"two"):
            world.datagrams().send(name, proxy_address(connection))
            assert (await client.receive())[0] == name
        world.datagrams().send(b"three", proxy_address(connection))
        await eventually(lambda: connection._relay.dropped == 1)
        assert client.take() is None


async def test_s18_a_listener_closes_after_a_minute_without_an_accept():
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        first, second = await bind(primary, own(5000), own(5001), flags=F.TIMEOUT)
        world.advance(59)
        assert first.state is second.state is ConnectionState.BOUND
        assert [entry.expires_in for entry in world.firewall.ledger] == pytest.approx([1, 1], abs=1)
        world.advance(2)
        assert first.close_reason == second.close_reason == "expired"
        assert await is_refused(world, proxy_address(first))
        assert world.engine.ports.in_use == 0


async def test_s18_an_accepted_connection_is_unaffected():
    async with open_world(limits=LONG, secondary=SecondaryConfig(timeout=5)) as world:
        primary = await world.primary()
        listener = world.listen()
        (connection,) = await bind(primary, listener.address, flags=F.TIMEOUT)
        server = await world.connect(proxy_address(connection))
        client = await world.accept(listener)
        assert await carries(server, client)
        world.advance(HOUR)
        assert await carries(server, client)


async def test_s19_datagrams_expire_when_idle_and_not_at_an_age():
    async with open_world(limits=LONG, secondary=SecondaryConfig(timeout=1000)) as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.TIMEOUT)
        world.advance(900)
        server.send(b"still there", proxy_address(connection))
        await client.receive()
        world.advance(900)
        assert connection.state is ConnectionState.ESTABLISHED
        world.advance(200)
        assert connection.close_reason == "idle"
        assert world.engine.ports.in_use == 0


async def test_s19_datagrams_expire_when_nobody_ever_came():
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        (connection,) = await bind_udp(primary, flags=F.TIMEOUT)
        world.advance(61)
        assert connection.close_reason == "idle"


@BOTH
async def test_s20_without_a_time_out_each_lives_until_it_is_killed(transport):
    async with open_world(limits=LONG) as world:
        primary = await world.primary()
        made = await bind(primary, own(5000), own(5001), own(5002), transport=transport)
        world.advance(24 * HOUR)
        assert [connection.state for connection in made] == [ConnectionState.BOUND] * 3
        made[1].kill()
        made[1].kill()
        assert made[1].close_reason == "killed"
        assert [made[0].state, made[2].state] == [ConnectionState.BOUND] * 2
        assert world.engine.ports.in_use == len(world.engine.ledger) == 2
        if transport is Transport.TCP:
            assert await is_refused(world, proxy_address(made[1]))


@BOTH
async def test_s20_cancelling_the_permission_is_killing_what_waits(transport):
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary, transport=transport)
        assert connection.permission.cancel()
        assert not connection.permission.cancel()
        assert connection.close_reason == "cancelled"
        assert world.engine.ports.in_use == 0


async def test_s20_killing_an_established_connection_cuts_both_ends_off():
    async with open_world() as world:
        primary = await world.primary()
        listener = world.listen()
        (connection,) = await bind(primary, listener.address)
        server = await world.connect(proxy_address(connection))
        client = await world.accept(listener)
        assert await carries(server, client)
        connection.kill()
        assert await server.is_cut_off()
        assert await client.is_cut_off()


@BOTH
async def test_the_end_of_the_session_ends_what_it_has_bound(transport):
    async with open_world() as world:
        primary = await world.primary()
        made = await bind(primary, own(5000), own(5001), transport=transport)
        primary.client.close()
        primary.server.close()
        await world.ended()
        assert {connection.state for connection in made} == {ConnectionState.CLOSED}
        assert not leftovers(world.firewall)


async def test_s21_bidirectional_is_for_datagrams_only():
    async with open_world() as world:
        primary = await world.primary()
        with pytest.raises(InvalidArgumentError, match="UDP only"):
            await bind(primary, flags=F.BIDIRECTIONAL)


@pytest.mark.parametrize("flags", [F.NONE, F.BIDIRECTIONAL])
async def test_s21_only_bidirectional_lets_the_client_answer_who_has_sent(flags):
    async with open_world() as world:
        primary = await world.primary()
        client, server, other = (world.datagrams() for _ in range(3))
        (connection,) = await bind_udp(primary, client.address, flags=flags)
        server.send(b"question", proxy_address(connection))
        _, sender = await client.receive()
        client.send(b"answer", sender)
        if flags:
            assert await server.receive() == (b"answer", proxy_address(connection))
        else:
            await eventually(lambda: connection._relay.dropped)
            assert server.take() is None
        assert other.take() is None


async def test_s22_the_receive_buffer_is_64_kib_and_never_less_than_before():
    def size(connection):
        sock = connection._relay.sock
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # socket(7): doubled

    async with open_world() as world:
        primary = await world.primary()
        (plain,) = await bind_udp(primary)
        (increased,) = await bind_udp(primary, flags=F.INCREASE_RECEIVE_BUFFER)
        assert size(increased) == max(64 * 1024, size(plain))


def test_s22_a_small_buffer_becomes_64_kib():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        secondary.increase_receive_buffer(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 64 * 1024


@pytest.mark.parametrize("backlog", [0, 1, 17])
async def test_s23_the_backlog_reaches_listen_unchanged(monkeypatch, backlog):
    heard = []
    listen = socket.socket.listen
    async with open_world(secondary=SecondaryConfig(ports=free_ports(2, align=2))) as world:
        primary = await world.primary()
        with monkeypatch.context() as patch:
            patch.setattr(
                socket.socket, "listen", lambda sock, n: (heard.append(n), listen(sock, n))
            )
            await bind(primary, own(5000), own(5001), backlog=backlog)
    assert heard == [backlog] * 2


async def test_s24_another_host_that_is_faster_is_refused_and_the_right_one_gets_in():
    async with open_world() as world:
        primary = await world.primary()
        listeners = [world.listen() for _ in range(2)]
        clients = [listener.address for listener in listeners]
        made = await bind(primary, *clients, ip_filter=IpFilter.only(THIRD_HOST), flags=F.TIMEOUT)
        for connection, listener in zip(made, listeners, strict=True):
            for _ in range(3):
                assert await is_refused(world, proxy_address(connection), OTHER_HOST)
            assert connection.state is ConnectionState.BOUND
            assert connection.permission.refused == 3
            server = await world.connect(proxy_address(connection), THIRD_HOST)
            assert await carries(server, await world.accept(listener))


async def test_s24_another_hosts_datagrams_are_not_heard():
    async with open_world() as world:
        primary = await world.primary()
        client, server, stranger = (world.datagrams(h) for h in (HOST, THIRD_HOST, OTHER_HOST))
        only = IpFilter.only(THIRD_HOST)
        (connection,) = await bind_udp(primary, client.address, ip_filter=only)
        stranger.send(b"race", proxy_address(connection))
        await eventually(lambda: connection._relay.dropped == 1)
        server.send(b"mine", proxy_address(connection))
        assert (await client.receive())[0] == b"mine"


async def test_s24_no_filter_is_everybody_and_an_empty_one_nobody():
    async with open_world() as world:
        primary = await world.primary()
        listener = world.listen()
        (nobody,) = await bind(primary, listener.address, ip_filter=IpFilter())
        (everybody,) = await bind(primary, listener.address, ip_filter=None)
        assert await is_refused(world, proxy_address(nobody))
        server = await world.connect(proxy_address(everybody), OTHER_HOST)
        assert await carries(server, await world.accept(listener))


@BOTH
async def test_s24_the_filter_can_be_changed_while_nobody_has_come(transport):
    async with open_world() as world:
        primary = await world.primary()
        (connection,) = await bind(primary, transport=transport, ip_filter=IpFilter())
        connection.set_ip_filter(IpFilter.only(OTHER_HOST))
        assert connection.ip_filter == IpFilter.only(OTHER_HOST)
        (entry,) = world.firewall.ledger
        assert entry.peers == OTHER_HOST
        if transport is Transport.TCP:
            assert await is_refused(world, proxy_address(connection), THIRD_HOST)
            assert connection.permission.uses == 0
            assert await is_refused(world, proxy_address(connection), OTHER_HOST)  # no client
            assert connection.permission.uses == 1
        else:
            world.datagrams(OTHER_HOST).send(b"x", proxy_address(connection))
            await eventually(lambda: connection.server_bytes == 1)


async def test_s24_the_filter_is_about_servers_and_the_flags_are_about_clients():
    async with open_world() as world:
        primary = await world.primary()
        listener = world.listen(THIRD_HOST)
        (connection,) = await bind(
            primary,
            listener.address,
            flags=F.ALLOW_ADDRESSES_ALL,
            ip_filter=IpFilter.only(OTHER_HOST),
        )
        assert await is_refused(world, proxy_address(connection), HOST)
        server = await world.connect(proxy_address(connection), OTHER_HOST)
        assert await carries(server, await world.accept(listener))


async def test_a_client_that_does_not_listen_ends_the_connection():
    async with open_world() as world:
        primary = await world.primary()
        listener = world.listen()
        address = listener.address
        listener.close()
        (connection,) = await bind(primary, address)
        assert await is_refused(world, proxy_address(connection))
        assert "cannot be reached" in connection.close_reason
        await turns()
        assert primary.session in world.sessions


async def test_the_client_is_connected_to_from_the_address_that_it_knows():
    async with open_world() as world:
        primary = await world.primary(source=OTHER_HOST)
        listener = world.listen(OTHER_HOST)
        (connection,) = await bind(primary, listener.address)
        await world.connect(proxy_address(connection))
        client = await world.accept(listener)
        assert client.remote.host == primary.client.remote.host == HOST
