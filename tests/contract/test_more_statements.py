"""S42 and S57-S62 of the filter API: what its two pages say besides S01-S41."""

import socket

import pytest
from calls import F, bind, carries, is_refused, own, proxy_address, redirect
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    THIRD_HOST,
    Hearing,
    eventually,
    free_ports,
    open_world,
)

from fwproxy import Endpoint, IpFilter, ListenerKind, Transport
from fwproxy.config.config import SecondaryConfig
from fwproxy.connection.connection import ConnectionState
from fwproxy.listeners import redirect as redirect_listener
from fwproxy.policy.policy import Network, Rule

TCP, UDP = Transport.TCP, Transport.UDP
BOTH = pytest.mark.parametrize("transport", [TCP, UDP])
HOSTS = pytest.mark.parametrize("host", [HOST, "::1"])


def is_bound(address, transport):
    with socket.socket(address.family, transport.socket_type) as sock:
        try:
            sock.bind(address.sockaddr)
        except OSError:
            return True
    return False


@BOTH
@HOSTS
async def test_s42_the_transport_says_what_kind_of_port_is_taken(transport, host):
    pool = SecondaryConfig(ports=free_ports(8))  # where no earlier connection lingers
    async with open_world(host=host, secondary=pool) as world:
        primary = await world.primary()
        other = UDP if transport is TCP else TCP
        (bound,) = await bind(primary, Endpoint(host, 5000), transport=transport)
        redirected = await redirect(primary, Endpoint(host, 5000), transport=transport)
        for address in (proxy_address(bound), redirected.internal_address):
            assert is_bound(address, transport)
            assert not is_bound(address, other)
        assert bound.transport is transport
        assert {entry.transport for entry in world.firewall.ledger} == {transport.value}


@BOTH
async def test_s57_connections_are_of_the_protocol_that_the_call_names(transport):
    async with open_world() as world:
        primary = await world.primary()
        (bound,) = await bind(primary, transport=transport)
        assert (bound.protocol.id, bound.protocol.name) == (PROBE_DATA.id, PROBE_DATA.name)
        assert bound.protocol.transport is transport
        made = await redirect(primary, own(), transport=transport)
        assert made.actions[0].protocol.id == PROBE_DATA.id


@HOSTS
async def test_s58_the_sessions_client_has_an_address_and_no_port(host):
    async with open_world(host=host) as world:
        primary = await world.primary()
        assert primary.session.client_address == primary.client.address.with_port(0)
        assert primary.connection.client_address == primary.client.address


@BOTH
@pytest.mark.parametrize("leaves_from", [OTHER_HOST, THIRD_HOST])
async def test_s59_a_secondary_can_have_the_same_address_as_the_primary(transport, leaves_from):
    """On a multihomed proxy: the server sees one client, not two."""
    async with open_world() as world:
        primary = await world.primary()
        server = world.listen() if transport is TCP else world.datagrams()
        outside = primary.connection.external_socket_name
        assert outside.host == primary.server.remote.host
        for given in (outside.with_port(0), Endpoint(leaves_from)):
            made = await redirect(
                primary, server.address, transport=transport, proxy_external_address=given
            )
            if transport is TCP:
                client = await world.connect(made.internal_address)
                peer = await world.accept(server)
                assert await carries(client, peer)
                assert peer.remote.host == given.host
            else:
                world.datagrams().send(b"x", made.internal_address)
                assert (await server.receive())[1].host == given.host


@BOTH
async def test_s60_what_is_returned_controls_what_results(transport):
    """Each of the N by itself, before and after somebody has come."""
    async with open_world() as world:
        primary = await world.primary()
        end = world.listen() if transport is TCP else world.datagrams()
        first, second = await bind(primary, end.address, end.address, transport=transport)
        first.set_ip_filter(IpFilter.only(OTHER_HOST))
        if transport is TCP:
            assert await is_refused(world, proxy_address(first), THIRD_HOST)
            peer = await world.connect(proxy_address(second), THIRD_HOST)
            client = await world.accept(end)
            assert await carries(peer, client)
        else:
            world.datagrams(THIRD_HOST).send(b"not you", proxy_address(first))
            world.datagrams(THIRD_HOST).send(b"you", proxy_address(second))
            assert (await end.receive())[0] == b"you"
        assert second.state is ConnectionState.ESTABLISHED
        assert second.server_address.host == THIRD_HOST
        second.kill()
        assert first.state is ConnectionState.BOUND
        if transport is TCP:
            assert await peer.is_cut_off()
            assert await client.is_cut_off()


@pytest.mark.parametrize("kind", [ListenerKind.FORWARD, ListenerKind.REDIRECT])
async def test_s61_the_call_is_the_same_whether_the_client_knows_of_the_proxy_or_not(
    kind, monkeypatch
):
    async with open_world(host=OTHER_HOST, kind=kind) as world:
        monkeypatch.setattr(
            redirect_listener, "original_destination", lambda _: world.upstream.address
        )
        primary = await world.primary()
        hearing = Hearing(primary.session)
        client = world.listen(primary.client.address.host)
        (bound,) = await bind(primary, client.address, session_filter=hearing, flags=F.TIMEOUT)
        server = await world.connect(proxy_address(bound))
        assert await carries(server, await world.accept(client))
        assert len(hearing.heard) == 1


@BOTH
async def test_s62_addresses_that_the_flags_allow_are_really_connected_to(transport):
    networks = (Network("near", ("127.0.0.0/16",)), Network("far", ("0.0.0.0/0",)))
    async with open_world(networks=networks, rules=(Rule(allow=True),)) as world:
        primary = await world.primary()
        for flag in (
            F.ALLOW_ADDRESSES_IN_CLASS_C_NETWORK,
            F.ALLOW_ADDRESSES_IN_NETWORK,
            F.ALLOW_ADDRESSES_ALL,
        ):
            end = world.listen(OTHER_HOST) if transport is TCP else world.datagrams(OTHER_HOST)
            (bound,) = await bind(primary, end.address, flags=flag, transport=transport)
            if transport is TCP:
                peer = await world.connect(proxy_address(bound))
                assert await carries(peer, await world.accept(end))
            else:
                world.datagrams().send(b"x", proxy_address(bound))
                assert (await end.receive())[0] == b"x"
            await eventually(lambda bound=bound: bound.state is ConnectionState.ESTABLISHED)
