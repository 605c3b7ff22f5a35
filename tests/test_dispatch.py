"""Events to session filters: order, verdicts, attachment and every kind of failure."""

import asyncio
import contextlib
import socket

import pytest
from rig import (
    HOST,
    Hearing,
    closing,
    eventually,
    leftovers,
    make_filter,
    open_world,
    turns,
)

from fwproxy import Endpoint, Filter, Hooks, SessionFilter, Verdict
from fwproxy.config.config import Limits
from fwproxy.dispatch import fold
from fwproxy.errors import NotRegisteredError, TerminatingError
from fwproxy.events import ConnectionTerminating, ConnectTcp

PASS, ALLOW, EMULATE, DENY = Verdict.PASS, Verdict.ALLOW, Verdict.EMULATE, Verdict.DENY


@pytest.mark.parametrize(
    ("verdicts", "strongest"),
    [
        ([], PASS),
        ([PASS, PASS], PASS),
        ([PASS, ALLOW, PASS], ALLOW),
        ([EMULATE, ALLOW], EMULATE),
        ([ALLOW, DENY, EMULATE], DENY),
    ],
)
def test_the_strongest_verdict_counts(verdicts, strongest):
    assert fold(verdicts) is strongest


def later(answer):
    async def hear(event):
        await asyncio.sleep(0)
        return answer

    return hear


def at_once(answer):
    return lambda event: answer


def recording(order, name, hear):
    def remember(event):
        order.append(name)
        return hear(event)

    return make_filter(name, remember, ConnectTcp)


async def comes_and_is_cut_off(world):
    """Be a client; a refusal may come before one knows of the connection."""
    try:
        client = await world.connect()
        await client.send(b"?")
        return await client.is_cut_off()
    except ConnectionError:
        return True


async def outcome(*hearers, **settings):
    """Let a client come and tell who heard of it and whether it got to the server."""
    order = []
    filters = [recording(order, f"{n}", hear) for n, hear in enumerate(hearers)]
    async with open_world(*filters, **settings) as world:
        server = asyncio.ensure_future(world.accept())
        told = asyncio.ensure_future(comes_and_is_cut_off(world))
        await asyncio.wait([server, told], return_when=asyncio.FIRST_COMPLETED)
        reached = server.done()
        for waiting in (server, told):
            waiting.cancel()
        await asyncio.wait([server, told])
        return order, reached


@pytest.mark.parametrize("way", [at_once, later])
@pytest.mark.parametrize("other_way", [at_once, later])
async def test_filters_hear_in_the_listeners_order(way, other_way):
    assert await outcome(way(None), other_way(PASS), way(ALLOW)) == (["0", "1", "2"], True)


@pytest.mark.parametrize("way", [at_once, later])
@pytest.mark.parametrize("other_way", [at_once, later])
async def test_the_first_denial_ends_the_round(way, other_way):
    assert await outcome(other_way(ALLOW), way(DENY), way(None)) == (["0", "1"], False)


@pytest.mark.parametrize("way", [at_once, later])
async def test_what_nobody_can_do_yet_is_refused(way):
    assert await outcome(way(EMULATE)) == (["0"], False)


def fail(event):
    raise ValueError("a fault")


def fail_as_cancelled(event):
    raise asyncio.CancelledError


async def fail_later(event):
    await asyncio.sleep(0)
    raise ValueError("a fault")


async def fail_as_cancelled_later(event):
    await asyncio.sleep(0)
    raise asyncio.CancelledError


@pytest.mark.parametrize("hear", [fail, fail_later, fail_as_cancelled, fail_as_cancelled_later])
async def test_a_handler_that_raises_denies(hear):
    assert await outcome(at_once(ALLOW), hear, at_once(None)) == (["0", "1"], False)


async def test_a_handler_that_takes_too_long_denies():
    async def hang(event):
        await asyncio.Event().wait()

    order, reached = await outcome(hang, at_once(None), limits=Limits(filter_timeout=0.05))
    assert (order, reached) == (["0"], False)


