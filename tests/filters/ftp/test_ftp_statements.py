"""S14 and S15 of the filter API: what becomes of the address in a PORT command."""

import socket

import pytest
from ftp_dialogue import FILE
from ftp_ends import OTHER_V4, V4, open_ftp
from rig import Peer, eventually
from scripted import CLIENT_V4, Script

from fwproxy import Endpoint, ListenerKind, Transport
from fwproxy.policy.policy import Network, NetworkRelation, Relation, Rule
from fwproxy.secondary.client_binds import hold_port
from fwproxy.testing import PROXY_OUTSIDE
from fwproxy_filters.ftp.addresses import format_port, parse_port

PORT = b"PORT 10,0,0,8,6,17\r\n"
CLIENT = Endpoint("10.0.0.8", 1553)


def test_s14_the_six_numbers_are_an_address_and_a_port():
    assert parse_port(b"10,0,0,8,6,17") == CLIENT
    assert format_port(CLIENT) == b"10,0,0,8,6,17"


def test_s14_the_command_that_goes_on_carries_the_address_that_the_proxy_has_bound():
    assert CLIENT.host == CLIENT_V4
    with Script() as script:
        script.client(PORT)
        assert script.calls == [("bind", CLIENT)]
        (made,) = script.data
        address = made.connection.proxy_address
        assert address.host == PROXY_OUTSIDE[4]
        assert script.got() == b"PORT %b\r\n" % format_port(address)


@pytest.mark.parametrize("host", [V4, OTHER_V4])
async def test_s14_the_server_comes_to_that_address_and_so_to_the_client(host):
    """End to end, with a port that the client has chosen itself."""
    async with open_ftp() as world:
        client = await world.connect(host)
        await client.login()
        waiting = world.add(socket.create_server((host, 0)))
        waiting.settimeout(0)
        own = Endpoint.from_sockaddr(waiting.getsockname())
        assert await client.code(f"PORT {format_port(own).decode()}") == 200
        verb, _, told = world.server.last.lines[-1].partition(b" ")
        (entry,) = world.firewall.ledger
        assert verb == b"PORT"
        assert str(parse_port(told)) == entry.proxy_address != str(own)
        assert entry.target == str(own)
        await client.send(b"RETR f\r\n")
        await eventually(lambda: len(world.firewall.ledger) == 0)
        sock, _ = await accepted(waiting)
        peer = world.add(Peer(sock))
        assert await peer.read_all() == FILE
        peer.close()
        assert await client.codes(2) == [150, 226]


async def accepted(sock):
    def take():
        try:
            return sock.accept()
        except BlockingIOError:
            return None

    return await eventually(take)


INTERNAL, EXTERNAL = V4, OTHER_V4
NETWORKS = (
    Network("internal", (f"{INTERNAL}/32", "10.0.0.0/8"), (INTERNAL,)),
    Network("external", (f"{EXTERNAL}/32", "198.51.100.0/24"), (INTERNAL,)),
)


def explicit(kind):
    """A deployment where clients know of the proxy, and their network is behind a NAT."""
    return {
        "kind": ListenerKind.GATEWAY,
        "rest": {
            "networks": NETWORKS,
            "relations": (Relation("internal", "external", kind),),
            "rules": (Rule(allow=True, sources=("internal",), targets=("external",)),),
        },
    }


async def logged_in(world):
    """Log in at the external server by the gateway."""
    client = await world.connect()
    assert await client.codes(1) == [220]
    server = world.server.address
    assert await client.code(f"USER joe@{server.host}:{server.port}") == 331
    assert await client.code("PASS secret") == 230
    return client


@pytest.mark.parametrize("kind", [NetworkRelation.NAT, NetworkRelation.ROUTE])
async def test_s15_an_internal_address_on_its_way_out_is_noticed_and_translated(kind, log):
    async with open_ftp(server_host=EXTERNAL, **explicit(kind)) as world:
        client = await logged_in(world)
        own = Endpoint(INTERNAL, 5000)
        assert await client.code(f"PORT {format_port(own).decode()}") == 200
        told = parse_port(world.server.last.lines[-1].partition(b" ")[2])
        (entry,) = world.firewall.ledger
        assert str(told) == entry.proxy_address
        assert told != own
        (line,) = [each for each in log if each["event"] == "client address"]
        assert line["client"] == str(own)
        assert line["relation"] == kind.value


@pytest.mark.parametrize("host", ["10.0.0.9", "198.51.100.7", EXTERNAL])
async def test_s15_an_address_that_is_not_the_clients_own_is_verified_and_refused(host):
    """Neither another internal host's nor an external one."""
    async with open_ftp(server_host=EXTERNAL, **explicit(NetworkRelation.NAT)) as world:
        client = await logged_in(world)
        lines = len(world.server.last.lines)
        other = Endpoint(host, 5000)
        assert await client.code(f"PORT {format_port(other).decode()}") == 501
        assert len(world.server.last.lines) == lines
        assert world.permissions == 0
        assert await world.is_alive(client)


async def test_s15_a_port_of_the_proxy_that_the_client_holds_is_approved_and_not_translated():
    """What a SOCKS client names: it has asked the proxy for a port, and nobody could come yet."""
    async with open_ftp(server_host=EXTERNAL, **explicit(NetworkRelation.NAT)) as world:
        client = await logged_in(world)
        (session,) = world.firewall.sessions
        came = []
        ports = world.firewall.engine.ports
        (sock,) = ports.allocate(Endpoint(EXTERNAL), Transport.TCP, backlog=None)
        held = hold_port(session, sock, lambda *taken: came.append(taken))
        command = b"PORT " + format_port(held.address)
        assert await client.ask(command) == b"200 PORT ok\r\n"
        assert world.server.last.lines[-1] == command
        (entry,) = world.firewall.ledger
        assert entry.peers == EXTERNAL
        assert await world.is_refused(held.address, V4)
        await client.send(b"RETR f\r\n")
        await eventually(lambda: held.action.close_reason == "used" or came)
        peer = world.add(Peer(came[0][0]))
        assert await peer.read_all() == FILE
        peer.close()
        assert await client.codes(2) == [150, 226]
        assert await client.code(b"PORT " + format_port(held.address)) == 501


async def test_s15_another_port_of_the_proxy_is_nobodys_and_refused():
    async with open_ftp(server_host=EXTERNAL, **explicit(NetworkRelation.NAT)) as world:
        client = await logged_in(world)
        (session,) = world.firewall.sessions
        ports = world.firewall.engine.ports
        (sock,) = ports.allocate(Endpoint(EXTERNAL), Transport.TCP, backlog=None)
        held = hold_port(session, sock, lambda *_: None)
        wrong = held.address.with_port(held.address.port ^ 1)
        assert await client.code(b"PORT " + format_port(wrong)) == 501
        assert not held.is_allowed
        held.close("the test is over")
