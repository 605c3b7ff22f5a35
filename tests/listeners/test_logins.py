"""Users: logins by SOCKS 5 and HTTP, rules by user, and what guessing leads to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import argon2
import pytest
import structlog
from doors import basic, http, login, open_door, read_reply, socks4, spelled
from rig import OTHER_HOST, Peer, World, free_ports

from fwproxy import Endpoint, ListenerKind, users
from fwproxy.config.config import Limits
from fwproxy.config.shared import SharedConfig, SharedTarget
from fwproxy.errors import NotSupportedError
from fwproxy.logins import Logins
from fwproxy.policy.policy import Rule
from fwproxy.protocol import TCP
from fwproxy.users import PasswordHash

PASSWORDS = {"anna": "secret", "bert": "sesame"}
RIGHT, WRONG = b"\5\2\1\0", b"\5\2\1\1"
RULES = [Rule(allow=True, users=("anna",)), Rule(allow=False)]


def write(path: Path, passwords: dict[str, str]) -> None:
    made = {user: PasswordHash.make(word.encode(), cost_log2=4) for user, word in passwords.items()}
    users.write(path, made)


@contextlib.asynccontextmanager
async def open_to_users(
    tmp_path: Path, limits: Limits | None = None, **rest: Any
) -> AsyncIterator[World]:
    write(tmp_path / "users", PASSWORDS)
    settings = {"users": str(tmp_path / "users")}
    async with open_door(
        ListenerKind.MIXED, settings=settings, limits=limits, rules=RULES, **rest
    ) as world:
        yield world


async def answer_to(
    world: World, user: str, password: str, source: str | None = None
) -> tuple[bytes, Peer]:
    client = await world.connect(source=source)
    await client.send(login(user, password))
    return await client.read(4), client


async def request(world: World, client: Peer) -> int:
    await client.send(b"\5\1\0" + spelled(world.upstream.address))
    return (await read_reply(client))[0]


async def test_rules_know_who_has_logged_in_by_socks(tmp_path):
    async with open_to_users(tmp_path) as world:
        said, anna = await answer_to(world, "anna", "secret")
        assert said == RIGHT
        assert await request(world, anna) == 0
        assert [session.authenticated_user for session in world.sessions] == ["anna"]
        said, bert = await answer_to(world, "bert", "sesame")
        assert said == RIGHT
        assert await request(world, bert) == 2


async def test_rules_know_who_has_logged_in_by_http(tmp_path):
    async with open_to_users(tmp_path) as world:
        for user, password, status in [
            ("anna", "secret", 200), ("bert", "sesame", 403), ("anna", "sesame", 407),
            ("carl", "secret", 407),
        ]:  # fmt: skip
            client = await world.connect()
            await client.send(http(world.upstream.address, basic(user, password)))
            assert (await client.receive()).startswith(b"HTTP/1.1 %d " % status)


async def test_where_nobody_can_log_in_rules_for_users_allow_nobody():
    async with open_door(ListenerKind.MIXED, rules=RULES[:1]) as world:
        client = await world.connect()
        await client.send(b"\5\1\0")
        assert await client.read(2) == b"\5\0"
        assert await request(world, client) == 2
        client = await world.connect()
        await client.send(http(world.upstream.address, basic("anna", "secret")))
        assert (await client.receive()).startswith(b"HTTP/1.1 403 ")
        client = await world.connect()
        await client.send(socks4(world.upstream.address).replace(b"me", b"anna"))
        assert (await client.read_all())[:2] == b"\0\x5b", "a name that SOCKS 4 has no password for"


@pytest.mark.parametrize(
    ("user", "password"), [("anna", ""), ("anna", "Secret"), ("", ""), ("carl", "secret")]
)
async def test_a_wrong_login_is_refused_and_closed(tmp_path, user, password):
    async with open_to_users(tmp_path) as world:
        said, client = await answer_to(world, user, password)
        assert said == WRONG
        assert await client.read_all() == b""


async def test_nobody_comes_in_without_a_login(tmp_path):
    async with open_to_users(tmp_path) as world:
        for hello, refusal in [(b"\5\1\0", b"\5\xff"), (socks4(world.upstream.address), b"\0\x5d")]:
            client = await world.connect()
            await client.send(hello)
            assert (await client.read_all())[:2] == refusal
        client = await world.connect()
        await client.send(http(world.upstream.address))
        assert (await client.receive()).startswith(b"HTTP/1.1 407 ")


async def test_whoever_guesses_is_turned_away_unheard_for_a_while(tmp_path):
    limits = Limits(max_failed_logins=3)
    async with open_to_users(tmp_path, limits) as world:
        for _ in range(3):
            assert (await answer_to(world, "anna", "guess"))[0] == WRONG
        assert (await answer_to(world, "anna", "secret"))[0] == WRONG, "right, but too late"
        said, _ = await answer_to(world, "anna", "secret", OTHER_HOST)
        assert said == RIGHT, "from another address"
        world.advance(limits.failed_login_memory + 1)
        assert (await answer_to(world, "anna", "secret"))[0] == RIGHT


async def test_whoever_has_an_account_cannot_guess_at_others_for_longer(tmp_path):
    """A right login forgives nothing: it may be the guesser's own."""
    async with open_to_users(tmp_path, Limits(max_failed_logins=3, login_memory=1.0)) as world:
        for _ in range(3):
            assert (await answer_to(world, "bert", "sesame"))[0] == RIGHT
            assert (await answer_to(world, "anna", "guess"))[0] == WRONG
            world.advance(world.engine.limits.login_memory + 1)
        assert (await answer_to(world, "bert", "sesame"))[0] == WRONG, "and so are all who guess"
        assert (await answer_to(world, "anna", "secret"))[0] == WRONG


