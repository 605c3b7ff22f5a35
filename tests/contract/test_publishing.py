"""Publishing rules: clients from outside of the NAT, and whom the server behind it sees."""

import contextlib
import os

import pytest
from calls import F, bind, carries, is_refused, redirect
from rig import HOST, OTHER_HOST, THIRD_HOST, Upstream, closing, open_world
from test_proxy_mode import may_be_transparent

from fwproxy import ConnectionFlags, Endpoint, SecondaryFlags, Transport
from fwproxy.datapath import dial
from fwproxy.errors import InvalidArgumentError
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule
from fwproxy.policy.rules import RuleKind

CLIENT, SERVER = THIRD_HOST, OTHER_HOST
INNER = "127.0.0.77"
"""The proxy's address in the network of the server."""
FULL = ConnectionFlags.INTERNAL_ADDRESS_TRANSLATION
RELATIONS = (Relation("inside", "outside", NetworkRelation.NAT),)
NEEDS_RIGHTS = pytest.mark.skipif(not may_be_transparent(), reason="needs CAP_NET_ADMIN")


def networks(inner=()):
    return (
        Network("outside", ("127.0.0.1/32", f"{CLIENT}/32")),
        Network("inside", (f"{SERVER}/32", f"{INNER}/32"), inner),
    )


def publish(**settings):
    return Rule(allow=True, kind=RuleKind.PUBLISH, name="publish", **settings)


KEPT = publish(proxy_mode="client-address")


@contextlib.asynccontextmanager
async def published(rule, inner=(), **settings):
    """Run a proxy with one rule in front of a server inside."""
    with closing(Upstream(SERVER)) as server:
        async with open_world(
            upstream=server.address, networks=networks(inner), relations=RELATIONS,
            rules=(rule,), **settings,
        ) as world:  # fmt: skip
            world.upstream.close()
            world.upstream = server
            yield world


async def test_only_a_rule_that_publishes_lets_clients_in_against_the_nat(logged):
    async with published(Rule(allow=True, name="access")) as world:
        assert await is_refused(world, world.address, CLIENT)
        await world.ended()
    (line,) = [line for line in logged if line["event"] == "connection closed"]
    assert "access does not publish" in line["reason"]
    async with published(publish()) as world:
        primary = await world.primary(CLIENT)
        assert primary.session.rule == "publish"
        assert await carries(primary.client, primary.server)


@pytest.mark.parametrize(("inner", "seen"), [((INNER,), INNER), ((), HOST)])
async def test_in_full_proxy_mode_the_server_sees_the_proxy(inner, seen):
    """By its address in the server's network, or the one that the host takes."""
    async with published(publish(), inner) as world:
        primary = await world.primary(CLIENT)
        assert primary.server.remote.host == seen
        assert FULL in primary.connection.connection_flags
        assert primary.session.proxy_mode is F.PROXY_MODE


@NEEDS_RIGHTS
async def test_where_it_is_kept_the_server_sees_the_clients_address():
    async with published(KEPT, (INNER,)) as world:
        primary = await world.primary(CLIENT)
        assert primary.server.remote.host == CLIENT
        assert primary.connection.external_socket_name.host == CLIENT
        assert await carries(primary.client, primary.server)


@NEEDS_RIGHTS
async def test_s26_a_kept_address_is_no_full_proxy_mode():
    async with published(KEPT) as world:
        primary = await world.primary(CLIENT)
        assert FULL not in primary.connection.connection_flags
        assert primary.session.proxy_mode is SecondaryFlags.NONE
        with pytest.raises(InvalidArgumentError, match="this one is not"):
            await bind(primary, Endpoint(CLIENT, 5000), flags=F.PROXY_MODE)
        assert await bind(primary, Endpoint(CLIENT, 5000), flags=primary.session.proxy_mode)


@NEEDS_RIGHTS
@pytest.mark.parametrize("asked", [None, Endpoint(CLIENT)])
@pytest.mark.parametrize("transport", list(Transport))
async def test_secondary_connections_show_the_client_too(transport, asked):
    async with published(KEPT) as world:
        primary = await world.primary(CLIENT)
        tcp = transport is Transport.TCP
        target = world.listen(SERVER) if tcp else world.datagrams(SERVER)
        redirection = await redirect(
            primary, target.address, transport=transport, proxy_external_address=asked
        )
        if tcp:
            client = await world.connect(redirection.internal_address, CLIENT)
            server = await world.accept(target)
            assert server.remote.host == CLIENT
            assert await carries(client, server)
        else:
            world.datagrams(CLIENT).send(b"x", redirection.internal_address)
            _, sender = await target.receive()
            assert sender.host == CLIENT


@NEEDS_RIGHTS
async def test_another_address_of_the_proxy_may_still_be_asked_for():
    async with published(KEPT) as world:
        primary = await world.primary(CLIENT)
        target = world.listen(SERVER)
        redirection = await redirect(
            primary, target.address, proxy_external_address=Endpoint(INNER)
        )
        await world.connect(redirection.internal_address, CLIENT)
        assert (await world.accept(target)).remote.host == INNER


@NEEDS_RIGHTS
async def test_the_server_comes_to_the_clients_address():
    async with published(KEPT) as world:
        primary = await world.primary(CLIENT)
        client = world.listen(CLIENT)
        (made,) = await bind(primary, client.address)
        assert made.proxy_address.host == CLIENT
        server = await world.connect(made.proxy_address, SERVER)
        far = await world.accept(client)
        assert far.remote.host == HOST  # the client knows the proxy by the address it came to
        assert await carries(server, far)


async def test_without_the_right_to_it_the_client_is_turned_away_with_the_reason(
    monkeypatch, logged
):
    def refuse(sock):
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(dial, "make_transparent", refuse)
    async with published(KEPT) as world:
        assert await is_refused(world, world.address, CLIENT)
        await world.ended()
    (line,) = [line for line in logged if line["event"] == "connection closed"]
    assert f"to speak for {CLIENT} the process needs CAP_NET_ADMIN" in line["reason"]


async def test_a_server_of_the_other_ip_version_cannot_see_the_client(logged):
    settings = {
        "networks": (Network("outside", ("127.0.0.0/8",)), Network("inside", ("::1/128",))),
        "relations": RELATIONS,
        "rules": (KEPT,),
    }
    async with open_world(upstream=Endpoint("::1", 50123), **settings) as world:
        assert await is_refused(world, world.address, CLIENT)
        await world.ended()
    (line,) = [line for line in logged if line["event"] == "connection closed"]
    assert f"cannot see {CLIENT} as its client" in line["reason"]
