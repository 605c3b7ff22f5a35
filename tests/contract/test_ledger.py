"""What the ledger says of a permission, while it lives and when it has ended."""

import asyncio
import contextlib
import os
import threading
import time

import attrs
import orjson
import pytest
from calls import F, bind, bind_udp, carries, is_refused, own, redirect
from rig import HOST, OTHER_HOST, PROBE_DATA, Hearing, eventually, make_filter, open_world

from fwproxy import DataFilter, Endpoint, Firewall, IpFilter
from fwproxy.config.config import LedgerConfig, Limits
from fwproxy.events import AcceptedConnection
from fwproxy.ledger import file as ledger_file
from fwproxy.ledger.ledger import MAX_TRIGGER, Ledger, LedgerEntry
from fwproxy.policy.policy import Rule

RULES = (Rule(allow=True, name="data out"),)


def ended(world):
    return world.firewall.ledger.history


async def used_up(world, primary, **settings):
    """Let a bound connection carry five bytes one way and four the other, and end."""
    client = world.listen()
    (made,) = await bind(primary, client.address, **settings)
    server = await world.connect(made.proxy_address)
    far = await world.accept(client)
    assert await carries(server, far)
    server.close()
    far.close()
    await eventually(lambda: made.is_closed)
    return made


async def test_an_entry_says_whose_a_permission_is_and_why():
    async with open_world(rules=RULES) as world:
        primary = await world.primary()
        primary.session.authenticated_user = "ann"
        hearing = Hearing(primary.session)
        before = time.time()
        (made,) = await bind(
            primary, flags=F.TIMEOUT, session_filter=hearing, trigger="PASV",
            ip_filter=IpFilter.only(OTHER_HOST),
        )  # fmt: skip
        (entry,) = world.firewall.ledger
        assert entry.listener == "probe"
        assert entry.rule == "data out"
        assert entry.session == primary.session.id
        assert entry.client == HOST
        assert entry.user == "ann"
        assert entry.filter == "Hearing"
        assert entry.trigger == "PASV"
        assert entry.protocol == "probe-data"
        assert entry.transport == "tcp"
        assert entry.proxy_address == str(made.proxy_address)
        assert entry.target == str(own())
        assert entry.peers == OTHER_HOST
        assert before - 1 <= entry.created <= time.time() + 1
        assert entry.expires_in == pytest.approx(60, abs=1)
        assert (entry.uses, entry.refused) == (0, 0)
        assert (entry.path, entry.why) == (made.choice.path.value, made.choice.reason)
        assert entry.close_reason is None
        world.advance(10)
        assert world.firewall.ledger.history == []
        (entry,) = world.firewall.ledger
        assert entry.age == pytest.approx(10, abs=1)
        assert entry.created == pytest.approx(before, abs=1 + 10)


@attrs.frozen
class Context:
    trigger: object = None


@pytest.mark.parametrize(
    ("said", "context", "expected"),
    [
        ("PORT", Context("PASV"), "PORT"),
        (None, Context("PASV"), "PASV"),
        (None, Context(), None),
        (None, Context(17), None),
        (None, "PASV", None),
        ("x" * 1000, None, "x" * MAX_TRIGGER),
    ],
)
async def test_the_trigger_is_what_the_call_says_or_its_context(said, context, expected):
    async with open_world() as world:
        primary = await world.primary()
        await bind(primary, trigger=said, context=context)
        (entry,) = world.firewall.ledger
        assert entry.trigger == expected


async def test_every_call_takes_a_trigger():
    async with open_world() as world:
        primary = await world.primary()
        session, target = primary.session, Endpoint(HOST, 50123)
        await bind(primary, trigger="one")
        await redirect(primary, target, trigger="two")
        await session.allow_future_connect(target, protocol=PROBE_DATA, trigger="three")
        await session.emulate_client_bind(own(), target, PROBE_DATA, trigger="four")
        assert [e.trigger for e in world.firewall.ledger] == ["one", "two", "three", "four"]


