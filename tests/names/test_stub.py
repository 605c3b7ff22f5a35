"""Names asked of DNS servers: how long they hold, and every way in which a server is no good."""

import asyncio
import contextlib
import socket

import dns.flags
import dns.message
import dns.rcode
import pytest
from dns_server import dns_server, sockets
from rig import Mute, closing, eventually, turns, unused_endpoint

from fwproxy.address import Endpoint, HostName
from fwproxy.config.resolver import ResolverConfig
from fwproxy.errors import NameNotFoundError
from fwproxy.names import server as server_module
from fwproxy.names.resolver import Resolver
from fwproxy.names.stub import MAX_RECORDS, DnsNames

BOTH = ["A", "AAAA"]
SLOW = {"timeout": 0.8, "attempt_timeout": 0.1}
"""For servers that do not answer; tests where they do have time enough."""


class Asking:
    """A resolver that asks one server, and a clock that the test moves."""

    def __init__(self, server, directory, *, servers=None, max_resolutions=64, **settings):
        self.server = server
        self.time = 1000.0
        self.hosts, self.resolv_conf = directory / "hosts", directory / "resolv.conf"
        asked = (server.address,) if servers is None else tuple(servers)
        config = ResolverConfig("dns", asked, **settings)
        self.names = DnsNames(
            config,
            lambda: self.time,
            hosts=self.hosts,
            resolv_conf=self.resolv_conf,
            order=tuple,
        )
        self.resolver = Resolver(self.names, max_resolutions, lambda: self.time, max_names=99)

    async def __call__(self, name):
        """Return the addresses of a name."""
        return [each.host for each in await self.resolver.resolve(HostName(name, 21))]

    async def fails(self, name, words):
        with pytest.raises(NameNotFoundError, match=words):
            await self(name)


@pytest.fixture
def make(tmp_path):
    """Make a server and who asks it."""

    @contextlib.asynccontextmanager
    async def making(host="127.0.0.1", **settings):
        async with dns_server(host) as server:
            yield Asking(server, tmp_path, **settings)

    return making


async def test_an_answer_holds_for_the_smallest_of_its_times(make):
    async with make() as ask:
        ask.server.put("a.test", "A", 60, "192.0.2.1")
        ask.server.put("a.test", "AAAA", 20, "2001:db8::1")
        assert await ask("a.test") == ["192.0.2.1", "2001:db8::1"]
        ask.server.put("a.test", "A", 60, "192.0.2.9")
        ask.time += 19.9
        assert await ask("a.test") == ["192.0.2.1", "2001:db8::1"]
        assert ask.server.questions() == BOTH
        ask.time += 0.1
        assert await ask("a.test") == ["192.0.2.9", "2001:db8::1"]
        assert ask.server.questions() == sorted(BOTH * 2)


async def test_the_time_of_an_alias_counts(make):
    async with make() as ask:
        ask.server.put("www.test", "CNAME", 5, "a.test.")
        ask.server.put("a.test", "A", 60, "192.0.2.1")
        assert await ask("www.test") == ["192.0.2.1"]
        ask.time += 4.9
        await ask("www.test")
        assert ask.server.questions() == BOTH
        ask.time += 0.1
        await ask("www.test")
        assert ask.server.questions() == sorted(BOTH * 2)


async def test_a_family_that_is_not_there_does_not_shorten_the_others_time(make):
    async with make() as ask:
        ask.server.put("six.test", "AAAA", 60, "2001:db8::1")
        assert await ask("six.test") == ["2001:db8::1"]
        ask.time += 59.9
        assert await ask("six.test") == ["2001:db8::1"]
        assert ask.server.questions() == BOTH


async def test_no_time_is_asked_every_time(make):
    async with make() as ask:
        ask.server.put("a.test", "A", 0, "192.0.2.1")
        for count in (1, 2, 3):
            assert await ask("a.test") == ["192.0.2.1"]
            assert ask.server.questions() == sorted(BOTH * count)
        assert not ask.resolver._known


