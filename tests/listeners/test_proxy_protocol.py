"""PROXY headers: whose are believed, and what servers are told."""

from __future__ import annotations

import pytest
from doors import http, is_turned_away, open_door, socks5
from rig import HOST, OTHER_HOST, THIRD_HOST, Peer, Upstream, World, eventually, leftovers

from fwproxy import Endpoint, ListenerConfig, ListenerKind, SecondaryFlags
from fwproxy.config.config import Limits
from fwproxy.config.listeners import EXPLICIT
from fwproxy.handshake.proxy_header import parse, write
from fwproxy.policy.policy import Network, Rule
from fwproxy.protocol import TCP
from fwproxy_filters.ftp import FtpFilter

CLIENT, FRONT = Endpoint("127.0.0.77", 4711), Endpoint("198.51.100.1", 21)
BALANCER = OTHER_HOST


def behind(mode: str, server: Endpoint | None = None, **settings):
    more = {"protocol": "tcp", "upstream": server} if server else {}
    return {"proxy_protocol": mode, "trusted": (f"{BALANCER}/32",), **more, **settings}


async def balanced(world: World, header: bytes) -> Peer:
    client = await world.connect(source=BALANCER)
    await client.send(header)
    return client


@pytest.mark.parametrize("version", [1, 2])
async def test_the_client_that_a_trusted_balancer_names_is_the_client(version):
    settings = behind("require")
    async with open_door(ListenerKind.MIXED, settings=settings) as world:
        header = write(version, CLIENT, FRONT)
        client = await balanced(world, header + socks5(world.upstream.address) + b"early")
        server = await world.accept()
        assert await server.read(5) == b"early"
        (session,) = world.sessions
        assert session.client_address.host == CLIENT.host
        client.close()
        await world.ended()


@pytest.mark.parametrize(
    "kind", [*sorted(EXPLICIT, key=str), ListenerKind.FORWARD, ListenerKind.GATEWAY]
)
async def test_every_kind_of_listener_believes_it(kind):
    other = Upstream()
    settings = behind("require", other.address if kind is ListenerKind.FORWARD else None)
    settings |= {"protocol": "ftp"} if kind is ListenerKind.GATEWAY else {}
    says = {ListenerKind.SOCKS: socks5, ListenerKind.HTTP: http, ListenerKind.MIXED: http}
    async with open_door(kind, settings=settings, filters=[FtpFilter]) as world:
        world.add(other)
        request = says[kind](other.address) if kind in says else b""
        await balanced(world, write(2, CLIENT, FRONT) + request)
        if kind is not ListenerKind.GATEWAY:
            world.add(await other.accept())
        await eventually(lambda: world.sessions)
        assert [each.client_address.host for each in world.sessions] == [CLIENT.host]


async def test_the_header_may_come_in_single_bytes():
    async with open_door(ListenerKind.MIXED, settings=behind("accept")) as world:
        client = await world.connect(source=BALANCER)
        for byte in write(2, CLIENT, FRONT) + socks5(world.upstream.address):
            await client.send(bytes([byte]))
        await world.accept()
        assert [each.client_address.host for each in world.sessions] == [CLIENT.host]


@pytest.mark.parametrize(("mode", "is_served"), [("accept", True), ("require", False)])
async def test_others_come_as_themselves_or_not_at_all(mode, is_served):
    async with open_door(ListenerKind.MIXED, settings=behind(mode)) as world:
        if not is_served:
            assert await is_turned_away(world, source=THIRD_HOST)
            return
        client = await world.connect(source=THIRD_HOST)
        await client.send(socks5(world.upstream.address))
        await world.accept()
        assert [each.client_address.host for each in world.sessions] == [THIRD_HOST]


async def test_a_header_of_somebody_else_is_not_believed():
    async with open_door(ListenerKind.MIXED, settings=behind("accept")) as world:
        client = await world.connect(source=THIRD_HOST)
        await client.send(write(1, CLIENT, FRONT) + http(world.upstream.address))
        assert b"400" in await client.receive(), "a line of PROXY is no request"
        assert not world.sessions


