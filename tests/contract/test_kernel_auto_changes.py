"""What the kernel carries by itself moves to user space when the host changes, and back."""

import asyncio
import contextlib
import ctypes
import socket
import struct
import threading

import attrs
import pytest
from calls import F, bind, bind_udp, carries, is_refused, proxy_address, redirect
from kernel_world import (
    FORWARDING_OFF,
    LONG_BUT_REMEMBERED,
    add_chain,
    auto_world,
    come,
    elements,
    near,
    path,
    reason,
    tables,
)
from own_network import NEAR, NEAR_6, in_own_network, shell
from rig import PROBE_DATA, eventually, turns

from fwproxy import Endpoint, Transport
from fwproxy.config.config import DatapathConfig, Limits
from fwproxy.config.listeners import ListenerConfig, ListenerKind
from fwproxy.engine.kernel import JUST_CHANGED, ONLY_LOOPBACK, KernelMode
from fwproxy.errors import KernelPathError

UDP = Transport.UDP
PLENTY = attrs.evolve(LONG_BUT_REMEMBERED, max_connections_per_session=10_000)


async def forbid(world):
    """Let somebody else load rules that drop what is forwarded."""
    add_chain("forward", policy="drop")
    await eventually(lambda: "may drop what is forwarded" in reason(world))


async def allow(world):
    shell("nft delete table inet strict")
    await eventually(lambda: not reason(world))


@in_own_network
async def test_rules_that_are_loaded_later_stop_it_and_it_comes_back(logged):
    async with auto_world() as here:
        primary, carried, client = await near(here)
        ends = await come(here, carried, client, NEAR)
        for _ in range(2):
            await forbid(here)
            (spliced,) = await bind(primary, client.address)
            assert spliced.choice.path.value == "splice"
            assert "inet strict at_forward may drop" in spliced.permission.entry().why
            assert await carries(*await come(here, spliced, client, NEAR))
            await allow(here)
            (again,) = await bind(primary, client.address)
            assert again.choice.path.value == "kernel"
            assert await carries(*await come(here, again, client, NEAR))
        assert carried.data_path == "kernel"
        assert await carries(*ends)
    events = [line["event"] for line in logged]
    assert events.count("the kernel path rests, connections are spliced") == 2
    assert events.count("the kernel carries connections again") == 2


@in_own_network
async def test_a_host_that_begins_to_forward_is_noticed():
    world = auto_world()
    shell(FORWARDING_OFF)
    async with world as here:
        assert not tables()
        shell("echo 1 >/proc/sys/net/ipv4/ip_forward")
        await eventually(lambda: path(here) is not None and not reason(here))
        shell("ip rule add fwmark 1 lookup 100")
        await eventually(lambda: "policy routing" in reason(here))
        shell("ip rule delete fwmark 1 lookup 100")
        await eventually(lambda: not reason(here))
        shell("echo 0 >/proc/sys/net/netfilter/nf_conntrack_acct")
        here.advance(3)
        assert "nf_conntrack_acct" in reason(here)


@in_own_network
@pytest.mark.parametrize("host", [NEAR, NEAR_6])
@pytest.mark.parametrize("flags", [F.NONE, F.ALLOW_MULTIPLE])
async def test_ports_that_wait_in_the_kernel_wait_in_user_space_then(host, flags):
    async with auto_world(host=host) as here:
        primary = await here.primary(source=host)
        client, server = here.listen(host), here.listen(host)
        (bound,) = await bind(primary, client.address, flags=flags)
        redirected = await redirect(primary, server.address, flags=flags)
        (action,) = redirected.actions
        assert {bound.choice.path.value, action.choice.path.value} == {"kernel"}
        await forbid(here)
        assert not elements()
        for permission in (bound.permission, action):
            assert permission.is_active
            assert "at_forward may drop" in permission.entry().why
        for _ in range(1 if flags is F.NONE else 3):
            assert await carries(*await come(here, bound, client, host))
            coming = await here.connect(redirected.internal_address, host)
            assert await carries(coming, await here.accept(server))
        assert {each.data_path for each in primary.session.connections} <= {"splice", ""}
        if flags is F.NONE:
            assert bound.permission.close_reason == action.close_reason == "used"
            assert await is_refused(here, proxy_address(bound), host)
        else:
            bound.kill()
            action.cancel()
            assert await is_refused(here, redirected.internal_address, host)