async def test_one_that_was_used_up_ends_with_its_connection():
    async with open_world() as world:
        primary = await world.primary()
        client = world.listen()
        (made,) = await bind(primary, client.address)
        server = await world.connect(made.proxy_address)
        far = await world.accept(client)
        assert await carries(server, far)
        assert not len(world.firewall.ledger)  # it permits nothing any more
        assert ended(world) == []  # and has not ended while its connection lives
        assert made.permission.entry().server_bytes == 5
        world.advance(30)
        server.close()
        far.close()
        await eventually(lambda: ended(world))
        (entry,) = ended(world)
        assert (entry.uses, entry.close_reason) == (1, "used")
        assert (entry.client_bytes, entry.server_bytes) == (4, 5)
        assert entry.path == "splice"
        assert entry.why
        assert entry.age == pytest.approx(30, abs=2)


async def test_the_data_path_is_that_which_was_taken():
    def hear(event):
        if event.connection.is_secondary:
            event.connection.attach_data_filter(DataFilter())

    probe = make_filter("probe", hear, associated=[AcceptedConnection])
    async with open_world(probe) as world:
        await used_up(world, await world.primary())
        (entry,) = ended(world)
        assert entry.path == "user"
        assert entry.why == "data filter attached by probe"


async def test_one_for_many_adds_up_what_its_connections_have_carried():
    async with open_world() as world:
        primary = await world.primary()
        target = world.listen()
        redirection = await redirect(primary, target.address, flags=F.ALLOW_MULTIPLE)
        ends = []
        for _ in range(3):
            client = await world.connect(redirection.internal_address)
            server = await world.accept(target)
            assert await carries(client, server)
            ends.append((client, server))
        (entry,) = world.firewall.ledger
        assert (entry.uses, entry.client_bytes, entry.server_bytes) == (3, 15, 12)
        for one in ends[0]:
            one.close()
        await eventually(lambda: len(primary.session.connections) == 3)
        (entry,) = world.firewall.ledger
        assert (entry.uses, entry.client_bytes, entry.server_bytes) == (3, 15, 12)
        redirection.actions[0].cancel("enough")
        assert ended(world) == []
        for pair in ends[1:]:
            for one in pair:
                one.close()
        await eventually(lambda: ended(world))
        (entry,) = ended(world)
        assert (entry.client_bytes, entry.server_bytes, entry.close_reason) == (15, 12, "enough")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda world, primary, made: made.kill(), "killed"),
        (lambda world, primary, made: made.permission.cancel("why not"), "why not"),
        (lambda world, primary, made: world.advance(61), "expired"),
        (
            lambda world, primary, made: primary.session.end("over", at_once=True),
            "its session has ended",
        ),
    ],
)
async def test_an_unused_one_ends_for_its_reason(end, reason):
    async with open_world() as world:
        primary = await world.primary()
        (made,) = await bind(primary, flags=F.TIMEOUT)
        end(world, primary, made)
        (entry,) = ended(world)
        assert (entry.uses, entry.close_reason) == (0, reason)


async def test_udp_counts_its_use_and_its_bytes():
    async with open_world() as world:
        primary = await world.primary()
        client, server = world.datagrams(), world.datagrams()
        (made,) = await bind_udp(primary, client.address, flags=F.TIMEOUT)
        server.send(b"hello", made.proxy_address)
        assert (await client.receive())[0] == b"hello"
        (entry,) = world.firewall.ledger
        assert (entry.uses, entry.server_bytes, entry.path) == (1, 5, "datagram")
        made.kill()
        (entry,) = ended(world)
        assert (entry.uses, entry.server_bytes, entry.close_reason) == (1, 5, "killed")


async def test_one_whose_connection_found_no_room_has_ended_too():
    async with open_world(limits=Limits(max_connections_per_session=2)) as world:
        primary = await world.primary()
        target = world.listen()
        redirection = await redirect(primary, target.address)
        await bind(primary)  # which takes the last place
        assert await is_refused(world, redirection.internal_address)
        (entry,) = ended(world)
        assert (entry.uses, entry.close_reason) == (1, "used")


async def test_a_failed_call_leaves_what_it_had_begun_in_the_history():
    async with open_world() as world:
        primary = await world.primary()
        target = Endpoint(HOST, 1)  # where nobody listens
        redirection = await redirect(primary, target)
        with contextlib.suppress(ConnectionError):  # before or after it has noticed the connection
            client = await world.connect(redirection.internal_address)
            await client.receive()
        await eventually(lambda: ended(world))
        assert ended(world)[0].target == str(target)


