"""Connections that the kernel carries, in a network of the test's own (S12, S17-S38)."""

import functools

import attrs
import pytest
from calls import UNKNOWN, F, bind, carries, is_refused, proxy_address, redirect
from kernel_world import come, elements, opened, path, tables, world
from own_network import FAR, FAR_6, NEAR, NEAR_6, in_own_network, shell
from rig import HOST, Hearing, eventually, free_ports, make_filter, tagger

from fwproxy import Endpoint, IpFilter, Verdict
from fwproxy.engine.kernel import table_settings
from fwproxy.events import AcceptedConnection, ConnectTcp, EstablishedConnection


def is_cut_off(end):
    """Tell whether sending fails, as it does soon after a reset."""
    try:
        end.sock.send(b"still there?")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return False


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
@pytest.mark.parametrize("is_patient", [True, False])
async def test_one_end_may_close_long_before_the_other(monkeypatch, is_patient):
    """Longer before than conntrack remembers the connections of others."""

    def settings(config):
        return attrs.evolve(table_settings(config), patience=None)

    if not is_patient:  # as on kernels that do not know of such time-outs
        monkeypatch.setattr("fwproxy.engine.kernel.table_settings", settings)
    for state in ("fin_wait", "close_wait"):
        shell(f"echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}")
    async with world() as here:
        primary = await here.primary()
        connection, client = await opened(here, primary)
        server, accepted = await come(here, connection, client)
        await eventually(lambda: connection.state.value == "established")
        elsewhere = here.listen()
        other = await here.connect(elsewhere.address)
        for end in (server, other):
            end.half_close()
        known = f"conntrack -L -p tcp --dport {elsewhere.address.port} 2>/dev/null"
        await eventually(lambda: not shell(known))
        if is_patient:
            await accepted.send(b"at last")
            accepted.close()
            assert await server.read_all() == b"at last"
            await eventually(lambda: connection.is_closed)
            assert connection.close_reason == "both ends have closed"
        else:
            await eventually(lambda: connection.is_closed)
            assert connection.close_reason == "conntrack has forgotten the connection"


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