@pytest.mark.parametrize(
    "header", [b"GET / HTTP/1.1\r\n", b"PROXY TCP4 nonsense\r\n", b"PROXY " + b"x" * 200]
)
async def test_a_balancer_without_a_right_header_is_turned_away(header):
    async with open_door(ListenerKind.MIXED, settings=behind("accept")) as world:
        client = await balanced(world, header)
        assert await client.is_cut_off()
        await eventually(lambda: not leftovers(world.firewall))


async def test_a_health_check_of_the_balancer_itself_is_served_as_its_own():
    async with open_door(ListenerKind.MIXED, settings=behind("require")) as world:
        await balanced(world, b"PROXY UNKNOWN\r\n" + socks5(world.upstream.address))
        await world.accept()
        assert [each.client_address.host for each in world.sessions] == [BALANCER]


async def test_a_balancer_that_says_nothing_is_closed_in_time():
    limits = Limits(handshake_timeout=3.0)
    async with open_door(ListenerKind.MIXED, settings=behind("require"), limits=limits) as world:
        client = await world.connect(source=BALANCER)
        await eventually(lambda: leftovers(world.firewall))
        world.advance(4.0)
        assert await client.read_all() == b""


async def test_rules_go_by_the_client_that_the_header_names():
    rules = {
        "networks": [Network("named", (f"{CLIENT.host}/32",))],
        "rules": [Rule(allow=False, sources=("named",)), Rule(allow=True)],
    }
    async with open_door(ListenerKind.MIXED, settings=behind("require"), **rules) as world:
        client = await balanced(world, write(2, CLIENT, FRONT) + socks5(world.upstream.address))
        assert (await client.read_all())[:4] == b"\5\0\5\2"


async def header_of(server: Peer) -> tuple[Endpoint, Endpoint]:
    data = await server.receive()
    header = parse(data)
    assert header is not None
    assert (header.used, header.source is None) == (len(data), False)
    return header.source, header.destination


@pytest.mark.parametrize("version", [1, 2])
async def test_the_server_is_told_who_the_client_is(version):
    settings = {"send_proxy": version}
    async with open_door(ListenerKind.MIXED, settings=settings) as world:
        client = await world.connect()
        await client.send(socks5(world.upstream.address))
        server = await world.accept()
        assert await header_of(server) == (client.address, world.upstream.address)


async def test_the_server_of_a_port_forward_is_told_whom_the_client_has_called():
    async with open_door(ListenerKind.MIXED) as other:
        settings = {"send_proxy": 2, "protocol": "tcp", "upstream": other.upstream.address}
        async with open_door(ListenerKind.FORWARD, settings=settings) as world:
            client = await world.connect()
            server = world.add(await other.accept())
            assert await header_of(server) == (client.address, world.address)
            redirection = await world.sessions[0].redirect_connections(
                [other.upstream.address], flags=SecondaryFlags.TIMEOUT, protocol=TCP
            )
            second = await world.connect(redirection.internal_address)
            data_server = world.add(await other.accept())
            source, destination = await header_of(data_server)
            assert (source, destination.host) == (second.address, HOST)


async def test_a_header_that_came_is_sent_on():
    settings = behind("require", send_proxy=2)
    async with open_door(ListenerKind.MIXED, settings=settings) as world:
        await balanced(world, write(1, CLIENT, FRONT) + socks5(world.upstream.address))
        server = await world.accept()
        assert (await header_of(server))[0] == CLIENT


def test_the_configuration_of_a_balancer_is_whole():
    assert ListenerConfig("a", FRONT, proxy_protocol="require", trusted=("::/0",)).trusted


async def test_the_rate_of_a_client_is_not_that_of_its_balancer():
    limits = Limits(connection_rate_per_client=0.001, connection_burst_per_client=1)
    server = Upstream()
    async with open_door(
        ListenerKind.FORWARD, settings=behind("require", server.address), limits=limits
    ) as world:
        world.add(server)
        for host in ("127.0.0.77", "127.0.0.78"):
            await balanced(world, write(2, Endpoint(host, 4711), FRONT))
            await world.accept(server)
        again = await balanced(world, write(2, CLIENT, FRONT))
        assert await again.is_cut_off()