@in_own_network
async def test_datagrams_wait_in_user_space_as_well():
    async with auto_world() as here:
        primary = await here.primary(source=NEAR)
        client, server, stranger = (here.datagrams(NEAR) for _ in range(3))
        (bound,) = await bind_udp(primary, client.address, flags=F.BIDIRECTIONAL)
        redirected = await redirect(primary, server.address, transport=UDP)
        await forbid(here)
        server.send(b"to the client", proxy_address(bound))
        data, sender = await client.receive()
        assert data == b"to the client"
        client.send(b"answer", sender)
        assert await server.receive() == (b"answer", proxy_address(bound))
        stranger.send(b"me too", proxy_address(bound))
        client.send(b"question", redirected.internal_address)
        data, sender = await server.receive()
        server.send(b"answer", sender)
        assert await client.receive() == (b"answer", redirected.internal_address)
        await turns()
        assert client.take() is None
        assert bound.data_path == "datagram"
        assert "at_forward may drop" in bound.choice.reason


@in_own_network
async def test_a_source_that_has_rested_comes_again_through_user_space():
    async with auto_world() as here:
        primary = await here.primary(source=NEAR)
        client, server, stranger = (here.datagrams(NEAR) for _ in range(3))
        (connection,) = await bind_udp(primary, client.address)
        server.send(b"one", proxy_address(connection))
        await client.receive()
        await eventually(lambda: connection.kernel_flow)
        flow = connection.kernel_flow
        await forbid(here)
        assert connection.kernel_flow is flow
        shell("conntrack -D -p udp >/dev/null 2>&1")  # as if it had rested for long
        await eventually(lambda: connection.data_path == "datagram")
        server.send(b"again", proxy_address(connection))
        assert (await client.receive())[0] == b"again"
        stranger.send(b"me too", proxy_address(connection))
        await turns()
        assert client.take() is None
        assert connection.server_bytes == len(b"one") + 28 + len(b"again")


@in_own_network
async def test_a_permitted_connection_of_the_client_is_still_permitted():
    async with auto_world() as here:
        primary = await here.primary(source=NEAR)
        server = here.listen(NEAR)
        action = await primary.session.allow_future_connect(server.address, protocol=PROBE_DATA)
        assert action.choice.path.value == "kernel"
        await forbid(here)
        assert action.is_active
        assert here.engine.expected.claim(NEAR, Transport.TCP, server.address) is not None
        assert not elements()


@in_own_network
async def test_a_burst_of_changes_is_looked_at_a_few_times(monkeypatch):
    looks = []
    look = KernelMode._look_at_rules
    monkeypatch.setattr(KernelMode, "_look_at_rules", lambda self: (looks.append(1), look(self)))
    async with auto_world() as here:
        _, waiting, client = await near(here)
        deadlines = here.engine.deadlines
        now = deadlines.now
        stopped = now()
        deadlines.now = lambda: stopped  # however long this takes on a busy machine
        add_chain("input", "accept")
        for number in range(30):
            shell(f"nft add rule inet strict at_input ip saddr 192.0.2.{number} accept")
            await turns()
        assert reason(here) == JUST_CHANGED
        assert not elements()  # nobody knows yet whether anybody would get through
        assert await carries(*await come(here, waiting, client, NEAR))
        _, connection, _ = await near(here)
        assert connection.choice.path.value == "splice"
        assert len(looks) == 1
        deadlines.now = now
        await eventually(lambda: not reason(here))
        assert len(looks) == 2
        looks.clear()
        shell("nft 'add set inet strict banned { type ipv4_addr; }'")
        await eventually(lambda: looks and not reason(here))
        await asyncio.sleep(0.3)
        looks.clear()
        for number in range(5):  # what is in a set adds no rule
            shell(f"nft add element inet strict banned {{ 192.0.2.{number} }}")
        await near(here)
        await asyncio.sleep(0.1)
        assert not looks


@in_own_network
async def test_notices_that_are_lost_are_made_up_for():
    async with auto_world() as here:
        watch = here.engine.kernel._watch
        here.engine.poller.unregister(watch._rules.fileno())
        shell("nft 'add table inet strict; add set inet strict numbers { type inet_service; }'")
        for start in range(0, 60_000, 2_000):
            numbers = ", ".join(map(str, range(start, start + 2_000)))
            shell(f"nft 'add element inet strict numbers {{ {numbers} }}'")
        add_chain("forward", policy="drop")  # nobody hears of that: there is no room
        assert not reason(here)
        here.engine.poller.watch(watch._rules.fileno(), watch)
        await eventually(lambda: "may drop what is forwarded" in reason(here))


@in_own_network
async def test_on_loopback_nothing_is_looked_at():
    async with auto_world(host="127.0.0.1", limits=Limits()) as here:
        assert reason(here) == ONLY_LOOPBACK
        add_chain("forward", policy="drop")
        await turns()
        assert reason(here) == ONLY_LOOPBACK


