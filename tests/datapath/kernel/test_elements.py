"""Pinholes as the kernel has them, read back by `nft`, in a network of the test's own."""

import contextlib
import itertools
import json

import pytest
import structlog
from own_network import in_own_network, shell

from fwproxy import Endpoint, IpFilter, Transport
from fwproxy.datapath.kernel import elements
from fwproxy.datapath.kernel.element_socket import ElementSocket, netfilter_sockets
from fwproxy.datapath.kernel.netlink import open_netfilter
from fwproxy.datapath.kernel.pinhole import Pinhole
from fwproxy.datapath.kernel.table import KernelTable, TableSettings
from fwproxy.errors import KernelPathError

LEASE = 60.0
CLIENT, PROXY, PEER = "192.0.2.1", "192.0.2.2", "192.0.2.3"
CLIENT_6, PROXY_6, PEER_6 = "2001:db8::1", "2001:db8::2", "2001:db8::3"


@contextlib.contextmanager
def table(*, can_own=True, can_destroy=True, max_pinholes=100):
    log = structlog.get_logger()
    made = KernelTable(TableSettings("test", 7, max_pinholes, LEASE, can_own), log)
    made.create()
    try:
        assert made._socket._can_destroy, "the kernel of the test is Linux 6.3 or later"
        made._socket._can_destroy = can_destroy
        yield made
    finally:
        made.remove()


def pinhole(port=40000, transport=Transport.TCP, *, six=False, **settings):
    client, proxy = (CLIENT_6, PROXY_6) if six else (CLIENT, PROXY)
    return Pinhole(Endpoint(proxy, port), transport, Endpoint(client, 5000), **settings)


def plain(value):
    """Return an element or a part of it as it is written."""
    if isinstance(value, dict):
        if "concat" in value:
            return tuple(plain(each) for each in value["concat"])
        if "range" in value:
            return "-".join(value["range"])
        if "prefix" in value:
            return "{addr}/{len}".format(**value["prefix"])
        return plain(value.get("elem", value)["val"])
    return value


def listed():
    """Return the elements of all sets: keys, or pairs of key and value."""
    found = {}
    for entry in json.loads(shell("nft -j list ruleset"))["nftables"]:
        each = entry.get("map") or entry.get("set")
        if each is None or not each.get("elem"):
            continue
        pairs = "map" in entry
        found[each["name"]] = [
            (plain(one[0]), plain(one[1])) if pairs else plain(one) for one in each["elem"]
        ]
    return found


WHERE, WHERE_6 = ("tcp", PROXY, 40000), ("tcp", PROXY_6, 40000)
TARGET, TARGET_6 = (WHERE, (CLIENT, 5000)), (WHERE_6, (CLIENT_6, 5000))


@in_own_network
@pytest.mark.parametrize("can_own", [True, False])
@pytest.mark.parametrize("can_destroy", [True, False])
@pytest.mark.parametrize(
    ("opened", "there"),
    [
        (pinhole(), {"targets4": [TARGET], "open4": [WHERE]}),
        (pinhole(six=True), {"targets6": [TARGET_6], "open6": [WHERE_6]}),
        (
            pinhole(peers=IpFilter.only(PEER)),
            {"targets4": [TARGET], "peers4": [(PEER, *WHERE)]},
        ),
        (
            pinhole(six=True, peers=IpFilter.only(PEER_6), source=Endpoint(PROXY_6)),
            {
                "targets6": [TARGET_6],
                "peers6": [(PEER_6, *WHERE_6)],
                "sources6": [((PROXY_6, "tcp", CLIENT_6, 5000), PROXY_6)],
            },
        ),
        (pinhole(peers=IpFilter()), {"targets4": [TARGET]}),
        (
            pinhole(
                peers=IpFilter().include_range("198.51.100.1", "198.51.100.9"), is_single=False
            ),
            {
                "targets4": [TARGET],
                "lasting4": [WHERE],
                "ranges4": [("198.51.100.1-198.51.100.9", *WHERE)],
            },
        ),
        (
            pinhole(six=True, peers=IpFilter.only("2001:db8:1::/64"), is_single=False),
            {
                "targets6": [TARGET_6],
                "lasting6": [WHERE_6],
                "ranges6": [("2001:db8:1::/64", *WHERE_6)],
            },
        ),
        (
            pinhole(transport=Transport.UDP, is_one_way=True),
            {
                "targets4": [(("udp", PROXY, 40000), (CLIENT, 5000))],
                "open4": [("udp", PROXY, 40000)],
                "mute4": [(PROXY, CLIENT, 5000)],
            },
        ),
    ],
    ids=itertools.count(),
)
async def test_what_is_opened_is_there_until_it_is_closed(opened, there, can_own, can_destroy):
    with table(can_own=can_own, can_destroy=can_destroy) as made:
        assert made.is_owned is can_own
        made.open([opened])
        assert listed() == there
        made.close([opened])
        assert not listed()


