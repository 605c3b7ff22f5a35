"""Datagrams from peers at one socket to one target, and replies where they are permitted."""

import asyncio
import contextlib
import socket

import attrs
import pytest
from rig import HOST, OTHER_HOST, Datagrams, closing, eventually, turns
from wires import running_deadlines, running_poller

from fwproxy.address import Endpoint
from fwproxy.datapath.datagram import DATAGRAMS_PER_TURN, DatagramRelay
from fwproxy.datapath.flow import DatagramLimits
from fwproxy.errors import AddressNotAllowedError
from fwproxy.filter import DataFilter, Ends
from fwproxy.flags import Verdict


@attrs.define
class Field:
    """A relay between peers and a target, and what it has asked and said."""

    relay: DatagramRelay
    target: Datagrams
    peer: Datagrams
    other: Datagrams
    stranger: Datagrams
    asked: list
    ends: list

    @property
    def address(self):
        return Endpoint.from_sockaddr(self.relay.sock.getsockname())

    def send(self, data, peer=None):
        (peer or self.peer).send(data, self.address)

    async def dropped(self, count):
        await eventually(lambda: self.relay.dropped == count)


def connected_to(address: Endpoint) -> socket.socket:
    far = socket.socket(type=socket.SOCK_DGRAM)
    far.settimeout(0)
    far.connect(address.sockaddr)
    return far


LIMITS = DatagramLimits(
    max_peers=1,
    peer_timeout=60,
    reply_timeout=None,
    max_waiting=4,
    max_buffer=1 << 16,
    filter_timeout=30,
)


@contextlib.asynccontextmanager
async def field(
    *, replies=True, from_client=True, welcome=True, open_far=None, later=None, **limits
):
    async with running_poller() as poller, running_deadlines() as deadlines:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.settimeout(0)
        sock.bind((HOST, 0))
        target, peer, other, stranger = (Datagrams(host) for host in (HOST, HOST, HOST, OTHER_HOST))
        asked, ends = [], []
        goal = target.address

        def connected(ends):
            return connected_to(goal)

        def ends_of(host):
            return Ends(host, goal) if from_client else Ends(goal, host)

        def welcomes(these, answer):
            asked.append(these.client if from_client else these.server)
            if later is None:
                answer(Verdict.ALLOW if welcome else Verdict.DENY)
            else:
                later.append(answer)

        relay = DatagramRelay(
            poller,
            deadlines,
            "the connection",
            sock,
            open_far=open_far or connected,
            ends_of=ends_of,
            allowed=lambda host: host == HOST,
            welcome=welcomes,
            replies=replies,
            from_client=from_client,
            limits=attrs.evolve(LIMITS, **limits),
            on_done=lambda *end: ends.append(end),
        )
        with closing(target, peer, other, stranger, relay):
            relay.start()
            yield Field(relay, target, peer, other, stranger, asked, ends)
        assert sock.fileno() == -1


async def test_datagrams_go_to_the_target_whole_and_in_order():
    async with field() as made:
        sent = [b"one", b"", b"x" * 60_000, b"four"]
        for data in sent:
            made.send(data)
            assert (await made.target.receive())[0] == data
        assert made.asked == [made.peer.address]
        assert made.relay.client_bytes == sum(map(len, sent))
        assert made.relay.server_bytes == 0


async def test_replies_find_their_way_back_where_they_are_permitted():
    async with field() as made:
        made.send(b"question")
        _, sender = await made.target.receive()
        made.target.send(b"answer", sender)
        assert await made.peer.receive() == (b"answer", made.address)
        assert (made.relay.client_bytes, made.relay.server_bytes) == (8, 6)


async def test_the_counters_know_who_is_the_client():
    async with field(from_client=False) as made:
        made.send(b"question")
        _, sender = await made.target.receive()
        made.target.send(b"answer", sender)
        await made.peer.receive()
        assert (made.relay.client_bytes, made.relay.server_bytes) == (6, 8)


async def test_replies_are_dropped_where_they_are_not_permitted():
    async with field(replies=False) as made:
        made.send(b"question")
        _, sender = await made.target.receive()
        made.target.send(b"answer", sender)
        await made.dropped(1)
        assert made.peer.take() is None
        assert made.relay.server_bytes == 0


async def test_a_single_source_is_the_first_one():
    async with field() as made:
        made.send(b"first")
        assert (await made.target.receive())[0] == b"first"
        made.send(b"second", made.other)
        await made.dropped(1)
        made.send(b"third")
        assert (await made.target.receive())[0] == b"third"
        assert made.asked == [made.peer.address]


