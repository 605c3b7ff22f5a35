"""Connections that the kernel carries, in a network of the test's own (S12, S17-S38)."""

import asyncio
import contextlib
import functools
import re
from pathlib import Path

import attrs
import pytest
from calls import UNKNOWN, F, bind, bind_udp, carries, is_refused, ports, proxy_address, redirect
from kernel_world import come, elements, opened, path, tables, world
from own_network import FAR, FAR_6, NEAR, NEAR_6, OTHER, in_own_network, shell
from rig import (
    HOST,
    OTHER_HOST,
    THIRD_HOST,
    Hearing,
    eventually,
    free_ports,
    make_filter,
    tagger,
    turns,
)

from fwproxy import Endpoint, IpFilter, Transport, Verdict
from fwproxy.config import DatapathConfig, Limits, SecondaryConfig
from fwproxy.errors import AddressInUseError
from fwproxy.events import AcceptedConnection, ConnectTcp, EstablishedConnection
from fwproxy.kernel_mode import table_settings

UDP = Transport.UDP


def process_namespace():
    return Path("/proc/self/ns/pid").stat().st_ino


def soonest_expiry():
    """Return the milliseconds until the first element of any set expires."""
    found = re.findall(r"expires (?:(\d+)s)?(?:(\d+)ms)?", shell("nft list ruleset"))
    return min(int(seconds or 0) * 1000 + int(rest or 0) for seconds, rest in found)


def is_cut_off(end):
    """Tell whether sending fails, as it does soon after a reset."""
    try:
        end.sock.send(b"still there?")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return False


# The two ways, from the call to the end.


@in_own_network
async def test_s30_a_bind_is_carried_by_the_kernel(logged):
    async with world() as here:
        primary = await here.primary()
        hearing, context = Hearing(primary.session), object()
        connection, client = await opened(
            here, primary, session_filter=hearing, context=context, ip_filter=IpFilter.only(HOST)
        )
        assert connection.choice.path.value == "kernel"
        server, accepted = await come(here, connection, client)
        assert await carries(server, accepted)
        await eventually(lambda: connection.state.value == "established")
        (event,) = hearing.heard
        assert type(event) is EstablishedConnection
        assert event.context is context
        assert (event.client, event.server) == (client.address, server.address)
        assert connection.external_socket_name == proxy_address(connection)
        assert connection.internal_socket_name == accepted.remote
        server.close()
        accepted.close()
        await eventually(lambda: connection.is_closed)
        assert connection.close_reason == "both ends have closed"
        assert not elements()
    (line,) = [each for each in logged if each["event"] == "connection closed"][:1]
    assert (line["path"], line["why"]) == ("kernel", "no data filter")
    assert line["server_bytes"] > line["client_bytes"] > 40
    assert not tables()


@in_own_network
async def test_s39_a_redirection_is_carried_by_the_kernel():
    async with world() as here:
        primary = await here.primary()
        hearing = Hearing(primary.session)
        server = here.listen()
        made = await redirect(primary, server.address, session_filter=hearing)
        assert made.actions[0].choice.path.value == "kernel"
        client = await here.connect(made.internal_address)
        accepted = await here.accept(server)
        assert await carries(client, accepted)
        await eventually(lambda: hearing.heard)
        (event,) = hearing.heard
        assert (event.client, event.server) == (client.address, server.address)
        assert event.connection.data_path == "kernel"
        assert made.actions[0].close_reason == "used"
        accepted.reset()
        await eventually(lambda: event.connection.is_closed)
        assert event.connection.close_reason == "an end has reset the connection"


@in_own_network
@pytest.mark.parametrize(("near", "far"), [(NEAR, FAR), (NEAR_6, FAR_6)])
async def test_s36_the_server_sees_the_external_address_that_was_asked_for(near, far):
    async with world(host=near) as here:
        primary = await here.primary(source=near)
        server = here.listen(far)
        made = await redirect(primary, server.address, proxy_external_address=Endpoint(far))
        assert made.actions[0].choice.path.value == "kernel"
        client = await here.connect(made.internal_address, near)
        accepted = await here.accept(server)
        assert accepted.remote.host == far
        assert await carries(client, accepted)