@in_own_network
@pytest.mark.parametrize("can_destroy", [True, False])
async def test_closing_what_has_expired_or_was_taken_out_is_no_failure(can_destroy, monkeypatch):
    """A transaction that fails keeps the loop waiting for many times as long as another."""
    with table(can_own=False, can_destroy=can_destroy) as made:
        there = [pinhole(40000 + number, peers=IpFilter.only(PEER)) for number in range(3)]
        made.open(there)
        shell(f"nft flush set inet {made.name} peers4")
        shell(f"nft delete element inet {made.name} targets4 {{ tcp . {PROXY} . 40001 }}")
        refused = []

        def remember(self, transaction, commit=ElementSocket.commit):
            try:
                commit(self, transaction)
            except KernelPathError as error:
                refused.append(error)
                raise

        monkeypatch.setattr(ElementSocket, "commit", remember)
        made.close(there)
        assert not refused
        assert not listed()


@in_own_network
async def test_a_transaction_that_is_refused_leaves_nothing_and_harms_no_later_one():
    with table(max_pinholes=3) as made:
        made.open([pinhole(40000)])
        five = (Transport.TCP, Endpoint(PEER, 1), Endpoint(PEER, 2))
        before = listed()
        many = [(Transport.TCP, Endpoint(PEER, port), Endpoint(PEER, 2)) for port in range(2, 90)]
        with pytest.raises(KernelPathError, match="a set is full"):
            made.kill(many)
        assert listed() == before
        made.kill([five])
        assert listed()["killed4"] == [(PEER, 1, PEER, 2, "tcp")]
        made.open([pinhole(40001)])
        made.close([pinhole(40000), pinhole(40001)])
        assert set(listed()) == {"killed4"}


@in_own_network
async def test_as_many_as_there_may_be_in_one_transaction():
    """More bytes than a socket's buffer usually has room for."""
    with table(max_pinholes=4000) as made:
        there = [
            pinhole(20000 + number, six=True, peers=IpFilter.only(PEER_6)) for number in range(4000)
        ]
        made.open(there)
        assert {name: len(found) for name, found in listed().items()} == {
            "targets6": 4000,
            "peers6": 4000,
        }
        made.close(there)
        assert not listed()


@in_own_network
async def test_only_the_owners_socket_changes_an_owned_table():
    with table() as made:
        others = netfilter_sockets()
        trial = elements.kill((Transport.TCP, Endpoint(PEER, 1), Endpoint(PEER, 2)), 1.0)
        with pytest.raises(KernelPathError, match="libnftables has no socket"):
            ElementSocket.open(made.name, iter(()), trial)
        with pytest.raises(KernelPathError, match="not permitted"):
            ElementSocket.open(made.name, iter([open_netfilter()]), trial)
        assert netfilter_sockets() == others
        made.open([pinhole()])


@in_own_network
async def test_without_the_owners_socket_the_table_is_not_owned(monkeypatch):
    monkeypatch.setattr("fwproxy.datapath.kernel.nft.netfilter_sockets", dict)
    with table() as made:
        assert not made.is_owned
        made.open([pinhole()])
        assert listed() == {"targets4": [TARGET], "open4": [WHERE]}


@in_own_network
async def test_an_address_with_a_scope_is_not_translated():
    far = Endpoint.from_sockaddr(("fe80::1%lo", 5000))
    with table() as made, pytest.raises(KernelPathError, match="is not translated"):
        made.open([Pinhole(Endpoint(PROXY_6, 40000), Transport.TCP, far)])
    assert not listed()