async def test_each_wrong_login_is_forgotten_at_its_own_time(tmp_path):
    limits = Limits(max_failed_logins=2, failed_login_memory=60.0)
    async with open_to_users(tmp_path, limits) as world:
        assert (await answer_to(world, "anna", "guess"))[0] == WRONG
        world.advance(40.0)
        assert (await answer_to(world, "anna", "guess"))[0] == WRONG
        assert (await answer_to(world, "anna", "secret"))[0] == WRONG
        world.advance(21.0)  # the first one is forgotten, the second one is not
        assert (await answer_to(world, "anna", "secret"))[0] == RIGHT
        assert (await answer_to(world, "anna", "guess"))[0] == WRONG
        assert (await answer_to(world, "anna", "secret"))[0] == WRONG


@pytest.fixture
def alone(tmp_path):
    """Logins on a clock that the test moves, and the checks that were made: when, and of whom."""
    write(tmp_path / "users", PASSWORDS)
    limits = Limits(max_failed_logins=4, failed_login_memory=30.0, login_memory=2.0)
    clock, checks = [0.0], []
    places = asyncio.Semaphore(1)
    logins = Logins(tmp_path / "users", limits, lambda: clock[0], places, structlog.get_logger())

    async def checking(user, password):
        checks.append((clock[0], user))
        return await is_right(user, password)

    is_right, logins._is_right = logins._is_right, checking
    return logins, clock, checks


async def test_no_rhythm_of_guessing_is_heard_more_often_than_the_limit_says(alone):
    logins, clock, checks = alone
    for _ in range(100):
        clock[0] += 1.0
        await logins.check("bert", b"sesame", OTHER_HOST)  # the guesser's own account
        await logins.check("anna", b"guess", OTHER_HOST)
    guesses = [at for at, user in checks if user == "anna"]
    assert len(guesses) > 8, "time does forgive"
    for at in guesses:
        assert sum(at <= each <= at + 30.0 for each in guesses) <= 4


async def test_the_addresses_of_one_ipv6_network_guess_as_one(alone):
    logins, _, checks = alone
    for number in range(10):
        assert not await logins.check("anna", b"guess", f"2001:db8:0:1::{number}")
    assert len(checks) == 4
    assert not await logins.check("anna", b"secret", "2001:db8:0:1:ffff::")
    assert await logins.check("anna", b"secret", "2001:db8:0:2::")


async def test_a_login_that_many_wait_for_is_checked_once(alone):
    logins, _, checks = alone
    answers = await asyncio.gather(*(logins.check("anna", b"secret", OTHER_HOST) for _ in "12345"))
    assert answers == [True] * 5
    assert len(checks) == 1


async def test_a_changed_file_is_noticed_at_once(tmp_path):
    async with open_to_users(tmp_path) as world:
        assert (await answer_to(world, "anna", "secret"))[0] == RIGHT
        write(tmp_path / "users", {"anna": "changed"})
        assert (await answer_to(world, "anna", "secret"))[0] == WRONG
        assert (await answer_to(world, "anna", "changed"))[0] == RIGHT
        (tmp_path / "users").write_text("anna:secret\n")
        assert (await answer_to(world, "anna", "changed"))[0] == RIGHT, "the former ones hold"


async def test_a_password_that_argon2_has_hashed(tmp_path):
    async with open_to_users(tmp_path) as world:
        made = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("elsewhere")
        with (tmp_path / "users").open("a") as file:
            file.write(f"carl:{made}\n")
        assert (await answer_to(world, "carl", "elsewhere"))[0] == RIGHT
        assert (await answer_to(world, "carl", "guess"))[0] == WRONG
        assert (await answer_to(world, "anna", "secret"))[0] == RIGHT


async def test_a_client_that_leaves_during_the_check_leaves_nothing(tmp_path):
    async with open_to_users(tmp_path) as world:
        client = await world.connect()
        await client.send(login("anna", "secret"))
        client.reset()


async def test_nobody_comes_to_a_shared_port_without_a_login(tmp_path):
    target = Endpoint("127.0.0.1", 9092)
    ports = free_ports(2)
    shared = SharedConfig(ports=ports, targets=(SharedTarget(target, ports.first),))
    async with open_to_users(tmp_path, shared=shared) as world:
        _, anna = await answer_to(world, "anna", "secret")
        assert await request(world, anna) == 0
        (session,) = world.sessions
        with pytest.raises(NotSupportedError, match="log in"):
            await session.share_redirection(target, protocol=TCP)