@in_own_network
async def test_s36_a_source_port_is_for_user_space():
    async with world() as here:
        primary = await here.primary()
        server = here.listen()
        wanted = Endpoint(HOST, free_ports(1).first)
        made = await redirect(primary, server.address, proxy_external_address=wanted)
        assert made.actions[0].choice.reason == "a source port is asked for"
        client = await here.connect(made.internal_address)
        accepted = await here.accept(server)
        assert accepted.remote == wanted
        assert await carries(client, accepted)


# Who may come, how often, and how long.


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


# Ends.


@in_own_network
@pytest.mark.parametrize("how", ["kill", "session"])
async def test_a_killed_connection_stops_at_once(how):
    async with world() as here:
        primary = await here.primary()
        connection, client = await opened(here, primary)
        server, accepted = await come(here, connection, client)
        assert await carries(server, accepted)
        await eventually(lambda: connection.state.value == "established")
        unused, _ = await opened(here, primary)
        if how == "kill":
            connection.kill()
        else:
            primary.session.end("the test says so", at_once=True)
            assert await is_refused(here, proxy_address(unused))
        assert connection.is_closed
        assert not shell("conntrack -L --mark 0x6677 2>/dev/null")
        for end in (server, accepted):
            await eventually(functools.partial(is_cut_off, end))


@in_own_network
async def test_nobody_at_the_clients_end_is_noticed():
    async with world() as here:
        primary = await here.primary()
        (connection,) = await bind(primary, Endpoint(HOST, free_ports(1).first))
        assert await is_refused(here, proxy_address(connection))
        await eventually(lambda: connection.is_closed)
        assert connection.close_reason == "nobody has answered, or refused"


@in_own_network
async def test_a_filter_that_denies_the_establishment_ends_the_connection():
    async with world() as here:
        primary = await here.primary()
        hearing = Hearing(primary.session, Verdict.DENY)
        connection, _ = await opened(here, primary, session_filter=hearing)
        await here.connect(proxy_address(connection))
        await eventually(lambda: connection.is_closed)
        assert connection.close_reason == "denied by a filter"
        assert path(here).flows == 0


# Who wants to see bytes.


@in_own_network
async def test_s32_s33_what_shall_be_seen_stays_in_user_space():
    quiet = make_filter("quiet", lambda event: None, ConnectTcp, associated=[AcceptedConnection])
    async with world(quiet) as here:
        primary = await here.primary()
        heard, client = await opened(here, primary)
        assert heard.choice.reason == "a filter hears AcceptedConnection"
        assert await carries(*await come(here, heard, client))
        server = here.listen()
        wanted = await redirect(primary, server.address, flags=F.NO_KERNEL_MODE)
        assert wanted.actions[0].choice.reason == "NO_KERNEL_MODE"
        free = await redirect(primary, server.address)
        assert free.actions[0].choice.path.value == "kernel"
        primary.session.set_data_filter_factory(ConnectTcp, None, lambda *_: tagger(b"<%b>"))
        filtered = await redirect(primary, server.address)
        assert filtered.actions[0].choice.path.value == "user"


@in_own_network
async def test_s31_a_factory_after_the_call_comes_too_late_and_says_so():
    async with world() as here:
        primary = await here.primary()
        connection, client = await opened(here, primary)
        action = primary.session.set_data_filter_factory(
            AcceptedConnection, None, lambda *_: pytest.fail("too late")
        )
        assert action.missed == (connection.permission,)
        assert await carries(*await come(here, connection, client))


@in_own_network
async def test_s05_an_unknown_client_is_for_user_space():
    async with world() as here:
        primary = await here.primary()
        (connection,) = await bind(primary, UNKNOWN)
        assert connection.choice.reason == "an end of the connection is not known yet"
        client = here.listen()
        connection.set_client_address(client.address)
        assert await carries(*await come(here, connection, client))


# Several ports, and ports that are not to be had.