class Stubborn:
    """A handler that goes on although it is cancelled, until the test lets it end."""

    def __init__(self):
        self.cancelled = 0
        self.let_go = asyncio.Event()

    async def __call__(self, event):
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        raise ValueError("nobody wants to know any more")


@contextlib.asynccontextmanager
async def stubborn_world(**settings):
    stubborn = Stubborn()
    try:
        hooked = make_filter("stubborn", stubborn, ConnectTcp)
        async with open_world(hooked, **settings) as world:
            yield stubborn, world
    finally:
        stubborn.let_go.set()
        await turns()


async def test_a_handler_that_will_not_end_denies_and_is_left_to_itself(logged):
    async with stubborn_world(limits=Limits(filter_timeout=0.05)) as (stubborn, world):
        assert await comes_and_is_cut_off(world)
        await world.ended()
        await eventually(lambda: stubborn.cancelled == 1)
        (line,) = [line for line in logged if line["event"] == "filter failed"]
        assert line["filter"] == "stubborn"
        assert "filter_timeout" in line["error"]


async def test_a_session_can_end_although_a_handler_will_not():
    async with stubborn_world() as (_, world):
        client = await world.connect()
        await eventually(lambda: world.sessions)
        (session,) = world.sessions
        await turns()
        session.end("enough", at_once=True)
        assert await client.is_cut_off()
        await world.ended()


async def test_a_handler_that_hangs_holds_up_no_other_session(logged):
    async def hang(event):
        if event.connection.client_address == victim:
            await asyncio.Event().wait()

    victim = None
    hooked = make_filter("hang", hang, ConnectTcp)
    async with open_world(hooked, limits=Limits(filter_timeout=0.3)) as world:
        with closing(socket.socket()) as sock:
            sock.bind((HOST, 0))
            victim = Endpoint.from_sockaddr(sock.getsockname())
            sock.settimeout(0)
            await asyncio.get_running_loop().sock_connect(sock, world.address.sockaddr)
            await eventually(lambda: world.sessions)
            for _ in range(5):
                primary = await world.primary()
                await primary.client.send(b"x")
                assert await primary.server.read(1) == b"x"
            await eventually(lambda: len(world.sessions) == 5)
        (line,) = [line for line in logged if line["event"] == "filter failed"]
        assert line["filter"] == "hang"


async def test_a_handler_may_be_any_awaitable():
    answers = []

    def hear(event):
        answers.append(asyncio.get_running_loop().create_future())
        answers[-1].set_result(ALLOW)
        return answers[-1]

    assert await outcome(hear) == (["0"], True)


# Attachment.


class Attaching(Filter):
    """Attaches as it is told to and remembers for whom."""

    name = "attaching"
    attached: list
    hooks = Hooks.on(ConnectTcp)

    @staticmethod
    def make(session):
        return Hearing(session)

    def filter_init(self, firewall):
        return self.hooks

    def attach_to_session(self, session):
        type(self).attached.append(session)
        return type(self).make(session)


HEARS_CONNECTS = Hooks.on(ConnectTcp)


def attaching(make=Hearing, hooks=HEARS_CONNECTS):
    return type(
        "Attaching", (Attaching,), {"attached": [], "make": staticmethod(make), "hooks": hooks}
    )


async def test_filters_are_started_and_shut_down():
    heard = []

    class Kept(Filter):
        name = "kept"

        def filter_init(self, firewall):
            heard.append(("start", len(firewall.sessions)))
            self.firewall = firewall
            return Hooks()

        def filter_shutdown(self):
            heard.append(("shutdown", len(self.firewall.sessions)))

    async with open_world(Kept) as world:
        await world.primary()
        assert heard == [("start", 0)]
    assert heard == [("start", 0), ("shutdown", 0)]


async def test_a_filter_attaches_once_to_each_session_on_its_first_event():
    kind = attaching(hooks=Hooks.on(ConnectTcp, ConnectionTerminating))
    async with open_world(kind) as world:
        one, other = await world.primary(), await world.primary()
        assert kind.attached == [one.session, other.session]
        session_filter = one.session.attach_filter("attaching")
        assert kind.attached == [one.session, other.session]
        assert [type(event) for event in session_filter.heard] == [ConnectTcp]
        one.client.reset()
        await world.ended(one.session)
        assert [type(event) for event in session_filter.heard] == [
            ConnectTcp,
            ConnectionTerminating,
        ]