async def test_many_sources_are_kept_apart_up_to_a_bound():
    async with field(max_peers=2) as made:
        senders = {}
        for peer, data in ((made.peer, b"one"), (made.other, b"two")):
            made.send(data, peer)
            found, sender = await made.target.receive()
            assert found == data
            senders[sender] = peer
        assert len(senders) == 2
        assert made.asked == [made.peer.address, made.other.address]
        third = Datagrams()
        with closing(third):
            made.send(b"three", third)
            await made.dropped(1)
        for sender, peer in senders.items():
            made.target.send(str(peer.address).encode(), sender)
            assert (await peer.receive())[0] == str(peer.address).encode()


async def test_another_host_is_not_heard_and_takes_no_place():
    async with field() as made:
        made.send(b"race", made.stranger)
        await made.dropped(1)
        assert not made.asked
        made.send(b"mine")
        assert (await made.target.receive())[0] == b"mine"


async def test_only_the_target_may_reply():
    async with field() as made:
        made.send(b"question")
        _, sender = await made.target.receive()
        made.other.send(b"spoofed", sender)
        made.target.send(b"answer", sender)
        assert (await made.peer.receive())[0] == b"answer"
        assert made.peer.take() is None


async def test_a_refused_first_source_leaves_nothing_open():
    opened = []

    def open_far(ends):
        opened.append(socket.socket(type=socket.SOCK_DGRAM))
        return opened[-1]

    async with field(welcome=False, open_far=open_far) as made:
        made.send(b"x")
        await made.dropped(1)
        assert made.asked == [made.peer.address]
        assert all(sock.fileno() == -1 for sock in opened)


async def test_a_target_that_cannot_be_reached_drops_and_a_source_is_told_of_once():
    attempts = []

    def open_far(ends):
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("no descriptor")
        return connected_to(goal)

    async with field(open_far=open_far) as made:
        goal = made.target.address
        made.send(b"one", made.other)
        made.send(b"two")
        await made.dropped(2)
        made.send(b"three")
        assert (await made.target.receive())[0] == b"three"
        assert made.asked == [made.peer.address]


async def test_a_target_that_is_not_there_yet_costs_datagrams_only():
    """A closed port answers with ICMP, which the kernel reports as an error (udp(7))."""
    async with field() as made:
        address = made.target.address
        made.target.close()
        for _ in range(3):
            made.send(b"to nobody")
            await turns()
        with socket.socket(type=socket.SOCK_DGRAM) as late:
            late.bind(address.sockaddr)
            late.settimeout(0)
            await turns()
            made.send(b"to somebody")
            await eventually(lambda: b"to somebody" in received(late))
        assert not made.ends


def received(sock: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(65535))
    return found


async def test_a_peer_that_has_gone_costs_replies_only():
    async with field(max_peers=2) as made:
        made.send(b"question")
        _, sender = await made.target.receive()
        made.peer.close()
        for _ in range(3):
            made.target.send(b"answer", sender)
            await turns()
        made.send(b"another", made.other)
        assert (await made.target.receive())[0] == b"another"
        assert not made.ends


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_burst_is_carried_in_turns(way):
    async with field() as made:
        made.send(b"hello")
        _, sender = await made.target.receive()
        count = DATAGRAMS_PER_TURN * 2 + 10
        for number in range(count):
            if way == "up":
                made.send(b"%d" % number)
            else:
                made.target.send(b"%d" % number, sender)
        end = made.target if way == "up" else made.peer
        assert [(await end.receive())[0] for _ in range(count)] == [b"%d" % n for n in range(count)]


async def test_closing_closes_every_socket_and_may_be_repeated():
    async with field(max_peers=2) as made:
        made.send(b"one")
        made.send(b"two", made.other)
        await made.target.receive()
        await made.target.receive()
        made.relay.close(abort=True)
        made.relay.close()
        assert not made.ends


async def test_a_fault_of_our_own_ends_it_and_is_reported():
    faults = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))

    def fault(ends):
        raise ValueError("a fault")

    async with field(open_far=fault) as made:
        made.send(b"x")
        await eventually(lambda: made.ends)
        assert made.ends[0][:2] == ("internal error", True)
    assert [str(fault) for fault in faults] == ["a fault"]