@pytest.mark.parametrize("most", [0.0, 10.0])
async def test_a_long_time_is_bounded(make, most):
    async with make(max_ttl=most) as ask:
        ask.server.put("a.test", "A", 86_400, "192.0.2.1")
        await ask("a.test")
        if most:
            ask.time += most - 0.1
            await ask("a.test")
            assert ask.server.questions() == BOTH
            ask.time += 0.1
        await ask("a.test")
        assert ask.server.questions() == sorted(BOTH * 2)


async def test_a_time_begins_with_its_own_answer(make):
    """The other family's answer may be a while behind it."""
    async with make(timeout=60.0, attempt_timeout=1.0) as ask:
        ask.server.put("a.test", "A", 10, "192.0.2.1")
        ask.server.put("a.test", "AAAA", 60, "2001:db8::1")
        ask.server.silent.add(("a.test", "AAAA"))
        waiting = asyncio.ensure_future(ask("a.test"))
        await ask.server.heard("a.test", 2)
        await eventually(lambda: len(ask.names._questions) == 1)
        ask.time += 3
        ask.server.silent.clear()  # the next attempt is answered
        assert await waiting == ["192.0.2.1", "2001:db8::1"]
        assert ask.resolver._known["a.test"].until == 1010.0


async def test_a_name_that_does_not_exist_is_asked_for_again(make):
    async with make() as ask:
        await ask.fails("none.test", "none.test does not resolve: .*not exist")
        ask.server.put("none.test", "A", 60, "192.0.2.1")
        assert await ask("none.test") == ["192.0.2.1"]


async def test_a_name_without_addresses_has_none(make):
    async with make() as ask:
        ask.server.put("mail.test", "MX", 60, "1 a.test.")
        await ask.fails("mail.test", "has no such record")
        await ask.fails("mail.test", "has no such record")
        assert ask.server.questions() == sorted(BOTH * 2)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR])
async def test_a_server_that_cannot_say(make, rcode):
    async with make() as ask:
        ask.server.rcodes["broken.test"] = rcode
        await ask.fails("broken.test", f"does not resolve: .*{dns.rcode.to_text(rcode)}")


async def test_a_server_that_does_not_answer_is_asked_again_until_the_time_is_over(make):
    async with make(**SLOW) as ask:
        ask.server.silent |= {("mute.test", kind) for kind in BOTH}
        await ask.fails("mute.test", r"no answer within 0\.8 seconds")
        assert set(ask.server.questions()) == set(BOTH)
        assert ask.server.questions().count("A") > 1


async def test_nobody_listens_there(make):
    async with make(servers=[unused_endpoint()], timeout=60.0, attempt_timeout=60.0) as ask:
        await ask.fails("a.test", "refused")


async def test_a_server_that_is_no_good_does_not_keep_the_next_one_from_being_asked(make):
    async with make() as other:
        other.server.put("a.test", "A", 60, "192.0.2.1")
        gone = unused_endpoint()
        async with make(servers=[gone, other.server.address], attempt_timeout=5.0) as ask:
            assert await ask("a.test") == ["192.0.2.1"]
        async with make(attempt_timeout=0.1) as mute:
            mute.server.silent |= {("a.test", kind) for kind in BOTH}
            both = [mute.server.address, other.server.address]
            async with make(servers=both, attempt_timeout=0.1) as ask:
                assert await ask("a.test") == ["192.0.2.1"]
            assert set(mute.server.questions()) == set(BOTH)


@pytest.mark.parametrize("kind", BOTH)
async def test_a_family_that_keeps_silent_is_done_without_and_asked_for_again(make, kind):
    host = "192.0.2.1" if kind == "AAAA" else "2001:db8::1"
    async with make(timeout=60.0, attempt_timeout=0.4) as ask:
        ask.server.put("half.test", "A", 60, "192.0.2.1")
        ask.server.put("half.test", "AAAA", 60, "2001:db8::1")
        ask.server.silent.add(("half.test", kind))
        assert await ask("half.test") == [host]
        assert not ask.resolver._known
        ask.server.silent.clear()
        assert await ask("half.test") == ["192.0.2.1", "2001:db8::1"]
        assert ask.resolver._known


async def test_a_family_that_fails_is_done_without_and_asked_for_again(make):
    async with make() as ask:
        ask.server.put("half.test", "A", 60, "192.0.2.1")
        answer = ask.server._answer
        ask.server._answer = lambda request, name, kind, by: (
            _refusal(request) if kind == "AAAA" else answer(request, name, kind, by)
        )
        assert await ask("half.test") == ["192.0.2.1"]
        assert not ask.resolver._known