async def test_the_last_event_attaches_nobody():
    kind = attaching(hooks=Hooks.on(ConnectionTerminating))
    async with open_world(kind) as world:
        primary = await world.primary()
        primary.client.reset()
        await world.ended()
        assert not kind.attached


async def test_a_filter_without_interest_is_asked_once():
    kind = attaching(make=lambda session: None, hooks=Hooks.on(ConnectTcp, ConnectionTerminating))
    async with open_world(kind) as world:
        primary = await world.primary()
        assert primary.session.attach_filter("attaching") is None
        assert len(kind.attached) == 1
        primary.client.reset()
        await world.ended()


async def test_a_filter_that_fails_to_attach_fails_the_request():
    async with open_world(attaching(make=fail)) as world:
        assert await comes_and_is_cut_off(world)
        await world.ended()


async def test_a_session_filter_may_want_other_events_than_its_filter_said():
    class Other(Hearing):
        hooks = Hooks.on(ConnectionTerminating)

    made = []
    kind = attaching(make=lambda session: made.append(Other(session)) or made[0])
    async with open_world(kind) as world:
        primary = await world.primary()
        primary.client.reset()
        await world.ended()
        # The event that attached it was wanted by what the filter said at the start.
        assert [type(event) for event in made[0].heard] == [ConnectTcp, ConnectionTerminating]


async def test_a_filter_that_is_not_loaded_is_not_attached():
    async with open_world(attaching()) as world:
        primary = await world.primary()
        with pytest.raises(NotRegisteredError):
            primary.session.attach_filter("another")
        with pytest.raises(NotRegisteredError):
            primary.session.filter_settings("another")
        assert primary.session.filter_settings("attaching") is None
        primary.client.reset()
        await world.ended()
        with pytest.raises(TerminatingError):
            primary.session.attach_filter("attaching")


# The last event is always processed.


class Leaving(SessionFilter):
    """Notes the order of what it hears at the end."""

    notes: list

    def detach(self):
        type(self).notes.append("detached")

    def firewall_event_handler(self, event):
        if isinstance(event, ConnectionTerminating):
            return type(self).leave(self.notes)
        return None


def leaving(leave):
    notes = []
    kind = type("Leaving", (Leaving,), {"notes": notes, "leave": staticmethod(leave)})
    return notes, attaching(make=kind, hooks=Hooks.on(ConnectTcp, ConnectionTerminating))


async def leave_slowly(notes):
    await asyncio.sleep(0.001)
    notes.append("heard")
    return DENY


async def leave_with_a_fault(notes):
    await asyncio.sleep(0)
    notes.append("heard")
    raise ValueError("a fault")


def leave_at_once(notes):
    notes.append("heard")
    return DENY


def leave_at_once_with_a_fault(notes):
    notes.append("heard")
    raise ValueError("a fault")


@pytest.mark.parametrize(
    "leave", [leave_at_once, leave_at_once_with_a_fault, leave_slowly, leave_with_a_fault]
)
async def test_the_last_event_is_heard_before_the_filter_lets_go(leave):
    notes, kind = leaving(leave)
    async with open_world(kind) as world:
        primary = await world.primary()
        primary.client.reset()
        await world.ended()
        assert notes == ["heard", "detached"]
        assert not leftovers(world.firewall)


async def test_a_stop_at_once_does_not_wait_for_a_leave():
    async def leave(notes):
        await asyncio.Event().wait()

    notes, kind = leaving(leave)
    async with open_world(kind) as world:
        await world.primary()
        await world.firewall.stop(0)
        assert notes == ["detached"]
        await turns()


async def test_a_filter_that_fails_to_let_go_holds_nobody_up():
    class Failing(Hearing):
        def detach(self):
            raise ValueError("a fault")

    async with open_world(attaching(make=Failing)) as world:
        primary = await world.primary()
        primary.client.reset()
        await world.ended()
