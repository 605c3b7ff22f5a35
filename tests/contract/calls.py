"""The two calls of the contract, as its tests make them."""

from __future__ import annotations

from typing import Any

from rig import HOST, PROBE_DATA, Peer, Primary, World

from fwproxy import Connection, Endpoint, Redirection, SecondaryFlags, Transport

F = SecondaryFlags
UNKNOWN = Endpoint("0.0.0.0")


def own(port: int = 5000) -> Endpoint:
    """Return an address of the session's client."""
    return Endpoint(HOST, port)


async def bind(primary: Primary, *clients: Endpoint, **settings: Any) -> list[Connection]:
    """Call `bind_for_client`, for one port of the client if no address is given."""
    settings.setdefault("protocol", PROBE_DATA)
    return await primary.session.bind_for_client(list(clients or [own()]), **settings)


async def bind_udp(primary: Primary, *clients: Endpoint, **settings: Any) -> list[Connection]:
    return await bind(primary, *clients, transport=Transport.UDP, **settings)


async def redirect(
    primary: Primary, *targets: Endpoint | Connection, **settings: Any
) -> Redirection:
    """Call `redirect_connections`."""
    settings.setdefault("protocol", PROBE_DATA)
    return await primary.session.redirect_connections(list(targets), **settings)


def proxy_address(connection: Connection) -> Endpoint:
    """Return where a bound connection waits."""
    assert connection.proxy_address is not None
    return connection.proxy_address


def ports(connections: list[Connection]) -> list[int]:
    return [proxy_address(connection).port for connection in connections]


async def carries(one: Peer, other: Peer) -> bool:
    """Tell whether bytes go both ways between two ends."""
    await one.send(b"there")
    await other.send(b"back")
    return await other.read(5) == b"there" and await one.read(4) == b"back"


async def is_refused(world: World, address: Endpoint, source: str | None = None) -> bool:
    """Tell whether nobody waits at an address, or whoever does says no at once."""
    try:
        peer = await world.connect(address, source)
        await peer.send(b"?")
        return not await peer.receive()
    except ConnectionError:
        return True


def nothing_is_bound(world: World) -> None:
    """Make sure that no session has more than its primary connection, and no port is taken."""
    assert world.engine.ports.in_use == len(world.engine.ledger) == 0
    assert [len(session.connections) for session in world.sessions] == [1]
