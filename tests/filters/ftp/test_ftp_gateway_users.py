"""A gateway whose users log in at it, before they name a server and log in there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ftp_dialogue import FILE
from ftp_ends import FtpClient, FtpWorld, open_ftp
from rig import Peer, eventually, make_filter

from fwproxy import Config, DataFilter, Endpoint, Firewall, ListenerConfig, ListenerKind, users
from fwproxy.config.config import Limits
from fwproxy.errors import BadContextError, NotAuthenticatedError
from fwproxy.events import AcceptedConnection
from fwproxy.policy.policy import Rule
from fwproxy.users import PasswordHash
from fwproxy_filters.ftp.gateway import MAX_LOGINS, WELCOME, WELCOME_TO_USERS

ONLY_ANNA = {"rules": [Rule(allow=True, protocols=("ftp",), users=("anna",))]}
HOW = b"530 Log in to the gateway first, by USER and PASS, and then as user@host\r\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    words = {"anna": b"open-sesame", "bert": b"12345", "caf\xe9": b"x"}
    path = tmp_path / "users"
    users.write(path, {user: PasswordHash.make(word, cost_log2=4) for user, word in words.items()})
    return str(path)


@contextlib.asynccontextmanager
async def gateway(file: str | None, **rest: Any) -> AsyncIterator[FtpWorld]:
    async with open_ftp(kind=ListenerKind.GATEWAY, users=file, **rest) as world:
        yield world


async def greeted(world: FtpWorld) -> FtpClient:
    client = await world.connect()
    assert await client.reply() == WELCOME_TO_USERS
    return client


async def log_in(world: FtpWorld, user: str, password: str) -> tuple[FtpClient, int]:
    client = await greeted(world)
    assert await client.code(f"USER {user}") == 331
    return client, await client.code(f"PASS {password}")


async def test_whoever_has_logged_in_names_a_server(file):
    async with gateway(file, rest=ONLY_ANNA) as world:
        client, code = await log_in(world, "anna", "open-sesame")
        assert code == 230
        (session,) = world.firewall.sessions
        assert session.authenticated_user == "anna"
        assert await client.code(f"USER joe@{world.server.address}") == 331
        assert await client.code("PASS for-the-server") == 230
        assert await world.fetch(client) == FILE
        assert world.server.last.lines[:2] == [b"USER joe", b"PASS for-the-server"]
        assert await client.code("QUIT") == 221


async def test_pipelined_logins(file):
    async with gateway(file, rest=ONLY_ANNA) as world:
        client = await greeted(world)
        address = str(world.server.address).encode()
        await client.send(b"USER anna\r\nPASS open-sesame\r\nUSER joe@%b\r\nPASS x\r\n" % address)
        assert await client.codes(4) == [331, 230, 331, 230]
        assert world.server.last.lines == [b"USER joe", b"PASS x"]


async def test_a_user_whom_no_rule_allows_reaches_no_server(file):
    async with gateway(file, rest=ONLY_ANNA) as world:
        client, code = await log_in(world, "bert", "12345")
        assert code == 230
        reply = await client.ask(f"USER anna@{world.server.address}")
        assert reply == b"530 This server is not allowed\r\n"
        assert not world.server.dialogues


@pytest.mark.parametrize("file_is_there", [True, False])
async def test_the_name_for_the_server_is_nobodys_word(file, file_is_there):
    """`anna@server` may be said by anybody; rules for the user anna do not believe it."""
    async with gateway(file if file_is_there else None, rest=ONLY_ANNA) as world:
        client = await world.connect()
        assert await client.reply() == (WELCOME_TO_USERS if file_is_there else WELCOME)
        reply = await client.ask(f"USER anna@{world.server.address}")
        if file_is_there:
            assert reply == b"331 Password of the gateway, please\r\n"
            reply = await client.ask("PASS for-the-server")
            assert reply == b"530 Login incorrect\r\n"
        else:
            assert reply == b"530 This server is not allowed\r\n"
        assert not world.server.dialogues
        (session,) = world.firewall.sessions
        assert session.authenticated_user is None


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("PASS open-sesame", 530), ("USER joe@192.0.2.1", 331), ("USER", 501), ("USER ", 501),
        ("PASV", 530), ("RETR f", 530), ("NOOP", 200), ("FEAT", 211), ("AUTH TLS", 534),
        ("QUIT", 221),
    ],
)  # fmt: skip
async def test_before_the_login(file, said, code):
    async with gateway(file) as world:
        client = await greeted(world)
        assert await client.code(said) == code
        assert not world.server.dialogues


async def test_a_client_that_is_not_set_to_log_in_is_one_that_guesses(file, logged):
    """`USER user@host` has two meanings, and its password may be that of the gateway."""
    async with gateway(file, limits=Limits(max_failed_logins=1)) as world:
        client = await greeted(world)
        assert await client.code(f"USER anna@{world.server.address}") == 331
        assert await client.ask("PASS for-the-server") == b"530 Login incorrect\r\n"
        _, code = await log_in(world, "anna", "open-sesame")
        assert code == 530, "that was a guess"
        assert not world.server.dialogues
        assert "for-the-server" not in str(logged)


async def test_wrong_logins_on_one_connection_are_counted(file):
    async with gateway(file) as world:
        client = await greeted(world)
        for number in range(MAX_LOGINS):
            assert await client.code("USER anna") == 331
            expected = 530 if number < MAX_LOGINS - 1 else 421
            assert await client.code(f"PASS guess-{number}") == expected
        assert await client.rest() == b""


async def test_wrong_logins_of_one_address_are_counted(file):
    async with gateway(file, limits=Limits(max_failed_logins=2)) as world:
        for _ in range(2):
            assert (await log_in(world, "anna", "guess"))[1] == 530
        assert (await log_in(world, "anna", "open-sesame"))[1] == 530, "right, but too late"
        assert not world.server.dialogues


NAMED_WITH_SERVER = {
    "type 5": ["USER {user}@{gateway_user}@{server}", "PASS for-the-server@{password}"],
    "type 6": ["USER {gateway_user}@{server}", "PASS {password}"],
    "type 7": ["USER {user}@{server} {gateway_user}", "PASS for-the-server", "ACCT {password}"],
}


async def log_in_with_server(
    world: FtpWorld, form: str, gateway_user: str, password: str
) -> tuple[FtpClient, bytes]:
    """Say who it is at the gateway and at the server, where it is anna; return the last reply."""
    client = await greeted(world)
    words = {"user": "anna", "gateway_user": gateway_user, "password": password}
    *first, last = (
        line.format(server=world.server.address, **words) for line in NAMED_WITH_SERVER[form]
    )
    for line in first:
        assert await client.code(line) in {331, 332}
    return client, await client.ask(last)


@pytest.mark.parametrize("form", NAMED_WITH_SERVER)
async def test_logins_that_name_the_server_at_once(file, form):
    async with gateway(file, rest=ONLY_ANNA) as world:
        client, reply = await log_in_with_server(world, form, "anna", "open-sesame")
        assert reply.startswith(b"230 ")
        if form == "type 6":
            assert await client.code("USER anna") == 331
            assert await client.code("PASS for-the-server") == 230
        assert await world.fetch(client) == FILE
        assert world.server.last.lines[:2] == [b"USER anna", b"PASS for-the-server"]


@pytest.mark.parametrize("form", NAMED_WITH_SERVER)
async def test_wrong_logins_that_name_the_server_are_counted(file, form):
    async with gateway(file, limits=Limits(max_failed_logins=2)) as world:
        for _ in range(2):
            _, reply = await log_in_with_server(world, form, "anna", "guess")
            assert reply == b"530 Login incorrect\r\n"
        _, reply = await log_in_with_server(world, form, "anna", "open-sesame")
        assert reply == b"530 Login incorrect\r\n", "right, but too late"
        assert not world.server.dialogues


@pytest.mark.parametrize("form", NAMED_WITH_SERVER)
async def test_the_rules_hold_for_who_has_logged_in(file, form):
    """Not for who the client wants to be at the server."""
    async with gateway(file, rest=ONLY_ANNA) as world:
        client, reply = await log_in_with_server(world, form, "bert", "12345")
        assert reply == b"530 This server is not allowed\r\n"
        assert await client.rest() == b""
        assert not world.server.dialogues


async def test_each_login_needs_its_own_name(file):
    async with gateway(file) as world:
        client, code = await log_in(world, "anna", "guess")
        assert code == 530
        assert await client.ask("PASS open-sesame") == HOW
        assert await client.code("USER anna") == 331
        assert await client.code("PASS open-sesame") == 230
        reply = await client.ask("PASS again")
        assert reply == b"530 Log in first, as user@host or user@host:port\r\n"


async def test_a_client_that_leaves_during_the_check_leaves_nothing(file):
    async with gateway(file) as world:
        client = await greeted(world)
        assert await client.code("USER anna") == 331
        await client.send(b"PASS open-sesame\r\n")
        client.peer.reset()
        await eventually(lambda: not len(world.firewall.sessions))


async def test_passwords_are_not_logged(file, logged):
    async with gateway(file, rest=ONLY_ANNA) as world:
        _, code = await log_in(world, "anna", "guess-it")
        assert code == 530
        assert any(line["event"] == "login failed" for line in logged)
        assert "guess-it" not in str(logged)


async def test_a_filter_that_asks_for_no_login_reaches_no_server(file):
    """The engine keeps the door, whatever the filter of a gateway forgets."""
    errors = []

    class Careless(DataFilter):
        async def data_from_client(self, data: bytes) -> None:
            with pytest.raises(NotAuthenticatedError) as caught:
                await self.connection.connect(Endpoint("127.0.0.1", 9))
            errors.append(caught.value)

    def hear(event):
        event.connection.attach_data_filter(Careless())

    probe = make_filter("ftp", hear, AcceptedConnection)
    listener = ListenerConfig("g", Endpoint("127.0.0.1"), "ftp", ListenerKind.GATEWAY, users=file)
    async with Firewall(Config([listener]), [probe]) as firewall:
        client = await Peer.connect(firewall.listeners["g"].address)
        await client.send(b"let me in")
        await eventually(lambda: errors)
        client.close()
        await eventually(lambda: not len(firewall.sessions))


async def test_a_login_is_for_listeners_with_users_and_once(file):
    async with gateway(None) as world:
        await world.connect()
        await eventually(lambda: len(world.firewall.sessions))
        (session,) = world.firewall.sessions
        assert not session.must_log_in
        with pytest.raises(BadContextError, match="nobody logs in"):
            await session.log_in("anna", b"open-sesame")
    async with gateway(file) as world:
        await world.connect()
        await eventually(lambda: len(world.firewall.sessions))
        (session,) = world.firewall.sessions
        assert session.must_log_in
        assert not await session.log_in("anna", b"guess")
        assert await session.log_in("anna", b"open-sesame")
        assert not session.must_log_in
        with pytest.raises(BadContextError, match="already"):
            await session.log_in("bert", b"12345")
        assert session.authenticated_user == "anna"