async def test_the_history_is_bounded():
    async with open_world(ledger=LedgerConfig(history=3)) as world:
        primary = await world.primary()
        for port in range(5000, 5006):
            (made,) = await bind(primary, own(port))
            made.kill()
        assert [entry.target for entry in ended(world)] == [
            f"{HOST}:{n}" for n in (5003, 5004, 5005)
        ]


async def test_without_a_history_nothing_is_kept():
    async with open_world(ledger=LedgerConfig(history=0)) as world:
        primary = await world.primary()
        (made,) = await bind(primary)
        made.kill()
        assert ended(world) == []


def lines(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


async def test_each_permission_is_written_when_it_begins_and_when_it_has_ended(tmp_path):
    path = tmp_path / "ledger.jsonl"
    async with open_world(rules=RULES, ledger=LedgerConfig(file=str(path))) as world:
        primary = await world.primary()
        await used_up(world, primary, trigger="PASV")
        (second,) = await bind(primary, flags=F.TIMEOUT)
        await eventually(lambda: len(lines(path)) == 3)
        path.rename(tmp_path / "ledger.1")
        world.firewall.ledger.reopen()
        await eventually(path.exists)
        second.kill()
    found = [*lines(tmp_path / "ledger.1"), *lines(path)]
    assert [line["event"] for line in found] == ["opened", "ended", "opened", "ended"]
    assert [line["id"] for line in found] == [1, 1, 2, 2]
    names = {field.name for field in attrs.fields(LedgerEntry)}
    for line in found:
        assert set(line) == {"time", "event", "run", *names}
        assert line["rule"] == "data out"
    assert found[0]["close_reason"] is None
    assert found[1]["close_reason"] == "used"
    assert found[1]["trigger"] == "PASV"
    assert (found[1]["client_bytes"], found[1]["server_bytes"]) == (4, 5)
    assert found[2]["expires_in"] == pytest.approx(60, abs=1)


async def test_a_file_that_cannot_be_opened_stops_the_start_and_is_named(tmp_path):
    config = LedgerConfig(file=str(tmp_path / "nowhere" / "ledger"))
    with pytest.raises(OSError, match=f"ledger file {tmp_path}/nowhere/ledger: No such file"):
        async with open_world(ledger=config):
            pass


async def test_a_full_disk_does_not_stop_the_proxy_and_is_said(logged):
    async with open_world(ledger=LedgerConfig(file="/dev/full")) as world:
        primary = await world.primary()
        await used_up(world, primary)
        assert len(ended(world)) == 1
        await eventually(lambda: [line for line in logged if line["event"] == "ledger lines lost"])
        line = next(line for line in logged if line["event"] == "ledger lines lost")
        assert line["file"] == "/dev/full"
        assert "No space left on device" in line["reason"]


async def test_a_firewall_that_is_stopped_has_written_everything(tmp_path):
    path = tmp_path / "ledger.jsonl"
    async with open_world(ledger=LedgerConfig(file=str(path))) as world:
        firewall: Firewall = world.firewall
        primary = await world.primary()
        for port in range(5000, 5020):
            await bind(primary, own(port))
        await firewall.stop(0)
        assert len(lines(path)) == 40


async def test_a_disk_that_hangs_holds_up_the_stop_and_nothing_else(tmp_path, monkeypatch):
    proceed, hangs, write = threading.Event(), threading.Event(), os.write

    def hang(fd, data):
        hangs.set()
        proceed.wait(10)
        return write(fd, data)

    path = tmp_path / "ledger.jsonl"
    async with open_world(ledger=LedgerConfig(file=str(path))) as world:
        primary = await world.primary()
        monkeypatch.setattr(ledger_file.os, "write", hang)
        await bind(primary, own(5000))
        await eventually(hangs.is_set)
        stopping = asyncio.create_task(world.firewall.stop(0))
        await eventually(lambda: not world.firewall.sessions)
        assert not stopping.done()  # and this loop runs
        proceed.set()
        await stopping
    assert [line["event"] for line in lines(path)] == ["opened", "ended"]


def test_a_ledger_of_its_own_needs_no_file():
    made = Ledger()
    made.reopen()
    made.finish()
    assert list(made) == made.history == []