@in_own_network
async def test_s07_s08_consecutive_ports_each_with_a_client_of_its_own():
    async with world() as here:
        primary = await here.primary()
        clients = [here.listen() for _ in range(4)]
        connections = await bind(primary, *(each.address for each in clients))
        numbers = ports(connections)
        assert numbers[0] % 4 == 0
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        assert elements()["targets4"] == 4
        for connection, client in zip(connections, clients, strict=True):
            assert await carries(*await come(here, connection, client))
        connections[1].kill()
        assert connections[0].is_closed is False


@in_own_network
async def test_s13_a_port_in_use_is_in_use():
    async with world() as here:
        primary = await here.primary()
        taken = here.listen()
        with pytest.raises(AddressInUseError):
            await bind(primary, proxy_address=taken.address)
        assert not elements()


@in_own_network
async def test_the_port_of_a_pinhole_is_nobody_elses():
    async with world() as here:
        primary = await here.primary()
        connection, _ = await opened(here, primary)
        with pytest.raises(AddressInUseError):
            await bind(primary, proxy_address=proxy_address(connection))


@in_own_network
async def test_five_thousand_pinholes_at_once():
    limits = Limits(max_permissions_per_session=6000, max_connections_per_session=6000)
    pool = free_ports(6000)
    async with world(limits=limits, secondary=SecondaryConfig(ports=pool)) as here:
        primary = await here.primary()
        client = here.listen()
        made = []
        for _ in range(50):
            made += await bind(primary, *[client.address] * 100)
        assert elements()["targets4"] == 5000
        assert {each.choice.path.value for each in made} == {"kernel"}
        assert await carries(*await come(here, made[4321], client))
        primary.session.end("the test says so", at_once=True)
        assert set(elements()) <= {"killed4"}


@in_own_network
async def test_more_pinholes_than_the_kernel_may_have_are_spliced():
    datapath = DatapathConfig(kernel="require", max_pinholes=2)
    async with world(datapath=datapath) as here:
        primary = await here.primary()
        made = [await opened(here, primary) for _ in range(3)]
        assert [c.choice.path.value for c, _ in made] == ["kernel", "kernel", "splice"]
        assert made[2][0].choice.reason == "2 pinholes already (max_pinholes)"
        for connection, client in made:
            assert await carries(*await come(here, connection, client))


# Datagrams.


@in_own_network
async def test_s17_datagrams_of_one_source_reach_the_client():
    async with world() as here:
        primary = await here.primary()
        client, server, second = (here.datagrams() for _ in range(3))
        hearing = Hearing(primary.session)
        (connection,) = await bind_udp(primary, client.address, session_filter=hearing)
        assert connection.choice.path.value == "kernel"
        server.send(b"one", proxy_address(connection))
        data, sender = await client.receive()
        assert data == b"one"
        await eventually(lambda: hearing.heard)
        (event,) = hearing.heard
        assert (event.client, event.server) == (client.address, server.address)
        second.send(b"two", proxy_address(connection))
        server.send(b"three", proxy_address(connection))
        assert (await client.receive())[0] == b"three"
        with pytest.raises(PermissionError):  # as for a client on the proxy's own host
            client.send(b"answer", sender)
        await asyncio.sleep(0.05)
        assert server.take() is None
        assert connection.data_path == "kernel"
        connection.kill()
        with pytest.raises(PermissionError):
            server.send(b"four", proxy_address(connection))
        await asyncio.sleep(0.05)
        assert client.take() is None


@in_own_network
async def test_s21_a_bidirectional_bind_lets_the_client_answer():
    async with world() as here:
        primary = await here.primary()
        client, server = here.datagrams(), here.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.BIDIRECTIONAL)
        assert connection.choice.path.value == "kernel"
        server.send(b"one", proxy_address(connection))
        _, sender = await client.receive()
        client.send(b"answer", sender)
        assert await server.receive() == (b"answer", proxy_address(connection))


