"""The gateway's login, `USER user@host[:port]`."""

from __future__ import annotations

import pytest
from ftp_dialogue import FILE, FtpServer
from ftp_ends import OTHER_V4, V4, V6, open_ftp
from rig import Mute, advance, eventually, unused_endpoint
from scripted import Script

from fwproxy import Endpoint, ListenerKind
from fwproxy.address import HostName
from fwproxy.config.config import Limits
from fwproxy.errors import NoServerReplyError, PolicyRulesDeniedError
from fwproxy.policy.policy import Network, Rule
from fwproxy_filters.ftp.errors import FtpSyntaxError
from fwproxy_filters.ftp.gateway import WELCOME
from fwproxy_filters.ftp.login_forms import LoginRequest, parse_user

GATEWAY = {"kind": ListenerKind.GATEWAY}


@pytest.mark.parametrize(
    ("argument", "user", "server"),
    [
        (b"joe@192.0.2.1", b"joe", Endpoint("192.0.2.1", 21)),
        (b"joe@192.0.2.1:2121", b"joe", Endpoint("192.0.2.1", 2121)),
        (b"joe@ftp.example", b"joe", HostName("ftp.example", 21)),
        (b"joe@ftp.example:990", b"joe", HostName("ftp.example", 990)),
        (b"joe@[2001:db8::1]", b"joe", Endpoint("2001:db8::1", 21)),
        (b"joe@[2001:db8::1]:2121", b"joe", Endpoint("2001:db8::1", 2121)),
        (b"joe@corp.example@ftp.example", b"joe@corp.example", HostName("ftp.example", 21)),
        (b" joe smith@ftp.example ", b"joe smith", HostName("ftp.example", 21)),
        (b"caf\xe9@ftp.example", b"caf\xe9", HostName("ftp.example", 21)),
    ],
)
def test_user_and_host(argument, user, server):
    assert parse_user(argument, must_log_in=False) == LoginRequest(server, user)


@pytest.mark.parametrize(
    "argument",
    [
        b"", b"joe", b"@host", b"joe@", b"joe@:21", b"joe@host:", b"joe@host:x", b"joe@host:65536",
        b"joe@2001:db8::1", b"joe@[2001:db8::1", b"joe@h\xc3\xb6st", b"joe@a b", b"joe@a/b",
        b"joe@" + b"x" * 64, b"joe@host:1:2",
    ],
)  # fmt: skip
def test_no_user_and_host(argument):
    with pytest.raises(FtpSyntaxError) as caught:
        parse_user(argument, must_log_in=False)
    assert caught.value.reply_code == 530


def gateway(**settings: object) -> Script:
    script = Script(gateway=True, **settings)  # type: ignore[arg-type]
    assert script.heard() == WELCOME
    return script


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"NOOP", 200),
        (b"FEAT", 211),
        (b"PASS x", 530),
        (b"USER joe", 530),
        (b"USER", 501),
        (b"PORT 10,0,0,8,20,1", 530),
        (b"RETR f", 530),
        (b"AUTH TLS", 534),
        (b"LPSV", 502),
        (b"BANANA", 500),
    ],
)
def test_before_there_is_a_server(said, code):
    with gateway() as script:
        script.client(said + b"\r\n")
        assert script.heard().startswith(b"%d" % code)
        assert script.got() == b""
        assert not script.connects
        assert not script.calls


def test_quit_before_there_is_a_server():
    with gateway() as script:
        script.client(b"QUIT\r\nUSER joe@192.0.2.1\r\n")
        assert script.heard() == b"221 Goodbye\r\n"
        assert script.has_hung_up
        assert not script.connects


def test_the_clients_end_before_there_is_a_server():
    with gateway() as script:
        script.client_ends()
        assert script.has_hung_up