@contextlib.contextmanager
def without_permission():
    """Let the thread have no CAP_NET_ADMIN, as if it had been taken away."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)
    sets = ctypes.create_string_buffer(24)
    assert libc.capget(header, sets) == 0
    effective, *others = struct.unpack("=6I", sets.raw)
    less = struct.pack("=6I", effective & ~(1 << 12), *others)
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, sets.raw) == 0


@in_own_network
@pytest.mark.parametrize("how", ["noticed", "at the next pinhole", "at the next end"])
async def test_a_permission_that_is_taken_away_closes_everything_in_the_kernel(how, logged):
    async with auto_world() as here:
        primary, waiting, client = await near(here)
        (ending,) = await bind(primary, client.address)
        (carried,) = await bind(primary, client.address)
        ends = await come(here, carried, client, NEAR)
        await eventually(lambda: carried.data_path == "kernel")
        with without_permission():
            if how == "noticed":
                here.advance(3)
            elif how == "at the next end":
                ending.kill()
            (spliced,) = await bind(primary, client.address)
            assert spliced.choice.path.value == "splice"
            assert await carries(*await come(here, spliced, client, NEAR))
            here.advance(3)
            assert not tables()
            assert "CAP_NET_ADMIN" in reason(here)
            assert await carries(*await come(here, waiting, client, NEAR))
            assert waiting.data_path == "splice"
            assert carried.is_closed
        for end in ends:
            end.close()
    assert "the kernel path has failed" in [line["event"] for line in logged]


@in_own_network
async def test_a_table_that_cannot_be_changed_for_once_is_made_anew(monkeypatch):
    async with auto_world() as here:
        primary, waiting, client = await near(here)
        (ending,) = await bind(primary, client.address)
        first = path(here)

        def refuse(self, pinholes):
            raise KernelPathError("no memory")

        with monkeypatch.context() as broken:
            broken.setattr("fwproxy.datapath.kernel.table.KernelTable.close", refuse)
            ending.kill()
        assert not tables()
        assert "no memory" in reason(here)
        assert await is_refused(here, proxy_address(ending), NEAR)
        assert await carries(*await come(here, waiting, client, NEAR))
        here.advance(3)
        assert path(here) is not first
        (again,) = await bind(primary, client.address)
        assert again.choice.path.value == "kernel"
        assert await carries(*await come(here, again, client, NEAR))


@in_own_network
@pytest.mark.parametrize("kernel", ["auto", "require"])
async def test_without_being_asked_it_lets_nobody_through_who_is_not_logged(logged, kernel):
    passed = ListenerConfig("passed", Endpoint(NEAR), "ftp", ListenerKind.REDIRECT, use_filters=())
    async with auto_world(more=[passed], datapath=DatapathConfig(kernel=kernel)):
        said = [line["event"] for line in logged if line.get("listener") == "passed"]
        rules = shell(f"nft list chain inet {tables()[0]} passages")
    assert ("listener is let through in the kernel" in said) is (kernel == "require")
    assert ("dport" in rules) is (kernel == "require")


class Knockers:
    """Threads that connect to a port all the time, and one that serves those who get through."""

    def __init__(self):
        self.server = socket.create_server((NEAR, 0), backlog=64)
        self.server.settimeout(0.1)
        self.came, self.refused = 0, 0
        self._stop, self._closed = threading.Event(), threading.Event()
        self._threads = []
        self._serving = threading.Thread(target=self._serve)
        self._serving.start()

    @property
    def target(self):
        return Endpoint.from_sockaddr(self.server.getsockname())

    def knock_at(self, address):
        self._threads.append(threading.Thread(target=self._knock, args=[address]))
        self._threads[-1].start()

    def _serve(self):
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                self.server.accept()[0].close()

    def _knock(self, address):
        while not self._stop.is_set():
            try:
                with socket.create_connection(address.sockaddr, 5) as sock:
                    sock.recv(1)
                    self.came += 1
            except ConnectionError:
                self.refused += 1

    async def close(self):
        self._stop.set()
        for each in self._threads:
            await asyncio.to_thread(each.join)
        self._closed.set()
        await asyncio.to_thread(self._serving.join)
        self.server.close()


@in_own_network
async def test_nobody_is_refused_while_ports_change_over():
    """There is no moment in which neither the kernel nor user space waits."""
    async with auto_world(limits=PLENTY) as here:
        primary = await here.primary(source=NEAR)
        knockers = Knockers()
        try:
            for number in range(1, 6):
                made = await redirect(primary, knockers.target, flags=F.ALLOW_MULTIPLE)
                assert made.actions[0].choice.path.value == "kernel"
                knockers.knock_at(made.internal_address)
                await eventually(lambda: knockers.came >= 20 * number)  # noqa: B023 - at once
                await forbid(here)
                await eventually(lambda: knockers.came >= 20 * number + 10)  # noqa: B023 - at once
                await allow(here)
        finally:
            await knockers.close()
        assert not knockers.refused