def _refusal(request):
    reply = dns.message.make_response(request)
    reply.set_rcode(dns.rcode.SERVFAIL)
    return reply.to_wire()


async def test_what_does_not_fit_into_a_datagram_comes_by_tcp(make):
    async with make() as ask:
        hosts = [f"2001:db8::{number:x}" for number in range(1, 30)]
        ask.server.put("large.test", "AAAA", 60, *hosts)
        ask.server.truncated.add("large.test")
        assert sorted(await ask("large.test")) == sorted(hosts)
        assert ("large.test", "AAAA", "tcp") in ask.server.asked
        assert ("large.test", "AAAA", "udp") in ask.server.asked


async def test_so_many_addresses_of_a_family_are_used(make):
    async with make() as ask:
        ask.server.put("huge.test", "A", 60, *(f"192.0.2.{n}" for n in range(200)))
        ask.server.put("huge.test", "AAAA", 60, "2001:db8::1")
        ask.server.truncated.add("huge.test")
        found = await ask("huge.test")
        assert len(found) == MAX_RECORDS + 1
        assert found[-1] == "2001:db8::1"


async def test_a_server_that_hangs_up(make):
    async with make() as ask:
        ask.server.put("large.test", "A", 60, "192.0.2.1")
        ask.server.truncated.add("large.test")
        ask.server.hangs_up = True
        await ask.fails("large.test", "does not resolve: .*hung up")


async def test_a_server_whose_tcp_port_is_mute(make):
    """It has taken no connection, and is given up when the time is over."""
    async with make(**SLOW) as ask:
        ask.server.truncated.add("large.test")
        with closing(Mute()) as mute:
            made = server_module.Server._connected
            with pytest.MonkeyPatch.context() as patch:

                def connected(self, kind):
                    here = self if kind == server_module.socket.SOCK_DGRAM else elsewhere
                    return made(here, kind)

                elsewhere = server_module.Server(mute.address.host, mute.address.port)
                patch.setattr(server_module.Server, "_connected", connected)
                before = sockets()
                await ask.fails("large.test", "no answer within")
                assert sockets() == before


def other_id(request):
    reply = dns.message.make_response(request)
    reply.id = request.id ^ 1
    return reply.to_wire()


def other_question(request):
    other = dns.message.make_query("other.test", "A", id=request.id)
    return dns.message.make_response(other).to_wire()


def cut_off_elsewhere(request):
    reply = dns.message.make_response(request)
    reply.id = request.id ^ 1
    reply.flags |= dns.flags.TC
    return reply.to_wire()


def echo(request):
    return request.to_wire()


def nonsense(request):
    return b"\0nonsense"


@pytest.mark.parametrize("stray", [other_id, other_question, cut_off_elsewhere, echo, nonsense])
async def test_what_is_no_answer_is_not_heard(make, stray):
    async with make() as ask:
        ask.server.put("a.test", "A", 60, "192.0.2.1")
        ask.server.strays = [stray]
        assert await ask("a.test") == ["192.0.2.1"]
        assert {by for _, _, by in ask.server.asked} == {"udp"}


async def test_a_flood_of_what_is_no_answer_is_not_heard_for_ever(make):
    async with make(timeout=60.0, attempt_timeout=60.0) as ask:
        ask.server.put("a.test", "A", 60, "192.0.2.1")
        ask.server.strays = [other_id] * server_module.MAX_STRAYS
        await ask.fails("a.test", "answers to other questions")


async def test_an_answer_by_tcp_to_another_question_is_none(make):
    async with make() as ask:
        ask.server.truncated.add("large.test")
        answer = ask.server._answer
        ask.server._answer = lambda request, name, kind, by: (
            other_id(request) if by == "tcp" else answer(request, name, kind, by)
        )
        await ask.fails("large.test", "an answer to another question")


async def test_a_server_at_an_ipv6_address(make):
    async with make("::1") as ask:
        ask.server.put("a.test", "A", 60, "192.0.2.1")
        ask.server.truncated.add("a.test")
        assert await ask("a.test") == ["192.0.2.1"]
        assert {by for _, _, by in ask.server.asked} == {"udp", "tcp"}