def test_the_login():
    with gateway() as script:
        script.client(b"USER joe@192.0.2.1\r\n")
        assert script.connects == [Endpoint("192.0.2.1", 21)]
        assert script.got() == b""
        script.server(b"120 Soon\r\n", b"220-Welcome\r\n", b"220 Ready\r\n")
        assert script.heard() == b""
        assert script.got() == b"USER joe\r\n"
        assert script.ask(b"PASS x", b"331 Password?\r\n230 Ok\r\n") == (
            b"331 Password?\r\n230 Ok\r\n"
        )
        assert script.is_in_step


def test_commands_that_do_not_wait_come_after_the_login():
    with gateway() as script:
        script.client(b"USER joe@192.0.2.1\r\nPASS x\r\nPASV\r\n", b"QUIT\r\n").client_ends()
        assert script.got() == b""
        assert not script.play.server.has_ended
        script.server(b"220 Ready\r\n")
        assert script.got() == b"USER joe\r\nPASS x\r\nPASV\r\n"
        script.server(b"331 a\r\n230 b\r\n227 (192,0,2,1,200,1)\r\n")
        assert script.got() == b"QUIT\r\n"
        assert script.play.server.has_ended


def test_commands_that_come_while_the_server_is_dialled():
    with gateway() as script:
        script.hold()
        script.client(b"USER joe@192.0.2.1\r\n").client(b"PASS x\r\n")
        assert script.is_waiting
        script.let_go()
        script.server(b"220 Ready\r\n")
        assert script.got() == b"USER joe\r\nPASS x\r\n"


@pytest.mark.parametrize("refusal", [b"421 Too many\r\n", b"530-Go\r\n530 away\r\n"])
def test_a_server_that_turns_the_client_away(refusal):
    with gateway() as script:
        script.client(b"USER joe@192.0.2.1\r\n").server(refusal)
        assert script.heard() == refusal
        assert script.got() == b""
        script.server_ends()
        assert script.has_hung_up


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (NoServerReplyError("refused"), b"434 The server cannot be reached\r\n"),
        (PolicyRulesDeniedError("no"), b"530 This server is not allowed\r\n"),
    ],
)
def test_a_server_that_cannot_be_had_and_then_another(error, reply, log):
    with gateway() as script:
        script.refuse("dial", error)
        script.client(b"USER joe@192.0.2.9\r\nPASS x\r\n")
        assert script.heard() == reply + b"530 Log in first, as user@host or user@host:port\r\n"
        script.refuse("dial", None)
        script.client(b"USER joe@192.0.2.1\r\n").server(b"220 Ready\r\n")
        assert script.got() == b"USER joe\r\n"
    (warning,) = [line for line in log if line["log_level"] == "warning"]
    assert warning["event"] == "gateway login refused"
    assert warning["server"] == "192.0.2.9:21"


@pytest.mark.parametrize(
    ("said", "sent", "heard"),
    [
        (b"USER ann@192.0.2.1", b"USER ann\r\n", b""),
        (b"USER ann@192.0.2.1:21", b"USER ann\r\n", b""),
        (b"USER ann", b"USER ann\r\n", b""),
        (b"USER ann@192.0.2.9", b"", b"530 This connection has a server, open another one\r\n"),
        (b"USER ann@192.0.2.1:22", b"", b"530 This connection has a server, open another one\r\n"),
        (b"USER ann@", b"", b"530 Log in first, as user@host or user@host:port\r\n"),
    ],
)
def test_a_second_user(said, sent, heard):
    with gateway() as script:
        script.client(b"USER joe@192.0.2.1\r\n").server(b"220 Ready\r\n331 a\r\n")
        script.ask(b"REIN", b"220 Again\r\n")
        script.heard(), script.got()
        script.client(said + b"\r\n")
        assert script.got() == sent
        assert script.heard() == heard
        assert len(script.connects) == 1


def test_a_user_name_that_holds_a_host_goes_on_without_a_gateway():
    with Script() as script:
        script.client(b"USER joe@elsewhere\r\n")
        assert script.got() == b"USER joe@elsewhere\r\n"


# End to end.


