"""GetHostByName and GetHostByAddr: heard before and after, denied at either time, bounded."""

import asyncio

import pytest
from calls import is_refused
from rig import HOST, Hearing, eventually, make_filter, open_world

from fwproxy import HostName, Verdict
from fwproxy.config.config import Limits
from fwproxy.errors import (
    InvalidArgumentError,
    NoServerReplyError,
    PolicyRulesDeniedError,
    QuotaError,
    TerminatingError,
)
from fwproxy.events import ConnectTcp, GetHostByAddr, GetHostByName


def names_of(world, monkeypatch, known):
    """Let the resolver of a world know just these names, and the way back."""
    resolver = world.engine.resolver

    async def resolve(destination):
        await asyncio.sleep(0)
        found = known.get(destination.host)
        if found is None:
            raise NoServerReplyError(f"{destination.host} does not resolve")
        if isinstance(found, asyncio.Event):
            await found.wait()
            found = HOST
        return [world.upstream.address.with_port(destination.port)]

    async def name_of(address):
        await asyncio.sleep(0)
        for name, host in known.items():
            if host == address.host:
                return name
        raise NoServerReplyError(f"{address.host} has no name")

    monkeypatch.setattr(resolver, "resolve", resolve)
    monkeypatch.setattr(resolver, "name_of", name_of)


KNOWN = {"server.test": HOST}


class Witness:
    """Hears of names; *answers* are given one after another."""

    def __init__(self, *answers, later=False):
        self.heard, self.answers, self.later = [], list(answers), later

    def __call__(self, event):
        if not isinstance(event, GetHostByName | GetHostByAddr):
            return None
        self.heard.append(event)
        answer = self.answers.pop(0) if self.answers else None
        return self._later(answer) if self.later else answer

    async def _later(self, answer):
        await asyncio.sleep(0)
        return answer

    def filter(self):
        return make_filter("names", self, GetHostByName, GetHostByAddr, ConnectTcp)


LATER = pytest.mark.parametrize("later", [False, True])


@LATER
async def test_a_name_is_heard_of_before_and_after(monkeypatch, later):
    witness = Witness(later=later)
    async with open_world(witness.filter()) as world:
        names_of(world, monkeypatch, KNOWN)
        primary = await world.primary()
        (found,) = await primary.session.get_host_by_name("server.test")
        assert (found.host, found.port) == (HOST, 0)
        assert [(event.name, event.addresses) for event in witness.heard] == [
            ("server.test", None),
            ("server.test", (HOST,)),
        ]
        assert {event.connection for event in witness.heard} == {primary.connection}
        assert await primary.session.get_host_by_addr(HOST) == "server.test"
        assert [(event.address, event.name) for event in witness.heard[2:]] == [
            (HOST, None),
            (HOST, "server.test"),
        ]


async def test_what_does_not_resolve_is_heard_of_afterwards_too(monkeypatch):
    witness = Witness()
    async with open_world(witness.filter()) as world:
        names_of(world, monkeypatch, {})
        primary = await world.primary()
        with pytest.raises(NoServerReplyError):
            await primary.session.get_host_by_name("server.test")
        with pytest.raises(NoServerReplyError):
            await primary.session.get_host_by_addr(HOST)
        assert [event.addresses for event in witness.heard[:2]] == [None, ()]
        assert [event.name for event in witness.heard[2:]] == [None, ""]
        with pytest.raises(InvalidArgumentError):
            await primary.session.get_host_by_name("no name")
        with pytest.raises(InvalidArgumentError):
            await primary.session.get_host_by_addr("server.test")


@LATER
@pytest.mark.parametrize("answers", [[Verdict.DENY], [None, Verdict.DENY]])
async def test_a_denial_fails_the_question(monkeypatch, answers, later):
    witness = Witness(*answers, *answers, later=later)
    async with open_world(witness.filter()) as world:
        names_of(world, monkeypatch, KNOWN)
        primary = await world.primary()
        with pytest.raises(PolicyRulesDeniedError):
            await primary.session.get_host_by_name("server.test")
        with pytest.raises(PolicyRulesDeniedError):
            await primary.session.get_host_by_addr(HOST)
        assert len(witness.heard) == 2 * len(answers)
        assert primary.session.resolutions == 0


@pytest.mark.parametrize("answers", [[], [Verdict.DENY], [None, Verdict.DENY]])
async def test_the_upstreams_name_is_such_a_question_too(monkeypatch, answers):
    witness = Witness(*answers)
    async with open_world(witness.filter(), upstream=HostName("server.test", 7)) as world:
        names_of(world, monkeypatch, KNOWN)
        world.engine.resolver.resolve = there(world)
        if answers:
            assert await is_refused(world, world.address)
            await world.ended()
        else:
            primary = await world.primary()
            assert witness.heard[0].connection is primary.connection
        assert len(witness.heard) == (len(answers) or 2)


def there(world):
    async def resolve(destination):
        return [world.upstream.address]

    return resolve


async def test_the_filter_that_asks_is_not_told(monkeypatch):
    witness = Witness()
    async with open_world(witness.filter()) as world:
        names_of(world, monkeypatch, KNOWN)
        primary = await world.primary()
        caller = primary.session.attach_filter("names")
        await primary.session.get_host_by_name("server.test", session_filter=caller)
        await primary.session.get_host_by_addr(HOST, session_filter=caller)
        assert not witness.heard
        await primary.session.get_host_by_name(
            "server.test", session_filter=Hearing(primary.session)
        )
        assert len(witness.heard) == 2


async def test_a_session_asks_a_bounded_number_of_questions_at_a_time(monkeypatch):
    go = asyncio.Event()
    async with open_world(limits=Limits(max_resolutions_per_session=2)) as world:
        names_of(world, monkeypatch, {"slow.test": go})
        one, other = await world.primary(), await world.primary()
        asked = [asyncio.ensure_future(one.session.get_host_by_name("slow.test")) for _ in range(2)]
        await eventually(lambda: one.session.resolutions == 2)
        with pytest.raises(QuotaError, match="max_resolutions_per_session"):
            await one.session.get_host_by_name("slow.test")
        others = asyncio.ensure_future(other.session.get_host_by_name("slow.test"))
        asked[0].cancel()
        await asyncio.wait([asked[0]])
        assert one.session.resolutions == 1
        go.set()
        assert await asked[1]
        assert await others
        assert one.session.resolutions == 0


async def test_a_question_has_the_time_of_a_connect(monkeypatch):
    async with open_world(limits=Limits(connect_timeout=0.05)) as world:
        names_of(world, monkeypatch, {"slow.test": asyncio.Event()})
        primary = await world.primary()
        with pytest.raises(NoServerReplyError, match="in time"):
            await primary.session.get_host_by_name("slow.test")


async def test_a_session_that_has_ended_asks_nothing(monkeypatch):
    async with open_world() as world:
        names_of(world, monkeypatch, KNOWN)
        primary = await world.primary()
        primary.client.reset()
        await world.ended()
        with pytest.raises(TerminatingError):
            await primary.session.get_host_by_name("server.test")
        with pytest.raises(TerminatingError):
            await primary.session.get_host_by_addr(HOST)
