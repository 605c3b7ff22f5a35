"""S12 of the filter API: the address that is bound may be the client's own, in a routed network.

That packets really come to it is shown in namespaces, by `tests/system/test_routed_network.py`.
"""

import contextlib
import os

import pytest
from calls import F, ports
from rig import HOST, PROBE_DATA, open_world
from test_proxy_mode import may_be_transparent

from fwproxy import Endpoint, Transport
from fwproxy.errors import (
    AddressNotAllowedError,
    AddressNotAvailableError,
    NetworkRulesDeniedError,
)
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule
from fwproxy.ports import sockets as port_sockets

BOTH = pytest.mark.parametrize("transport", list(Transport))
CLIENTS = pytest.mark.parametrize("client", ["192.0.2.8", "2001:db8:1::8"])
NEEDS_RIGHTS = pytest.mark.skipif(not may_be_transparent(), reason="needs CAP_NET_ADMIN")


@contextlib.contextmanager
def session_of(world, client):
    """A session of a client that is not on this computer."""
    listener = world.firewall.listeners["probe"]
    session = world.firewall.sessions.open(listener, Endpoint(client, 5000))
    try:
        yield session
    finally:
        session.end("the test is over", at_once=True)
        session.primary = object()
        session._finish()


async def bind(session, *clients, proxy, **settings):
    return await session.bind_for_client(
        list(clients), proxy_address=proxy, protocol=PROBE_DATA, **settings
    )


@NEEDS_RIGHTS
@BOTH
@CLIENTS
async def test_s12_the_clients_own_address_is_bound_without_one_of_the_proxy(transport, client):
    async with open_world() as world:
        with session_of(world, client) as session:
            clients = [Endpoint(client, 5000), Endpoint(client, 7000)]
            made = await bind(session, *clients, proxy=Endpoint(client), transport=transport)
            lowest = ports(made)[0]
            assert [each.proxy_address for each in made] == [
                Endpoint(client, lowest),
                Endpoint(client, lowest + 1),
            ]
            assert lowest % 2 == 0


@NEEDS_RIGHTS
@BOTH
async def test_s12_even_the_clients_own_port_may_be_bound(transport):
    async with open_world() as world:
        own = Endpoint("192.0.2.8", 5000)
        with session_of(world, own.host) as session:
            (made,) = await bind(session, own, proxy=own, transport=transport)
            assert made.proxy_address == own


@NEEDS_RIGHTS
async def test_s12_reserved_ports_can_be_used_there():
    async with open_world() as world:
        kept = world.firewall.reserve_ports(1)
        own = Endpoint("192.0.2.8", 5000)
        with session_of(world, own.host) as session:
            (made,) = await bind(session, own, proxy=own.with_port(0), reserved=kept)
            assert made.proxy_address == own.with_port(kept.first)


@BOTH
async def test_s12_without_the_right_to_it_the_address_is_not_available(transport, monkeypatch):
    def refuse(sock):
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(port_sockets, "make_transparent", refuse)
    async with open_world() as world:
        own = Endpoint("192.0.2.8", 5000)
        with session_of(world, own.host) as session:
            with pytest.raises(AddressNotAvailableError, match="needs CAP_NET_ADMIN"):
                await bind(session, own, proxy=own.with_port(0), transport=transport)
            assert not session.connections
            assert world.engine.ports.in_use == 0


@BOTH
@pytest.mark.parametrize("flags", [F.NONE, F.ALLOW_ADDRESSES_ALL])
async def test_s12_another_hosts_address_is_still_not_available(transport, flags):
    """Only those of the clients that the call names: a filter cannot speak for anybody."""
    async with open_world() as world:
        own, other = Endpoint("192.0.2.8", 5000), Endpoint("192.0.2.9")
        with session_of(world, own.host) as session:
            with pytest.raises(AddressNotAvailableError, match="Cannot assign"):
                await bind(session, own, proxy=other, transport=transport, flags=flags)
            with pytest.raises(AddressNotAllowedError):
                await bind(session, other.with_port(5000), proxy=other, transport=transport)


@BOTH
@pytest.mark.parametrize(
    ("relations", "routed"),
    [
        ((), False),
        ((Relation("near", "far", NetworkRelation.NAT),), False),
        ((Relation("far", "near", NetworkRelation.NAT),), False),
        ((Relation("near", "far", NetworkRelation.ROUTE),), True),
        ((Relation("far", "near", NetworkRelation.ROUTE),), True),
    ],
)
async def test_s12_is_for_routed_networks(transport, relations, routed):
    networks = (Network("near", ("192.0.2.0/24",)), Network("far", ("127.0.0.0/8",)))
    rules = (Rule(allow=True),)
    async with open_world(networks=networks, relations=relations, rules=rules) as world:
        primary = await world.primary()
        primary.session.client_address = Endpoint("192.0.2.8")
        own = Endpoint("192.0.2.8", 5000)
        try:
            if not routed:
                with pytest.raises(NetworkRulesDeniedError, match=r"not route|does not publish"):
                    await bind(primary.session, own, proxy=own, transport=transport)
            elif may_be_transparent():
                assert await bind(primary.session, own, proxy=own, transport=transport)
        finally:
            primary.session.client_address = Endpoint(HOST)


async def test_s12_a_client_on_this_computer_is_no_foreigner():
    async with open_world() as world:
        primary = await world.primary()
        (made,) = await bind(primary.session, Endpoint(HOST, 5000), proxy=Endpoint(HOST))
        assert made.proxy_address.host == HOST
