"""S25 and S26 of the filter API: what a client sees as the source, and full proxy mode."""

import socket

import pytest
from calls import F, bind, proxy_address
from rig import HOST, OTHER_HOST, PROBE_DATA, THIRD_HOST, open_world

from fwproxy import ConnectionFlags, Endpoint, IpFilter, SecondaryFlags, Transport
from fwproxy.config.config import SecondaryConfig
from fwproxy.errors import InvalidArgumentError
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule
from fwproxy.ports.sockets import make_transparent

TCP, UDP = Transport.TCP, Transport.UDP
BOTH = pytest.mark.parametrize("transport", [TCP, UDP])
FACING = "127.0.0.77"
"""The proxy's address in the client's network: not the one that its client came to."""
ALLOW = (Rule(allow=True),)
NAT, ROUTE = NetworkRelation.NAT, NetworkRelation.ROUTE


def networks(near=(f"{HOST}/32", f"{FACING}/32"), facing=(FACING,)):
    return (
        Network("near", near, facing),
        Network("far", (f"{OTHER_HOST}/32", f"{THIRD_HOST}/32")),
    )


def may_be_transparent():
    with socket.socket() as sock:
        try:
            make_transparent(sock)
        except OSError:
            return False
    return True


async def seen_source(world, primary, flags, transport, peer=THIRD_HOST):
    """Let a peer come, and return the host that the client sees."""
    client = world.listen() if transport is TCP else world.datagrams()
    (bound,) = await bind(
        primary, client.address, proxy_address=Endpoint(OTHER_HOST), flags=flags,
        transport=transport, ip_filter=IpFilter.only(peer),
    )  # fmt: skip
    if transport is TCP:
        await world.connect(proxy_address(bound), peer)
        return (await world.accept(client)).remote.host
    world.datagrams(peer).send(b"x", proxy_address(bound))
    _, sender = await client.receive()
    return sender.host


@BOTH
@pytest.mark.parametrize("relation", [("near", "far", NAT), ("far", "near", NAT)])
async def test_s25_across_a_nat_the_source_is_the_proxys_address_in_the_clients_network(
    transport, relation
):
    settings = {"networks": networks(), "relations": (Relation(*relation),), "rules": ALLOW}
    async with open_world(**settings) as world:
        primary = await world.primary()
        assert await seen_source(world, primary, F.PROXY_MODE, transport) == FACING
        assert await seen_source(world, primary, F.NONE, transport) == HOST


@BOTH
@pytest.mark.parametrize("relations", [(), (Relation("near", "far", ROUTE),)])
async def test_s25_across_a_routed_relation_it_is_not_translated_so(transport, relations):
    async with open_world(networks=networks(), relations=relations, rules=ALLOW) as world:
        primary = await world.primary()
        assert await seen_source(world, primary, F.PROXY_MODE, transport) == HOST


@BOTH
@pytest.mark.parametrize(
    ("kind", "flags", "seen"),
    [
        (NAT, F.PROXY_MODE, FACING),
        (NAT, F.NONE, THIRD_HOST),
        (ROUTE, F.PROXY_MODE, THIRD_HOST),
        (ROUTE, F.NONE, THIRD_HOST),
    ],
)
async def test_s25_where_peers_are_shown_only_full_proxy_mode_across_a_nat_hides_them(
    transport, kind, flags, seen
):
    if not may_be_transparent():
        pytest.skip("needs CAP_NET_ADMIN")
    settings = {
        "networks": networks(),
        "relations": (Relation("near", "far", kind),),
        "rules": ALLOW,
        "secondary": SecondaryConfig(source="peer"),
    }
    async with open_world(**settings) as world:
        primary = await world.primary()
        assert await seen_source(world, primary, flags, transport) == seen


@pytest.mark.parametrize(
    ("facing", "seen"),
    [
        ((), HOST),
        (("2001:db8::1",), HOST),
        (("2001:db8::1", FACING), FACING),
        ((FACING, HOST), HOST),
    ],
)
async def test_s25_an_address_that_the_client_knows_is_preferred(facing, seen):
    """Of several addresses, or where none of its IP version is configured."""
    near = (f"{HOST}/32", f"{FACING}/32", "2001:db8::/32")
    settings = {"relations": (Relation("near", "far", NAT),), "rules": ALLOW}
    async with open_world(networks=networks(near, facing), **settings) as world:
        primary = await world.primary()
        assert await seen_source(world, primary, F.PROXY_MODE, TCP) == seen


@BOTH
async def test_s26_proxy_mode_needs_a_primary_connection_in_full_proxy_mode(transport):
    async with open_world() as world:
        primary = await world.primary()
        full = ConnectionFlags.INTERNAL_ADDRESS_TRANSLATION
        assert full in primary.connection.connection_flags
        assert primary.session.proxy_mode is F.PROXY_MODE
        assert await bind(primary, flags=F.PROXY_MODE, transport=transport)
        primary.connection._flags &= ~full
        assert primary.session.proxy_mode is F.NONE
        with pytest.raises(InvalidArgumentError, match="this one is not"):
            await bind(primary, flags=F.PROXY_MODE, transport=transport)
        assert await bind(primary, flags=primary.session.proxy_mode, transport=transport)


async def test_s26_without_a_primary_connection_it_is_not_set():
    async with open_world() as world:
        listener = world.firewall.listeners["probe"]
        session = world.firewall.sessions.open(listener, Endpoint(HOST, 5000))
        assert session.proxy_mode is SecondaryFlags.NONE
        with pytest.raises(InvalidArgumentError, match="there is none"):
            await session.bind_for_client(
                [Endpoint(HOST, 5000)], flags=F.PROXY_MODE, protocol=PROBE_DATA
            )
        (connection,) = await session.bind_for_client(
            [Endpoint(HOST, 5000)],
            proxy_address=Endpoint(HOST),
            flags=session.proxy_mode,
            protocol=PROBE_DATA,
        )
        connection.kill()
        session.end("the test is over")
        session.primary = object()
        session._finish()
