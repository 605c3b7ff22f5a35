"""Clients and servers that name another host's address for data: nobody connects there unasked.

The proof is a counter in that host's namespace, which sees every attempt to connect to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import attrs
import pytest

from . import syns
from .ends import (
    Control,
    ScriptedClient,
    ScriptedServer,
    address_command,
    connect,
    listen,
    port_argument,
    read_all,
    talking,
)
from .namespaces import PREFIX_LENGTHS, Network, Side, network
from .processes import find_program
from .proxy import Listener, Proxy, running_proxy
from .terms import Family

PORT = 2121
CONTENT = b"what was asked for"
DATA_MODES: tuple[Literal["client", "active", "passive"], ...] = ("client", "active", "passive")
PASSIVE_ADDRESSES = ("strict", "ignore", "allow")
RULES = """
[networks.clients]
prefixes = ["{client}"]
[networks.servers]
prefixes = ["{server}"]
[[rules]]
action = "allow"
protocols = ["ftp"]
from = ["clients"]
to = ["servers"]
"""


@attrs.frozen
class Street:
    """A network with a stranger, a scripted server for either IP version, and the proxy."""

    net: Network
    servers: dict[Family, ScriptedServer]
    proxy: Proxy

    @contextlib.contextmanager
    def talking(
        self, listener: str, family: Family = 4
    ) -> Iterator[tuple[ScriptedClient, Control]]:
        """A client that has been greeted, and the server's end of its connection."""
        server = self.servers[family]
        target = self.proxy.target(listener, server.target)
        with talking(server, target, self.net.namespace(Side.CLIENT)) as both:
            yield both
        self.proxy.await_rest()


@contextlib.contextmanager
def street(net: Network, more: str = "") -> Iterator[Street]:
    """Run the servers and the proxy, with a listener for each way to set them."""
    syns.start_counting(net, Side.STRANGER)
    with contextlib.ExitStack() as stack:
        servers: dict[Family, ScriptedServer] = {
            family: stack.enter_context(
                ScriptedServer(net.address(Side.SERVER, family), net.namespace(Side.SERVER))
            )
            for family in PREFIX_LENGTHS
        }
        listeners = [
            Listener(
                f"{data_mode}-{family}",
                net.proxy_address(Side.CLIENT, family),
                server.target,
                data_mode=data_mode,
            )
            for family, server in servers.items()
            for data_mode in DATA_MODES
        ]
        listeners += [
            Listener(
                wanted,
                net.proxy_address(Side.CLIENT),
                servers[4].target,
                settings={"passive_address": wanted},
            )
            for wanted in PASSIVE_ADDRESSES
        ]
        with running_proxy(listeners, more, namespace=net.namespace(Side.PROXY)) as proxy:
            yield Street(net, servers, proxy)
            proxy.finish()


@pytest.fixture(scope="module")
def needs_counter(needs_network: None) -> None:
    """Skip without nftables."""
    if find_program("nft") is None:
        pytest.skip("package missing: nftables")


@pytest.fixture(scope="module")
def beside_the_server(needs_counter: None) -> Iterator[Street]:
    """The stranger is on the server's link."""
    with network(Side.SERVER) as net, street(net) as made:
        yield made


@pytest.fixture(scope="module", params=[Side.CLIENT, Side.SERVER])
def beside(request: pytest.FixtureRequest, needs_counter: None) -> Iterator[Street]:
    """The stranger is on either link."""
    with network(request.param) as net, street(net) as made:
        yield made


# Servers that name a third host in a 227.


def name_third_host(street: Street, client: ScriptedClient, inside: Control, port: int) -> bytes:
    """Let the server name the stranger; what the client hears."""
    client.send(b"PASV\r\n")
    assert inside.line() == b"PASV\r\n"
    named = port_argument(street.net.address(Side.STRANGER), port)
    inside.send(f"227 Entering Passive Mode ({named})\r\n".encode())
    return client.reply()


