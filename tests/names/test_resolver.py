"""Names to addresses: bounded, without blocking, and every failure is an answer."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from rig import eventually, turns

from fwproxy.address import Endpoint, HostName
from fwproxy.errors import NoServerReplyError
from fwproxy.names.resolver import Resolver
from fwproxy.names.system import SystemNames, Threads


def system_resolver(most, now=time.monotonic, *, memory=0.0, threads=None):
    return Resolver(SystemNames(now, memory, threads), most, now, max_names=2)


class Names:
    """Answers in the place of the system's resolver, once it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.may_answer = asyncio.Event()
        fake = SimpleNamespace(get_running_loop=lambda: self)
        monkeypatch.setattr("fwproxy.names.system.asyncio", fake)

    async def getaddrinfo(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.may_answer.wait()
        finally:
            self.at_once -= 1
        return [(0, 0, 0, "", (answer, port)) for answer in self.answers]


async def test_an_address_is_its_own_answer():
    assert await system_resolver(1).resolve(Endpoint("10.0.0.1", 21)) == [Endpoint("10.0.0.1", 21)]


async def test_a_name_of_this_host_resolves():
    found = await system_resolver(1).resolve(HostName("localhost", 21))
    assert Endpoint("127.0.0.1", 21) in found or Endpoint("::1", 21) in found
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", ["name.invalid", "ü" * 63, "xn--a"])
async def test_a_name_that_does_not_resolve_is_no_reply(name):
    with pytest.raises(NoServerReplyError, match="resolve"):
        await system_resolver(1).resolve(HostName(name, 21))


async def test_answers_keep_their_order_and_come_once(monkeypatch):
    resolver = system_resolver(1)
    Names(monkeypatch, "::1", "10.0.0.2", "::1", "10.0.0.1").may_answer.set()
    found = await resolver.resolve(HostName("many.example", 21))
    assert found == [Endpoint("::1", 21), Endpoint("10.0.0.2", 21), Endpoint("10.0.0.1", 21)]


async def test_a_name_without_addresses_is_no_reply(monkeypatch):
    resolver = system_resolver(1)
    Names(monkeypatch).may_answer.set()
    with pytest.raises(NoServerReplyError, match="no address"):
        await resolver.resolve(HostName("none.example", 21))


async def test_only_so_many_names_are_asked_for_at_a_time(monkeypatch):
    resolver = system_resolver(2)
    names = Names(monkeypatch, "10.0.0.1")
    waiting = [asyncio.ensure_future(resolver.resolve(HostName(f"h{n}", 1))) for n in range(6)]
    await eventually(lambda: names.asked == ["h0", "h1"])
    waiting[0].cancel()  # gives its place to the next one
    await eventually(lambda: names.asked == ["h0", "h1", "h2"])
    await turns()
    names.may_answer.set()
    await asyncio.gather(*waiting[1:])
    assert names.most_at_once == 2
    assert len(names.asked) == 6


async def test_the_name_of_an_address(monkeypatch):
    async def getnameinfo(sockaddr, flags):
        asked.append((sockaddr[:2], flags))
        if sockaddr[0] == "192.0.2.1":
            raise socket.gaierror(socket.EAI_NONAME, "no name")
        return "server.test", "0"

    asked = []
    fake = SimpleNamespace(getnameinfo=getnameinfo)
    resolver = system_resolver(1)
    monkeypatch.setattr("fwproxy.names.system.asyncio.get_running_loop", lambda: fake)
    assert await resolver.name_of(Endpoint("198.51.100.1")) == "server.test"
    with pytest.raises(NoServerReplyError, match="has no name"):
        await resolver.name_of(Endpoint("192.0.2.1"))
    assert asked[0] == (("198.51.100.1", 0), socket.NI_NAMEREQD)  # no digits in a name's place


async def test_an_answer_holds_for_a_while_and_for_every_port(monkeypatch):
    clock = [100.0]
    resolver = system_resolver(1, lambda: clock[0], memory=5.0)
    names = Names(monkeypatch, "10.0.0.1")
    names.may_answer.set()
    assert await resolver.resolve(HostName("a.example", 21)) == [Endpoint("10.0.0.1", 21)]
    clock[0] += 4.9
    names.answers = ("10.0.0.2",)
    assert await resolver.resolve(HostName("a.example", 22)) == [Endpoint("10.0.0.1", 22)]
    clock[0] += 0.1
    assert await resolver.resolve(HostName("a.example", 21)) == [Endpoint("10.0.0.2", 21)]
    assert names.asked == ["a.example", "a.example"]


async def test_so_many_answers_are_remembered_and_no_failures(monkeypatch):
    resolver = system_resolver(1, lambda: 0.0, memory=5.0)
    names = Names(monkeypatch, "10.0.0.1")
    names.may_answer.set()
    for name in ("a", "b", "c", "b", "c", "a"):
        await resolver.resolve(HostName(name, 1))
    assert names.asked == ["a", "b", "c", "a"]
    names.answers = ()
    for _ in range(2):
        with pytest.raises(NoServerReplyError):
            await resolver.resolve(HostName("none", 1))
    assert names.asked[-2:] == ["none", "none"]


def hanging(monkeypatch):
    """Let the system's resolver wait, whoever asks."""
    may_answer = threading.Event()

    def getaddrinfo(*_, **__):
        may_answer.wait(10)
        return [(0, 0, 0, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return may_answer


async def test_a_question_keeps_its_place_until_the_system_has_answered(monkeypatch):
    may_answer = hanging(monkeypatch)
    resolver = system_resolver(9, threads=Threads(1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resolver.resolve(HostName("slow.example", 21)), 0.01)
    second = asyncio.ensure_future(resolver.resolve(HostName("other.example", 21)))
    await turns()
    assert len([each for each in threading.enumerate() if each.name == "fwproxy names"]) == 1
    may_answer.set()
    assert await second == [Endpoint("192.0.2.1", 21)]


HANGING_PROGRAM = """
import asyncio, socket, sys, time, uvloop
from fwproxy.address import HostName
from fwproxy.names.resolver import Resolver
from fwproxy.names.system import SystemNames, Threads
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
async def main():
    names = SystemNames(time.monotonic, 0, Threads(1))
    question = Resolver(names, 1).resolve(HostName("slow.example", 21))
    try:
        await asyncio.wait_for(question, 0.01)
    except TimeoutError:
        print("given up")
(uvloop if sys.argv[1] == "uvloop" else asyncio).run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_resolver_that_hangs_does_not_hang_the_end_of_the_process(loop):
    command = [sys.executable, "-c", HANGING_PROGRAM, loop]
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    assert done.stdout == b"given up\n"