@in_own_network
async def test_a_redirection_of_datagrams_and_its_answers():
    async with world() as here:
        primary = await here.primary()
        client, server = here.datagrams(), here.datagrams()
        made = await redirect(primary, server.address, transport=UDP)
        assert made.actions[0].choice.path.value == "kernel"
        client.send(b"question", made.internal_address)
        data, sender = await server.receive()
        assert data == b"question"
        server.send(b"answer", sender)
        assert await client.receive() == (b"answer", made.internal_address)
        made.actions[0].cancel()
        await turns()
        assert not {name for name in elements() if not name.startswith("killed")}


@in_own_network
async def test_s19_a_source_that_rests_may_come_again_until_it_was_idle_for_too_long():
    async with world(secondary=SecondaryConfig(timeout=60)) as here:
        primary = await here.primary()
        client, server = here.datagrams(), here.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.TIMEOUT)
        server.send(b"one", proxy_address(connection))
        await client.receive()
        await eventually(lambda: connection.kernel_flow)
        first = connection.kernel_flow
        shell("conntrack -D -p udp >/dev/null 2>&1")  # as if it had rested for long
        await eventually(lambda: first.is_closed)
        assert not connection.is_closed
        server.send(b"again", proxy_address(connection))
        assert (await client.receive())[0] == b"again"
        await eventually(lambda: connection.kernel_flow is not first)
        here.advance(61)  # what has come since conntrack was asked last is heard of now
        here.advance(61)
        assert connection.close_reason == "idle"
        assert connection.server_bytes == len(b"oneagain") + 2 * 28
        assert not {name for name in elements() if not name.startswith("killed")}


@in_own_network
async def test_datagrams_of_several_sources_are_for_user_space():
    async with world() as here:
        primary = await here.primary()
        client = here.datagrams()
        (connection,) = await bind_udp(primary, client.address, flags=F.ALLOW_MULTIPLE)
        assert connection.choice.reason == "datagrams of several sources"
        for text in (b"one", b"two"):
            here.datagrams().send(text, proxy_address(connection))
            assert (await client.receive())[0] == text


# Others who change nftables and conntrack.


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

    monkeypatch.setattr("fwproxy.kernel_mode.table_settings", settings)
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
async def test_lost_events_are_made_up_for():
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


@in_own_network
async def test_two_proxies_in_one_network_do_not_meddle():
    async with world() as one, world() as other:
        assert len(tables()) == 2
        first, second = await one.primary(), await other.primary()
        for here, primary in ((one, first), (other, second)):
            connection, client = await opened(here, primary)
            assert await carries(*await come(here, connection, client))
            assert path(here).flows == 1


# What the configuration wants.


@in_own_network
@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_loopback_is_not_worth_conntrack_unless_it_is_required(mode):
    async with world(datapath=DatapathConfig(kernel=mode)) as here:
        assert path(here) is None
        assert not tables()


@in_own_network
@pytest.mark.parametrize(
    ("policy", "rule"), [("drop", "ct mark 1 accept"), ("accept", "reject"), ("accept", "jump one")]
)
async def test_a_chain_that_may_drop_what_is_forwarded_keeps_auto_in_user_space(
    logged, policy, rule
):
    chain = f"type filter hook forward priority 0; policy {policy};"
    shell("nft 'add table inet strict; add chain inet strict one'")
    shell(f"nft 'add chain inet strict forwarded {{ {chain} }}'")
    shell(f"nft 'add rule inet strict forwarded {rule}'")
    async with world(datapath=DatapathConfig(kernel="auto"), host=NEAR) as here:
        primary = await here.primary(source=NEAR)
        client = here.listen(NEAR)
        (connection,) = await bind(primary, client.address)
        assert "inet strict forwarded may drop what is forwarded" in connection.choice.reason
        assert await carries(*await come(here, connection, client))
    async with world(host=NEAR) as here:
        primary = await here.primary(source=NEAR)
        client = here.listen(NEAR)
        (connection,) = await bind(primary, client.address)
        assert connection.choice.path.value == "kernel"
    assert "connections may be dropped" in [line["event"] for line in logged]


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