@contextlib.asynccontextmanager
async def shared(*, filters=(), max_peers=4, deny=()):
    """A relay whose peers share a socket that is not its own, each with several targets."""
    async with running_poller() as poller, running_deadlines() as deadlines:
        said, made = [], []
        relay = DatagramRelay(
            poller,
            deadlines,
            "the connection",
            None,
            reply=lambda data, peer: said.append((bytes(data), peer)),
            open_far=lambda ends: connected_to(ends.server),
            ends_of=made.append,
            allowed=lambda host: False,
            admit=lambda ends, answer: answer(
                Verdict.DENY if ends.server in deny else Verdict.PASS
            ),
            welcome=lambda ends, answer: answer(Verdict.ALLOW),
            replies=True,
            from_client=True,
            limits=attrs.evolve(LIMITS, max_peers=max_peers),
            on_done=lambda *end: pytest.fail(str(end)),
        )
        if filters:
            relay.set_filters([(each, None) for each in filters])
        with closing(relay):
            relay.start()
            yield relay, said
        assert not made


CLIENT = Endpoint("10.0.0.8", 5000)


@pytest.mark.parametrize("filters", [[], [DataFilter, DataFilter]])
async def test_one_client_may_have_several_targets_at_a_socket_of_somebody_elses(filters):
    targets = [Datagrams() for _ in range(2)]
    with closing(*targets):
        async with shared(filters=[kind() for kind in filters]) as (relay, said):
            for number, target in enumerate(targets):
                ends = Ends(CLIENT, target.address)
                for data in (b"one", b"two"):
                    relay.take((CLIENT, target.address), memoryview(data), ends)
                    found, sender = await target.receive()
                    assert found == data
                target.send(b"answer %d" % number, sender)
            await eventually(lambda: len(said) == 2)
            assert set(said) == {
                (b"answer %d" % number, (CLIENT, target.address))
                for number, target in enumerate(targets)
            }
            assert relay.peers == 2
            assert relay.external_name.host == HOST
            assert relay.internal_name is None


async def test_what_is_taken_is_held_to_the_same_bounds():
    targets = [Datagrams() for _ in range(3)]
    with closing(*targets):
        denied = targets[0].address
        async with shared(max_peers=1, deny={denied}) as (relay, _):
            relay.take("denied", b"x", Ends(CLIENT, denied))
            assert (relay.peers, relay.dropped) == (0, 1)
            relay.take("first", b"x", Ends(CLIENT, targets[1].address))
            relay.take("second", b"x", Ends(CLIENT, targets[2].address))
            relay.take("other key", b"x", Ends(CLIENT, targets[1].address))
            assert (relay.peers, relay.dropped) == (1, 3)
            relay.max_datagram = 2
            relay.take("first", b"xyz", Ends(CLIENT, targets[1].address))
            assert relay.dropped == 4


async def test_a_filter_may_send_along_any_of_the_ways_and_no_other():
    caught = []

    class Copies(DataFilter):
        def datagram_from_client(self, data, ends):
            for target in targets:
                self.to_server.send_to(data, ends.with_server(target.address))
            with pytest.raises(AddressNotAllowedError) as error:
                self.to_server.send_to(data, ends.with_server(CLIENT))
            caught.append(error.value)

    with closing(*(targets := [Datagrams() for _ in range(2)])):
        copies = Copies()
        async with shared() as (relay, _):
            both = [Ends(CLIENT, target.address) for target in targets]
            for number, ends in enumerate(both):
                relay.take(number, b"open", ends)
                await targets[number].receive()
            relay.set_filters([(copies, None)])
            relay.take(0, b"copy me", both[0])
            for target in targets:
                assert (await target.receive())[0] == b"copy me"
            assert len(caught) == 1


async def test_those_who_wait_for_an_answer_are_bounded_and_kept_in_order():
    answers = []
    async with field(later=answers, max_waiting=2) as made:
        for number in range(5):
            made.send(b"%d" % number)
        await made.dropped(3)
        assert len(answers) == 1
        answers[0](Verdict.ALLOW)
        assert [(await made.target.receive())[0] for _ in range(2)] == [b"0", b"1"]
        made.send(b"after")
        assert (await made.target.receive())[0] == b"after"


async def test_an_answer_that_comes_after_the_end_changes_nothing():
    answers = []
    async with field(later=answers) as made:
        made.send(b"x")
        await eventually(lambda: answers)
        made.relay.close()
        answers[0](Verdict.ALLOW)
        assert made.relay.peers == 0
        assert made.relay.dropped == 1


async def test_larger_datagrams_are_dropped_in_both_directions():
    async with field() as made:
        made.send(b"xyz")
        _, sender = await made.target.receive()
        made.relay.max_datagram = 2
        made.send(b"xyz")
        made.target.send(b"xyz", sender)
        await made.dropped(2)
        made.send(b"xy")
        assert (await made.target.receive())[0] == b"xy"
