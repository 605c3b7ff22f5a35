"""What clients are told as the proxy's address, where it is not the one that they come to."""

from __future__ import annotations

import asyncio
import contextlib
import ftplib
import socket
from collections.abc import AsyncIterator, Iterator

import attrs
import pytest
from rig import (
    HOST,
    OTHER_HOST,
    PROBE_DATA,
    Upstream,
    World,
    assert_nothing_left,
    probe_config,
)

from fwproxy import Config, Endpoint, Firewall, ListenerConfig, ListenerKind
from fwproxy.demo import FILES, DemoServer
from fwproxy.listeners import redirect

V4, V6 = "198.51.100.1", "2001:db8::1"


@pytest.fixture
def server() -> Iterator[DemoServer]:
    with DemoServer() as running:
        yield running


def fetch_by(proxy: Endpoint, verb: str) -> str:
    """Fetch a file at the proxy's own address, with the port it tells; return what it told."""
    with ftplib.FTP(timeout=10) as client:
        client.connect(proxy.host, proxy.port)
        client.login()
        reply = client.sendcmd(verb)
        port = (
            ftplib.parse227(reply)[1]
            if verb == "PASV"
            else ftplib.parse229(reply, proxy.sockaddr)[1]
        )
        with socket.create_connection((proxy.host, port), timeout=10) as data:
            assert client.sendcmd("RETR README.txt")[:3] in {"125", "150"}
            with data.makefile("rb") as file:
                assert file.read() == FILES["README.txt"]
        assert client.voidresp().startswith("226")
    return reply


@pytest.mark.parametrize(
    ("host", "advertise", "verb", "said"),
    [
        ("127.0.0.1", V4, "PASV", "(198,51,100,1,"),
        ("127.0.0.1", None, "PASV", "(127,0,0,1,"),
        ("127.0.0.1", V4, "EPSV", "(|||"),
        ("::1", V6, "EPSV", "(|||"),
    ],
)
async def test_pasv_names_the_advertised_address_and_the_port_that_is_open(
    server: DemoServer, host: str, advertise: str | None, verb: str, said: str
) -> None:
    listener = ListenerConfig(
        "ftp", Endpoint(host), "ftp", upstream=server.address, advertise=advertise
    )
    async with Firewall(Config([listener])) as firewall:
        address = firewall.listeners["ftp"].address
        assert said in await asyncio.to_thread(fetch_by, address, verb)


@contextlib.asynccontextmanager
async def serving(
    advertise: str | None, kind: ListenerKind = ListenerKind.FORWARD, host: str = HOST
) -> AsyncIterator[World]:
    upstream = Upstream(host)
    config = probe_config(upstream=upstream.address, kind=kind)
    (listener,) = config.listeners
    listener = attrs.evolve(listener, advertise=advertise)
    async with Firewall(attrs.evolve(config, listeners=(listener,))) as firewall:
        world = World(firewall, upstream)
        try:
            yield world
        finally:
            world.close_ends()
        await world.ended()
        await assert_nothing_left(firewall)


async def told(world: World) -> Endpoint:
    """Open a port for a client, make sure that it is open, and return what to tell the client."""
    primary = await world.primary()
    server = world.listen()
    redirection = await primary.session.redirect_connections([server.address], protocol=PROBE_DATA)
    address = redirection.internal_address
    (action,) = redirection.actions
    assert action.proxy_address == world.address.with_port(address.port)
    await world.connect(action.proxy_address)
    await world.accept(server)
    return address


@pytest.mark.parametrize(("advertise", "expected"), [(V4, V4), (None, OTHER_HOST)])
async def test_a_redirected_client_is_told_its_server_unless_there_is_something_to_advertise(
    monkeypatch: pytest.MonkeyPatch, advertise: str | None, expected: str
) -> None:
    async with serving(advertise, ListenerKind.REDIRECT, OTHER_HOST) as world:
        monkeypatch.setattr(redirect, "original_destination", lambda _: world.upstream.address)
        assert (await told(world)).host == expected


@pytest.mark.parametrize(("advertise", "expected"), [(V4, V4), (None, HOST)])
async def test_filters_are_given_what_to_tell(advertise: str | None, expected: str) -> None:
    async with serving(advertise) as world:
        assert (await told(world)).host == expected
