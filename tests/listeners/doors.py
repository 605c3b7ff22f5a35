"""A running firewall with one listener of any kind, and what clients say to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

from rig import HOST, Peer, Upstream, World, assert_nothing_left

from fwproxy import Config, Endpoint, Filter, Firewall, ListenerConfig, ListenerKind
from fwproxy.config.config import Limits

HELLO, WELCOME = b"\5\1\0", b"\5\0"
NOWHERE = b"\0\1" + bytes(6)


@contextlib.asynccontextmanager
async def open_door(
    kind: ListenerKind,
    *,
    filters: Sequence[type[Filter]] = (),
    limits: Limits | None = None,
    bind: Endpoint = Endpoint(HOST),  # noqa: B008 - a frozen value
    settings: dict[str, Any] | None = None,
    **rest: Any,
) -> AsyncIterator[World]:
    """Run a firewall with one listener; afterwards nothing may be left in it.

    A fault that the firewall has hidden from its clients, and told the loop, fails the test.
    """
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    listener = ListenerConfig("probe", bind, kind=kind, **(settings or {}))
    config = Config([listener], limits=limits or Limits(), **rest)
    firewall = Firewall(config, filters)
    await firewall.start()
    world = World(firewall, Upstream())
    try:
        yield world
        world.close_ends()
        for session in world.sessions:
            session.end("the test is over", at_once=True)
        await assert_nothing_left(firewall)
        assert not faults
    finally:
        world.close_ends()
        await firewall.stop(0)


def spelled(server: Endpoint) -> bytes:
    """An address as SOCKS 5 has it."""
    kind = 4 if server.version == 6 else 1
    return bytes([kind]) + server.ip.packed + struct.pack("!H", server.port)


def named(name: str, port: int) -> bytes:
    return bytes([3, len(name)]) + name.encode() + struct.pack("!H", port)


def socks4(server: Endpoint, command: int = 1) -> bytes:
    return bytes([4, command]) + struct.pack("!H", server.port) + server.ip.packed + b"me\0"


def socks5(server: Endpoint, command: int = 1) -> bytes:
    """All that a client says that does not wait for the answer to its methods."""
    return HELLO + bytes([5, command, 0]) + spelled(server)


def http(server: Endpoint | str, *headers: str) -> bytes:
    lines = [f"CONNECT {server} HTTP/1.1", f"Host: {server}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def basic(user: str, password: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def login(user: str, password: str) -> bytes:
    """The offer to log in, and the login."""
    name, secret = user.encode(), password.encode()
    return b"\5\1\2\1" + bytes([len(name)]) + name + bytes([len(secret)]) + secret


async def read_reply(peer: Peer) -> tuple[int, Endpoint]:
    """Read a reply of SOCKS 5: its code and address."""
    head = await peer.read(4)
    assert head[:1] + head[2:3] == b"\5\0", head
    size = 16 if head[3] == 4 else 4
    address = await peer.read(size + 2)
    host = address[:size]
    port = struct.unpack("!H", address[size:])[0]
    text = ".".join(map(str, host)) if size == 4 else host.hex(":", 2)
    return head[1], Endpoint(text, port)


async def is_turned_away(
    world: World, address: Endpoint | None = None, source: str | None = None
) -> bool:
    """Connect, and see whether a reset comes, be it at once."""
    try:
        client = await world.connect(address, source)
    except ConnectionError:
        return True
    return await client.is_cut_off()


SAYING = {"socks4": socks4, "socks5": socks5, "http": http}
GRANTED = {
    "socks4": rb"\x00Z.{6}",
    "socks5": rb"\x05\x00\x05\x00\x00\x01.{6}",
    "http": rb"HTTP/1.1 200 .*\r\n\r\n",
}


async def reads(peer, pattern: bytes) -> bytes:
    """Read until what has come is what a pattern wants."""
    data = b""
    while not re.fullmatch(pattern, data, re.DOTALL):
        piece = await peer.receive()
        assert piece, data
        data += piece
    return data


async def rest_of(peer: Peer) -> bytes:
    """Read up to the end, which is a reset where bytes were not read."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := await peer.receive():
            data += piece
    return data