async def test_a_session_through_the_gateway():
    async with open_ftp(**GATEWAY) as world:
        client = await world.connect()
        assert (await client.reply()) == WELCOME
        assert await client.code(f"USER joe@{world.server.address}") == 331
        assert await client.code("PASS secret") == 230
        assert await world.fetch(client) == FILE
        assert await world.fetch(client, "EPSV", "MLSD") == b"type=file; a file\r\n"
        assert await client.code("QUIT") == 221
        assert await client.rest() == b""
        assert world.server.last.lines[0] == b"USER joe"


async def test_pipelined_login_through_the_gateway():
    async with open_ftp(**GATEWAY) as world:
        client = await world.connect()
        await client.send(b"USER joe@%b\r\nPASS x\r\nQUIT\r\n" % str(world.server.address).encode())
        client.peer.half_close()
        assert await client.codes(4) == [220, 331, 230, 221]
        assert await client.rest() == b""
        assert world.server.last.lines == [b"USER joe", b"PASS x", b"QUIT"]


async def test_a_gateway_on_ipv4_in_front_of_a_server_on_ipv6():
    async with open_ftp(V4, V6, **GATEWAY) as world:
        client = await world.connect()
        assert await client.codes(1) == [220]
        assert await client.code(f"USER joe@{world.server.address}") == 331
        assert await world.fetch(client) == FILE
        assert world.server.last.lines[1] == b"EPSV"


async def test_servers_that_refuse_hang_or_do_not_resolve():
    async with open_ftp(**GATEWAY, limits=Limits(connect_timeout=5)) as world:
        mute = world.add(Mute())
        client = await world.connect()
        assert await client.codes(1) == [220]
        assert await client.code(f"USER joe@{unused_endpoint()}") == 434
        assert await client.code("USER joe@no.such.host.invalid") == 434
        await client.send(b"USER joe@%b\r\n" % str(mute.address).encode())
        (session,) = world.firewall.sessions
        await eventually(lambda: session.primary and session.primary.server_address)
        advance(world.firewall.engine.deadlines, 6)
        assert await client.codes(1) == [434]
        assert await client.code(f"USER joe@{world.server.address}") == 331
        assert await world.fetch(client) == FILE


async def test_a_denied_host():
    rules = [Rule(allow=True, protocols=("ftp",), targets=("here",))]
    networks = [Network("here", (f"{V4}/32",))]
    rest = {"rules": rules, "networks": networks}
    other = FtpServer(OTHER_V4)
    await other.start()
    try:
        async with open_ftp(**GATEWAY, rest=rest) as world:
            client = await world.connect()
            assert await client.codes(1) == [220]
            assert await client.ask(f"USER joe@{other.address}") == (
                b"530 This server is not allowed\r\n"
            )
            assert not other.dialogues
            assert await client.code(f"USER joe@{world.server.address}") == 331
    finally:
        await other.stop()


async def test_a_goodbye_without_a_server_is_heard_to_its_end():
    async with open_ftp(**GATEWAY) as world:
        client = await world.connect()
        await client.send(b"NOOP\r\nQUIT\r\nmore\r\n")
        assert await client.codes(3) == [220, 200, 221]
        assert await client.rest() == b""


async def test_a_client_that_names_no_server_in_time():
    async with open_ftp(**GATEWAY) as world:
        client = await world.connect()
        assert await client.codes(1) == [220]
        advance(world.firewall.engine.deadlines, world.firewall.engine.limits.handshake_timeout + 1)
        assert await client.peer.is_cut_off()


async def test_a_client_that_leaves_while_its_server_is_dialled():
    async with open_ftp(**GATEWAY) as world:
        mute = world.add(Mute())
        client = await world.connect()
        assert await client.codes(1) == [220]
        await client.send(b"USER joe@%b\r\n" % str(mute.address).encode())
        (session,) = world.firewall.sessions
        await eventually(lambda: session.primary and session.primary.server_address)
        client.peer.reset()
        advance(world.firewall.engine.deadlines, world.firewall.engine.limits.connect_timeout + 1)
        await eventually(lambda: not len(world.firewall.sessions))