def data_address(street: Street, reply: bytes) -> tuple[str, int]:
    """Where the client shall connect: the proxy, whatever the server has said."""
    *octets, high, low = reply.partition(b"(")[2].partition(b")")[0].split(b",")
    host = b".".join(octets).decode()
    assert host == street.net.proxy_address(Side.CLIENT)
    return host, int(high) * 256 + int(low)


def test_strict_refuses_a_third_host_named_by_the_server(beside_the_server: Street) -> None:
    street = beside_the_server
    before, start = syns.count(street.net, Side.STRANGER), len(street.proxy.lines())
    with street.talking("strict") as (client, inside):
        assert name_third_host(street, client, inside, 20000)[:3] == b"425"
        assert not street.proxy.logged("permission given", start)
        (refusal,) = street.proxy.await_log("data connection refused", start)
        assert street.net.address(Side.STRANGER) in refusal["reason"]
    assert syns.count(street.net, Side.STRANGER) == before


def test_ignore_connects_to_the_server_all_the_same(beside_the_server: Street) -> None:
    street = beside_the_server
    before = syns.count(street.net, Side.STRANGER)
    with (
        street.talking("ignore") as (client, inside),
        ScriptedServer(street.servers[4].host, street.servers[4].namespace) as own,
    ):
        reply = name_third_host(street, client, inside, own.port)
        check_data(street, client, reply, own)
    assert syns.count(street.net, Side.STRANGER) == before


def test_allow_goes_where_the_server_says(beside_the_server: Street) -> None:
    street = beside_the_server
    before = syns.count(street.net, Side.STRANGER)
    there = ScriptedServer(street.net.address(Side.STRANGER), street.net.namespace(Side.STRANGER))
    with street.talking("allow") as (client, inside), there:
        check_data(street, client, name_third_host(street, client, inside, there.port), there)
    assert syns.count(street.net, Side.STRANGER) == before + 1, "the counter does not count"


def check_data(
    street: Street, client: ScriptedClient, reply: bytes, server: ScriptedServer
) -> None:
    """Make sure that the data connection leads to this server."""
    host, port = data_address(street, reply)
    with connect(host, port, client.namespace) as data, server.accept() as served:
        served.send(CONTENT)
        served.sock.close()
        assert read_all(data) == CONTENT


def test_allow_goes_nowhere_where_the_rules_do_not_lead(needs_counter: None) -> None:
    with network(Side.SERVER) as net:
        rules = RULES.format(client=net.address(Side.CLIENT), server=net.address(Side.SERVER))
        with street(net, rules) as made, made.talking("allow") as (client, inside):
            assert name_third_host(made, client, inside, 20000)[:3] == b"425"
            (refusal,) = made.proxy.await_log("data connection refused")
            assert net.address(Side.STRANGER) in refusal["reason"]
            assert syns.count(net, Side.STRANGER) == 0


# Clients that name a third host in PORT or EPRT (RFC 2577).


@pytest.mark.parametrize("data_mode", DATA_MODES)
@pytest.mark.parametrize(("verb", "family"), [("PORT", 4), ("EPRT", 4), ("EPRT", 6)])
def test_a_bounce_is_refused_and_the_third_host_sees_nothing(
    beside: Street, family: Family, verb: str, data_mode: str
) -> None:
    before, start = syns.count(beside.net, Side.STRANGER), len(beside.proxy.lines())
    address = beside.net.address(Side.STRANGER, family)
    listener = listen(address, beside.net.namespace(Side.STRANGER))
    with (
        beside.talking(f"{data_mode}-{family}", family) as (client, inside),
        contextlib.closing(listener),
    ):
        ports = beside.proxy.listening()
        command = address_command(address, listener.getsockname()[1], verb)
        assert client.code(command) in {500, 501}
        assert beside.proxy.listening() == ports
        # The server has not heard of it: RETR is the first that it gets, and has no use for.
        client.send(b"RETR f\r\n")
        assert inside.line() == b"RETR f\r\n"
        inside.send(b"425 Use PORT or PASV first\r\n")
        assert client.code() == 425
    assert syns.count(beside.net, Side.STRANGER) == before
    assert not beside.proxy.logged("permission given", start)
    (refusal,) = beside.proxy.logged("data connection refused", start)
    assert address in refusal["reason"]