async def test_the_hosts_file_comes_first_and_is_not_remembered(make):
    async with make() as ask:
        ask.hosts.write_text("192.0.2.5 a.test\n2001:db8::5 a.test\n")
        ask.server.put("a.test", "A", 60, "192.0.2.1")
        assert await ask("a.test") == ["192.0.2.5", "2001:db8::5"]
        ask.hosts.write_text("192.0.2.6 a.test\n")
        assert await ask("A.test.") == ["192.0.2.6"]
        assert not ask.server.asked
        ask.hosts.unlink()
        assert await ask("a.test") == ["192.0.2.1"]


@pytest.mark.parametrize("name", ["localhost", "LocalHost.", "any.localhost"])
async def test_no_server_is_asked_where_this_host_is(make, name):
    async with make() as ask:
        assert await ask(name) == ["::1", "127.0.0.1"]
        assert not ask.server.asked
        ask.server.put("localhost.test", "A", 60, "192.0.2.1")
        assert await ask("localhost.test") == ["192.0.2.1"]


async def test_addresses_are_put_in_order(make, tmp_path):
    async with make() as ask:
        ask.server.put("a.test", "A", 60, "192.0.2.1", "127.0.0.1")
        ask.server.put("a.test", "AAAA", 60, "::1")
        ask.names._order = lambda hosts: tuple(sorted(hosts, reverse=True))
        assert await ask("a.test") == ["::1", "192.0.2.1", "127.0.0.1"]
        ask.hosts.write_text("127.0.0.1 b.test\n127.0.0.2 b.test\n")
        assert await ask("b.test") == ["127.0.0.2", "127.0.0.1"]


@pytest.mark.parametrize("name", ["ü" * 63, "a" * 63 + "." + "b" * 63 + "." + "c" * 126])
async def test_a_name_that_cannot_be_asked_for(make, name):
    async with make() as ask:
        with pytest.raises(NameNotFoundError, match="does not resolve"):
            await ask.names.find(name)
        assert not ask.server.asked


async def test_a_name_of_other_letters_is_asked_for_in_ascii(make):
    async with make() as ask:
        ask.server.put("xn--mnchen-3ya.test", "A", 60, "192.0.2.1")
        assert await ask("münchen.test") == ["192.0.2.1"]


# The servers of /etc/resolv.conf.


async def test_servers_and_domains_are_those_of_resolv_conf_as_it_is_now(make, monkeypatch):
    async with make() as one, make() as other:
        async with make(servers=()) as ask:
            await ask.fails("a.test", r"cannot open .*resolv\.conf")
            for server, domain in ((one.server, "one.test"), (other.server, "other.test")):
                monkeypatch.setattr("fwproxy.names.stub.DNS_PORT", server.address.port)
                ask.resolv_conf.write_text(f"search {domain}\nnameserver 127.0.0.1\n")
                server.put(f"short.{domain}", "A", 0, "192.0.2.1")
                assert await ask("short") == ["192.0.2.1"]
                assert server.questions(f"short.{domain}") == BOTH
                server.put("whole.test", "A", 0, "192.0.2.2")
                assert await ask("whole.test") == ["192.0.2.2"]
            ask.resolv_conf.write_text("# none\n")
            for _ in range(2):
                await ask.fails("whole.test", "no nameservers")
            ask.resolv_conf.write_text("nameserver of.a.name\n")
            await ask.fails("whole.test", "nameserver of.a.name is not")
            ask.resolv_conf.write_bytes(b"nameserver 127.0.0.1 \xff\n")
            await ask.fails("whole.test", "does not resolve")
        assert not ask.server.asked


async def test_servers_that_are_given_know_no_domains(make, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "here.one.test")
    async with make() as ask:
        ask.resolv_conf.write_text("search one.test\nnameserver 127.0.0.1\n")
        ask.server.put("short.one.test", "A", 0, "192.0.2.1")
        await ask.fails("short", "not exist")
        assert ask.server.questions("short") == BOTH


# The names of addresses.


