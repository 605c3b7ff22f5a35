"""A thousand sessions open and close twenty permissions each, and some are killed meanwhile."""

import asyncio
import contextlib
import os
import random
import resource
import socket
from collections import Counter

import attrs
import pytest
from calls import UNKNOWN, F, bind, redirect
from rig import Primary, assert_nothing_left, leftovers, make_filter, open_world

from fwproxy import Connection, DataFilter, Endpoint, Transport, Verdict
from fwproxy.config.config import Limits, PortRange, SecondaryConfig
from fwproxy.errors import (
    CallError,
    PolicyRulesDeniedError,
    PortsExhaustedError,
    TerminatingError,
)
from fwproxy.events import AcceptedConnection, BindTcp, BindUdp, ConnectTcp

SESSIONS, PERMISSIONS = 1000, 20
PORTS = PortRange(20000, 24999)
"""Outside of the range that the kernel gives to outgoing connections by itself."""
HOST = f"127.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}.1"
"""An address of this process alone, where nobody else's ports are."""
LIMITS = Limits(max_sessions_per_client=SESSIONS, drain_timeout=0.5)


@pytest.fixture(autouse=True)
def many_descriptors():
    """A session with its permissions has about ten sockets, those of the test included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def usable_ports(world):
    """Return the ports that can be bound, of each transport, as the pool would bind them."""
    pool, usable = world.engine.ports, Counter()
    for transport in Transport:
        for port in range(PORTS.first, PORTS.last + 1):
            address = Endpoint(HOST, port)
            try:
                (sock,) = pool.allocate(address, transport)
            except CallError:
                continue
            sock.close()
            pool.release(address, transport)
            usable[transport] += 1
    return usable


def a_random_filter(rng):
    """Make a filter that denies some binds, plays some, thinks about some, and looks into some."""

    def answer(event):
        dice = rng.random()
        if dice < 0.02:
            return Verdict.DENY
        if isinstance(event, BindTcp | BindUdp):
            return Verdict.EMULATE if dice < 0.08 else None
        if dice < 0.1 and event.connection.is_secondary:
            event.connection.attach_data_filter(DataFilter())
        return None

    async def answer_later(event):
        await asyncio.sleep(0)
        return answer(event)

    def hear(event):
        if isinstance(event, ConnectTcp) and not event.is_secondary:
            return None
        return answer_later(event) if rng.random() < 0.1 else answer(event)

    events = [ConnectTcp, BindTcp, BindUdp]
    return make_filter("moody", hear, *events, associated=[AcceptedConnection, ConnectTcp])


@attrs.define
class Life:
    """One session, and the permissions that it holds."""

    primary: Primary
    rng: random.Random
    sink: Endpoint
    outcomes: Counter
    held: list = attrs.field(factory=list)
    sockets: list = attrs.field(factory=list)

    async def live(self):
        for _ in range(PERMISSIONS):
            await self.open_one()
            while self.held and self.rng.random() < 0.55:
                self.close_one()
            if self.rng.random() < 0.015:
                self.kill()
            for _ in range(self.rng.randrange(6)):
                await asyncio.sleep(0)
        self.end()

    async def open_one(self):
        rng = self.rng
        settings = {
            "transport": rng.choice(list(Transport)),
            "flags": rng.choice([F.NONE, F.TIMEOUT, F.NO_KERNEL_MODE]),
        }
        try:
            if rng.random() < 0.6:
                clients = rng.choice([[self.sink], [UNKNOWN], [self.sink, self.sink]])
                settings["proxy_address"] = Endpoint(HOST)
                self.held += await bind(self.primary, *clients, **settings)
            else:
                targets = [self.sink] * rng.choice([1, 1, 2])
                made = await redirect(self.primary, *targets, **settings)
                self.held += made.actions
        except CallError as error:
            self.outcomes[type(error)] += 1
        else:
            self.outcomes["opened"] += 1
            if rng.random() < 0.3:
                self.use(self.held[-1], settings["transport"])

    def use(self, permission, transport):
        """Come to the port, whatever becomes of it; what a filter plays has none."""
        sock = socket.socket(type=transport.socket_type)
        sock.settimeout(0)
        self.sockets.append(sock)
        with contextlib.suppress(OSError):
            sock.connect(permission.proxy_address.sockaddr)
            sock.send(b"x")

    def close_one(self):
        one = self.held.pop(self.rng.randrange(len(self.held)))
        if isinstance(one, Connection):
            one.kill()
        else:
            one.cancel()

    def kill(self):
        self.outcomes["killed"] += 1
        kills = [
            self.primary.client.reset,
            self.primary.server.reset,
            lambda: self.primary.session.primary and self.primary.connection.kill(),
            lambda: self.primary.session.end("stressed"),
            lambda: self.primary.session.end("stressed", at_once=True),
        ]
        with contextlib.suppress(OSError):  # it was reset before
            self.rng.choice(kills)()

    def end(self):
        """Leave, with whatever is still open."""
        for sock in (*self.sockets, self.primary.client, self.primary.server):
            sock.close()


async def sink_of(world):
    """Let somebody accept everything, and close it after a while."""
    listener = world.listen(HOST)
    accepted = []

    def accept():
        with contextlib.suppress(OSError):
            sock, _ = listener.sock.accept()
            accepted.append(sock)
        while len(accepted) > 50:
            accepted.pop(0).close()

    loop = asyncio.get_running_loop()
    loop.add_reader(listener.sock.fileno(), accept)

    def close():
        loop.remove_reader(listener.sock.fileno())
        for sock in accepted:
            sock.close()

    return listener.address, close


async def test_a_thousand_sessions_leave_nothing_behind():
    rng, outcomes = random.Random(20), Counter()
    settings = {"limits": LIMITS, "secondary": SecondaryConfig(ports=PORTS), "host": HOST}
    async with open_world(a_random_filter(rng), **settings) as world:
        usable = usable_ports(world)
        sink, close_sink = await sink_of(world)
        lives = []
        try:
            for number in range(SESSIONS):
                primary = await world.primary(HOST)
                lives.append(Life(primary, random.Random(number), sink, outcomes))
            await asyncio.gather(*(life.live() for life in lives))
        finally:
            close_sink()
            for life in lives:
                life.end()
        await assert_nothing_left(world.firewall, patience=15)
        assert not leftovers(world.firewall)
        assert usable_ports(world) == usable
    expected = {TerminatingError, PolicyRulesDeniedError, PortsExhaustedError}
    assert set(outcomes) <= {"opened", "killed", *expected}
    assert sum(outcomes.values()) - outcomes["killed"] == SESSIONS * PERMISSIONS
    assert outcomes["killed"] > 100
    assert outcomes["opened"] > 0.7 * SESSIONS * PERMISSIONS
    assert outcomes[TerminatingError] > 100