async def test_the_name_of_an_address(make):
    async with make() as ask:
        ask.server.put("1.2.0.192.in-addr.arpa", "PTR", 60, "server.test.")
        assert await ask.resolver.name_of(Endpoint("192.0.2.1", 5)) == "server.test"
        ask.hosts.write_text("192.0.2.1 here.test\n")
        assert await ask.resolver.name_of(Endpoint("192.0.2.1", 5)) == "here.test"
        assert ask.server.questions() == ["PTR"]
        with pytest.raises(NameNotFoundError, match="2001:db8::1 has no name"):
            await ask.resolver.name_of(Endpoint("2001:db8::1"))


@pytest.mark.parametrize("name", [r"a\032b.test.", r"a\@b.test.", r"a\010b.test.", "."])
async def test_a_name_that_is_none_is_not_passed_on(make, name):
    async with make() as ask:
        ask.server.put("1.2.0.192.in-addr.arpa", "PTR", 60, name)
        with pytest.raises(NameNotFoundError, match="has no name"):
            await ask.resolver.name_of(Endpoint("192.0.2.1"))


async def test_nobody_says_the_name_of_an_address(make):
    async with make(**SLOW) as ask:
        ask.server.silent.add(("1.2.0.192.in-addr.arpa", "PTR"))
        with pytest.raises(NameNotFoundError, match="no answer"):
            await ask.resolver.name_of(Endpoint("192.0.2.1"))


# Bounds, and the end.


async def test_so_many_names_are_asked_for_at_a_time(make):
    async with make(max_resolutions=2, timeout=60.0, attempt_timeout=60.0) as ask:
        before = sockets()
        for name in ("a.test", "b.test", "c.test", "d.test"):
            ask.server.put(name, "A", 60, "192.0.2.1")
            ask.server.silent |= {(name, kind) for kind in BOTH}
        waiting = [asyncio.ensure_future(ask(f"{each}.test")) for each in "abcd"]
        await ask.server.heard("a.test", 2)
        await ask.server.heard("b.test", 2)
        await turns()
        assert sockets() == before + 4
        assert len(ask.server.asked) == 4
        ask.server.silent.clear()
        waiting[0].cancel()  # gives its place to the next one, which gives it to the last one
        assert await waiting[2] == await waiting[3] == ["192.0.2.1"]
        waiting[1].cancel()
        await asyncio.wait(waiting)
        assert sockets() == before


@pytest.mark.parametrize("by", ["udp", "tcp"])
async def test_whoever_waits_no_more_leaves_nothing(make, by):
    async with make(timeout=60.0, attempt_timeout=60.0) as ask:
        before = sockets()
        ask.server.put("a.test", "A", 60, "192.0.2.1")
        if by == "tcp":
            ask.server.truncated.add("a.test")
        replies = ask.server.replies
        ask.server.replies = lambda wire, how: (
            (replies(wire, how), [])[1] if how == by else replies(wire, how)
        )
        waiting = asyncio.ensure_future(ask("a.test"))
        await eventually(lambda: [each[2] for each in ask.server.asked].count(by) == 2)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert not ask.names._questions
        server_side = 2 if by == "tcp" else 0
        await eventually(lambda: sockets() <= before + server_side)
        ask.server.replies = replies
        assert await ask("a.test") == ["192.0.2.1"]


async def test_the_end_gives_up_what_is_being_asked(make):
    async with make(timeout=60.0, attempt_timeout=60.0) as ask:
        before = sockets()
        ask.server.silent |= {("a.test", kind) for kind in BOTH}
        ask.server.silent.add(("1.2.0.192.in-addr.arpa", "PTR"))
        name = asyncio.ensure_future(ask("a.test"))
        address = asyncio.ensure_future(ask.resolver.name_of(Endpoint("192.0.2.1")))
        await ask.server.heard("a.test", 2)
        await ask.server.heard("1.2.0.192.in-addr.arpa")
        assert sockets() == before + 3
        ask.resolver.close()
        await turns(2)  # as many as a firewall lets pass
        assert sockets() == before
        for waiting in (name, address):
            with pytest.raises(NameNotFoundError, match="given up"):
                await waiting
        await ask.fails("a.test", "given up")
        assert len(ask.server.asked) == 3
