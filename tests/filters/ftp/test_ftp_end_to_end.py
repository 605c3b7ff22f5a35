"""Sessions through a real firewall: transfers of every kind, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ftp_dialogue import FILE, Dialogue
from ftp_ends import OTHER_V4, V4, V6, FtpClient, FtpWorld, Listening, data_port, numbers, open_ftp
from rig import Mute, Peer, Upstream, advance, eventually, free_ports, unused_endpoint

from fwproxy import Endpoint, ListenerKind
from fwproxy.address import HostName
from fwproxy.config import Limits, SecondaryConfig

BIG = bytes(range(256)) * 40_000
FAMILIES = {"44": (V4, V4), "46": (V4, V6), "64": (V6, V4), "66": (V6, V6)}
IPV4_ONLY = {"PORT", "PASV"}


def waiting(world: FtpWorld) -> Listening:
    """Return a port where the client waits for data."""
    listening: Listening = world.add(Listening(world.address.host))
    return listening


async def set_up(world: FtpWorld, client: FtpClient, verb: str) -> Any:
    """Set a data connection up; return what yields the client's end of it, once."""
    if verb in {"PASV", "EPSV"}:
        return await world.open_data(await world.passive(client, verb))
    listening = waiting(world)
    command = listening.port_command if verb == "PORT" else listening.eprt_command
    assert await client.code(command) == 200
    return listening


async def data_of(end: Peer | Listening) -> Peer:
    return end if isinstance(end, Peer) else await end.accept()


@pytest.mark.parametrize("mode", ["client", "active", "passive"])
@pytest.mark.parametrize(
    ("families", "verb"),
    [
        (families, verb)
        for families in FAMILIES
        for verb in ("PORT", "EPRT", "PASV", "EPSV")
        if families[0] == "4" or verb not in IPV4_ONLY
    ],
)
async def test_transfers(families, mode, verb):
    async with open_ftp(*FAMILIES[families], data_mode=mode) as world:
        client = await world.login()
        end = await set_up(world, client, verb)
        await client.send(b"RETR f\r\n")
        data = await data_of(end)
        assert await data.read_all() == FILE
        data.close()
        assert await client.codes(2) == [150, 226]
        end = await set_up(world, client, verb)
        await client.send(b"STOR f\r\n")
        data = await data_of(end)
        await data.send(FILE)
        data.close()
        assert await client.codes(2) == [150, 226]
        assert world.server.last.stored == [FILE]
        await world.settled()
        assert await world.is_alive(client)
        assert await client.code("QUIT") == 221


async def test_many_transfers_in_one_session():
    async with open_ftp() as world:
        client = await world.login()
        for _ in range(5):
            assert await world.fetch(client) == FILE
            assert await world.fetch(client, "EPSV", "LIST") == b"a file\r\n"
            assert await world.fetch(client, "PASV", "MLSD /dir") == b"type=file; a file\r\n"
            listening = waiting(world)
            assert await client.code(listening.port_command) == 200
            assert await client.code("REST 100") == 350
            await client.send(b"STOU\r\n")
            data = await listening.accept()
            await data.send(b"x" * 1000)
            data.close()
            assert await client.codes(2) == [150, 226]
        await world.settled()
        assert len(world.server.last.stored) == 5
        assert await client.code("QUIT") == 221


async def test_many_sessions_at_once():
    async with open_ftp() as world:

        async def one(verb: str) -> None:
            client = await world.login()
            assert await world.fetch(client, verb) == FILE
            assert await client.code("QUIT") == 221

        await asyncio.gather(*(one(verb) for verb in ["PASV", "EPSV"] * 10))
        await world.settled()


async def test_a_transfer_and_what_follows_it_in_one_piece():
    async with open_ftp() as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\nPASV\r\n")
        assert await data.read_all() == FILE
        data.close()
        assert await client.codes(2) == [150, 226]
        data = await world.open_data(data_port(await client.reply()))
        await client.send(b"RETR f\r\nQUIT\r\n")
        assert await data.read_all() == FILE
        assert await client.codes(3) == [150, 226, 221]


async def test_active_commands_and_transfer_in_one_piece():
    for mode in ("client", "passive"):
        async with open_ftp(data_mode=mode) as world:
            client = await world.login()
            listening = waiting(world)
            await client.send(f"{listening.port_command}\r\nRETR f\r\nQUIT\r\n".encode())
            data = await listening.accept()
            assert await data.read_all() == FILE
            assert await client.codes(4) == [200, 150, 226, 221]


async def test_a_client_that_has_said_everything_and_closed_its_side():
    async with open_ftp() as world:
        client = await world.connect()
        listening = waiting(world)
        await client.send(
            b"USER joe\r\nPASS x\r\n%b\r\nLIST\r\nQUIT\r\n" % listening.port_command.encode()
        )
        client.peer.half_close()
        data = await listening.accept()
        assert await data.read_all() == b"a file\r\n"
        assert await client.codes(7) == [220, 331, 230, 200, 150, 226, 221]
        assert await client.rest() == b""


@pytest.mark.parametrize("name", [b"caf\xe9.txt", "Grüße-日本".encode(), b"a\xff\xffb", b" x "])
async def test_names_of_all_kinds_arrive(name):
    async with open_ftp(handlers={"SIZE": b"213 5 \xe9\r\n"}) as world:
        client = await world.login()
        assert await client.ask(b"SIZE " + name) == b"213 5 \xe9\r\n"
        assert world.server.last.lines[-1] == b"SIZE " + name


async def test_long_replies_go_through():
    status = b"211-Status\r\n" + b" line\r\n" * 50_000 + b"211 End\r\n"
    async with open_ftp(handlers={"STAT": status}) as world:
        client = await world.login()
        assert await client.ask("STAT") == status
        assert await world.is_alive(client)


# Status and abort during a transfer.


def endless(dialogue: Dialogue, argument: bytes) -> None:
    """Start a RETR that goes on until it is stopped."""

    async def send() -> None:
        _, writer = await dialogue.data()
        await dialogue.say(b"150 Here it comes\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"x" * 10_000)
                await writer.drain()

    dialogue.server._tasks.add(asyncio.create_task(send()))


def abort(dialogue: Dialogue, argument: bytes) -> bytes:
    for writer in dialogue._writers:
        writer.transport.abort()
    return b"426 Aborted\r\n226 Abort ok\r\n"


async def test_status_and_abort_during_a_transfer():
    handlers: Any = {"RETR": endless, "ABOR": abort, "STAT": b"211-Sending\r\n211 End\r\n"}
    async with open_ftp(handlers=handlers) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await client.codes(1) == [150]
        assert await data.read(100_000)
        assert await client.ask("STAT") == b"211-Sending\r\n211 End\r\n"
        assert await client.code("NOOP") == 200
        client.peer.sock.send(b"\xff\xf4\xff", socket.MSG_OOB)
        await client.send(b"\xf2ABOR\r\n")
        assert await client.codes(2) == [426, 226]
        assert await data.read_all()
        data.close()
        await world.settled()
        world.server.handlers["RETR"] = lambda dialogue, _: dialogue.send_file()
        assert await world.fetch(client) == FILE


async def test_the_urgent_byte_of_a_synch_stays_in_its_place_and_goes_on_as_urgent():
    with contextlib.closing(Upstream()) as upstream:
        async with open_ftp(upstream=upstream.address) as world:
            client = await world.connect()
            server = world.add(await upstream.accept())
            for pieces in ([b"\xff\xf4\xff\xf2"], [b"\xff\xf4\xff", b"\xf2"], [b"\xff\xf2"]):
                for piece in pieces:
                    client.peer.sock.send(piece, socket.MSG_OOB)
                await client.send(b"ABOR\r\nNOOP\r\n")
                assert await eventually(lambda: urgent_byte(server), "nothing urgent") == b"\xf2"
                assert await server.read(15) == b"\xff\xf4\xffABOR\r\nNOOP\r\n"


def urgent_byte(peer: Peer) -> bytes:
    """Return the urgent byte that has come, if one has."""
    try:
        return peer.sock.recv(1, socket.MSG_OOB)
    except OSError:  # none yet
        return b""


async def test_a_client_that_breaks_its_data_connection():
    async with open_ftp(handlers={"RETR": endless}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await data.read(1000)
        data.reset()
        assert await client.codes(1) == [150]
        await world.settled()
        assert await world.is_alive(client)


@pytest.mark.parametrize("code", [226, 426])
async def test_a_broken_upload_is_no_success(code):
    async def stored(dialogue: Dialogue, argument: bytes) -> bytes:
        reader, writer = await dialogue.data()
        await dialogue.say(b"150 Go on\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()
        return b"%d The server's opinion\r\n" % code

    async with open_ftp(handlers={"STOR": stored}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"STOR f\r\n")
        assert await client.codes(1) == [150]
        await data.send(b"half of ")
        data.reset()
        assert await client.codes(1) == [426]
        await world.settled()
        assert await world.is_alive(client)


async def test_a_server_that_breaks_its_data_connection():
    async def broken(dialogue: Dialogue, argument: bytes) -> bytes:
        _, writer = await dialogue.data()
        await dialogue.say(b"150 Go\r\n")
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        return b"426 Broken\r\n"

    async with open_ftp(handlers={"RETR": broken}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await client.codes(2) == [150, 426]
        assert await data.is_cut_off()
        assert await world.is_alive(client)


# Data connections that cannot be made.


async def test_a_server_whose_data_port_refuses():
    released = asyncio.Event()

    async def late(dialogue: Dialogue, argument: bytes) -> bytes:
        await released.wait()
        return b"150 Hoping\r\n425 Nobody came\r\n"

    async with open_ftp(handlers={"RETR": late}) as world:
        client = await world.login()
        port = await world.passive(client)
        world.server.last.close_listener()
        await client.send(b"RETR f\r\n")
        assert await world.is_refused(port)
        assert await client.ask("LPSV") == b"425 Cannot open a data connection\r\n"
        assert await client.codes(1) == [502]
        released.set()
        assert await world.is_alive(client)
        await world.settled()
        world.server.handlers["RETR"] = lambda dialogue, _: dialogue.send_file()
        assert await world.fetch(client) == FILE


async def test_a_server_whose_data_port_refuses_before_the_transfer():
    async with open_ftp() as world:
        client = await world.login()
        port = await world.passive(client)
        world.server.last.close_listener()
        assert await world.is_refused(port)
        await world.settled()
        assert await client.code("RETR f") == 425
        assert world.server.last.lines[-1] == b"PASV"
        assert await world.fetch(client) == FILE


async def test_a_client_whose_data_port_refuses():
    async with open_ftp() as world:
        client = await world.login()
        (*_, high, low) = (0, *divmod(unused_endpoint().port, 256))
        assert await client.code(f"PORT 127,0,0,1,{high},{low}") == 200
        await client.send(b"RETR f\r\n")
        assert await client.final_code() == 425
        await world.settled()
        assert await world.is_alive(client)
        assert await world.fetch(client) == FILE


@pytest.mark.parametrize("who", ["client", "server"])
async def test_both_wait_and_one_of_them_is_gone(who):
    async def refused(dialogue: Dialogue, argument: bytes) -> bytes:
        if who == "server":
            return b"425 Nobody came\r\n"
        return await dialogue.send_file()

    async with open_ftp(data_mode="passive", handlers={"RETR": refused}) as world:
        client = await world.login()
        listening = Listening()
        assert await client.code(listening.port_command) == 200
        if who == "client":
            listening.close()
        else:
            world.add(listening)
            world.server.last.close_listener()
        await client.send(b"RETR f\r\n")
        assert await client.final_code() == 425
        await world.settled()
        assert await world.is_alive(client)
        world.server.handlers["RETR"] = lambda dialogue, _: dialogue.send_file()
        assert await world.fetch(client) == FILE


async def test_a_client_that_never_comes_to_a_server_that_is_there():
    async with open_ftp(data_mode="active") as world:
        client = await world.login()
        port = await world.passive(client)
        await client.send(b"RETR f\r\n")
        assert await client.codes(1) == [150]
        await eventually(lambda: world.permissions == 1, "the server has not come")
        advance(world.firewall.engine.deadlines, 61)
        assert (await client.codes(1))[0] in {425, 426}
        await world.settled()
        assert await world.is_refused(port)
        assert await world.is_alive(client)


@pytest.mark.parametrize("mode", ["client", "active"])
@pytest.mark.parametrize("verb", ["PASV", "PORT"])
async def test_unused_permissions_expire(verb, mode):
    async with open_ftp(data_mode=mode) as world:
        client = await world.login()
        if verb == "PASV":
            await world.passive(client)
        else:
            assert await client.code(waiting(world).port_command) == 200
        assert world.permissions == (2 if (verb, mode) == ("PASV", "active") else 1)
        advance(world.firewall.engine.deadlines, 61)
        await world.settled()
        assert await client.code("RETR f") == 425
        assert b"RETR f" not in world.server.last.lines
        assert await world.is_alive(client)


# Who may use a data connection, and how often.


async def test_only_the_client_may_come_and_only_once():
    async with open_ftp() as world:
        client = await world.login()
        port = await world.passive(client)
        assert await world.is_refused(port, OTHER_V4)
        assert await world.is_refused(port, OTHER_V4)
        data = await world.open_data(port, V4)
        await client.send(b"RETR f\r\n")
        assert await data.read_all() == FILE
        assert await world.is_refused(port, V4)
        assert await client.codes(2) == [150, 226]


async def test_only_the_server_may_come_and_only_once():
    async with open_ftp() as world:
        client = await world.login()
        listening = waiting(world)
        assert await client.code(listening.port_command) == 200
        port = world.server.last._target
        assert port is not None
        assert await world.is_refused(port, OTHER_V4)
        await client.send(b"RETR f\r\n")
        data = await listening.accept()
        assert await data.read_all() == FILE
        assert await client.codes(2) == [150, 226]
        assert await world.is_refused(port, V4)
        assert not listening.was_called


@pytest.mark.parametrize("mode", ["client", "active"])
@pytest.mark.parametrize("then", ["PASV", "PORT", "EPSV", "QUIT", "REIN", "close", "reset"])
@pytest.mark.parametrize("first", ["PASV", "PORT"])
async def test_unused_permissions_are_withdrawn(first, then, mode):
    async with open_ftp(data_mode=mode) as world:
        client = await world.login()
        if first == "PASV":
            await world.passive(client)
        else:
            assert await client.code(waiting(world).port_command) == 200
        before = {entry.id for entry in world.firewall.ledger}
        assert before
        if then == "close":
            client.close()
        elif then == "reset":
            client.peer.reset()
        elif then == "PORT":
            assert await client.code(waiting(world).port_command) == 200
        else:
            assert await client.code(then) in {220, 221, 227, 229}
        await eventually(lambda: not before & {entry.id for entry in world.firewall.ledger})
        if then in {"QUIT", "REIN", "close", "reset"}:
            await eventually(lambda: not world.permissions)


async def test_the_pool_of_ports_is_exhausted_and_recovers(log):
    secondary = SecondaryConfig(ports=free_ports(1))
    async with open_ftp(secondary=secondary) as world:
        first, second = await world.login(), await world.login()
        port = await world.passive(first)
        assert await second.ask("PASV") == b"425 Cannot open a data connection\r\n"
        listening = waiting(world)
        assert await second.ask(listening.port_command) == b"425 Cannot open a data connection\r\n"
        assert await world.is_alive(second)
        refusals = [line for line in log if line["event"] == "data connection refused"]
        assert len(refusals) == 2
        assert all("secondary.ports" in line["reason"] for line in refusals)
        data = await world.open_data(port)
        await first.send(b"RETR f\r\n")
        assert await data.read_all() == FILE
        assert await world.fetch(second) == FILE
        assert await client_is_told_the_port(second, secondary.ports.first)


async def client_is_told_the_port(client: FtpClient, port: int) -> bool:
    return data_port(await client.ask("PASV")).port == port


# Ends.


async def test_a_server_that_closes_after_quit():
    async with open_ftp() as world:
        client = await world.login()
        assert await client.code("QUIT") == 221
        assert await client.rest() == b""
        await world.settled()


async def test_a_server_that_closes_while_the_client_still_reads():
    def send_and_leave(dialogue: Dialogue, argument: bytes) -> Any:
        async def send() -> bytes:
            _, writer = await dialogue.data()
            await dialogue.say(b"150 Go\r\n")
            writer.write(BIG)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            await dialogue.say(b"226 Done\r\n")
            dialogue.leave()
            return b""

        return send()

    async with open_ftp(handlers={"RETR": send_and_leave}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await client.rest() == b"150 Go\r\n226 Done\r\n"
        assert await data.read_all() == BIG


async def test_a_client_that_never_closes_after_the_server_has():
    async with open_ftp() as world:
        client = await world.login()
        world.server.last.leave()
        assert await client.rest() == b""
        assert len(world.firewall.sessions) == 1
        advance(world.firewall.engine.deadlines, world.firewall.engine.limits.drain_timeout + 1)
        await eventually(lambda: not len(world.firewall.sessions))


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_vanishes_during_a_transfer(how):
    async with open_ftp(handlers={"RETR": endless}) as world:
        client = await world.login()
        data = await world.open_data(await world.passive(client))
        await client.send(b"RETR f\r\n")
        assert await data.read(1000)
        for peer in (client.peer, data):
            peer.close() if how == "close" else peer.reset()
        await eventually(lambda: not len(world.firewall.sessions))


@pytest.mark.parametrize("kind", ["refuses", "hangs", "does not resolve"])
async def test_an_upstream_that_cannot_be_had(kind):
    mute = Mute()
    with contextlib.closing(mute):
        upstream = {
            "refuses": unused_endpoint(),
            "hangs": mute.address,
            "does not resolve": HostName("no.such.host.invalid", 21),
        }[kind]
        async with open_ftp(upstream=upstream, limits=Limits(connect_timeout=5)) as world:
            refused = asyncio.create_task(world.is_refused(world.address))
            if kind == "hangs":
                await eventually(lambda: len(world.firewall.sessions))
                advance(world.firewall.engine.deadlines, 6)
            assert await refused
            await eventually(lambda: not len(world.firewall.sessions))


async def test_a_reply_that_the_client_does_not_read_holds_the_server_up_and_nothing_else():
    reply = b"211-Long\r\n" + b" x" * 4000 + b"\r\n211 End\r\n"
    async with open_ftp(handlers={"STAT": reply}) as world:
        lazy, busy = await world.login(), await world.login()
        await lazy.send(b"STAT\r\n" * 2000)
        assert await world.fetch(busy) == FILE
        for _ in range(2000):
            assert await lazy.reply() == reply
        assert await world.is_alive(lazy)


# TLS through the control connection.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A key and a certificate for localhost that signs itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the package openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
               "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
               "-keyout", str(key), "-out", str(made)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return key, made


async def _speak_tls(
    context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Be a server that knows AUTH TLS and then answers everything with 227."""
    writer.write(b"220 Ready\r\n")
    try:
        assert await reader.readline() == b"AUTH TLS\r\n"
        writer.write(b"234 Go\r\n")
        await writer.drain()
        await writer.start_tls(context)
        while await reader.readline():
            writer.write(b"227 Entering Passive Mode (192,0,2,1,200,1)\r\n")
    except ConnectionError:
        pass
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@pytest.mark.parametrize("gateway", [False, True])
async def test_a_real_tls_handshake(certificate, gateway, log):
    key, made = certificate
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(made, key)
    server = await asyncio.start_server(
        lambda reader, writer: _speak_tls(ours, reader, writer), V4, 0
    )
    upstream = Endpoint.from_sockaddr(server.sockets[0].getsockname())
    async with server, open_ftp(upstream=upstream, tls="opaque") as world:
        reader, writer = await asyncio.open_connection(*world.address.sockaddr)
        assert await reader.readline() == b"220 Ready\r\n"
        writer.write(b"AUTH TLS\r\n")
        assert await reader.readline() == b"234 Go\r\n"
        context = ssl.create_default_context(cafile=made)
        await writer.start_tls(context, server_hostname="localhost")
        for _ in range(3):
            writer.write(b"PASV\r\n")
            assert numbers(await reader.readline()) == [227, 192, 0, 2, 1, 200, 1]
        assert not world.permissions
        writer.close()
        await writer.wait_closed()
    assert "the control connection is opaque from here on" in [line["event"] for line in log]


async def test_tls_is_refused_by_default():
    async with open_ftp() as world:
        client = await world.login()
        assert await client.code("AUTH TLS") == 534
        assert await client.code("AUTH SSL") == 534
        assert await client.code("PROT P") == 503
        assert await world.is_alive(client)
        assert not [line for line in world.server.last.lines if line.startswith((b"AU", b"PR"))]


# Secrets.


async def test_the_log_of_a_whole_session_holds_no_secret(log):
    secret = "hunter2"
    rest = {"filters": {}}
    async with open_ftp(data_mode="active", rest=rest) as world:
        client = await world.connect()
        assert await client.codes(1) == [220]
        assert await client.code("USER joe") == 331
        assert await client.code(f"PASS {secret}") == 230
        assert await client.code(f"ACCT {secret}") == 230
        assert await world.fetch(client) == FILE
        assert await client.code("PORT 10,0,0,1,20,1") == 501
        await client.send(f"PASS {secret}\0\r\n".encode())
        assert await client.codes(1) == [500]
        world.server.last.close_listener()
        assert await client.code("QUIT") == 221
    assert secret not in repr(log)
    assert {"command", "data connection refused", "connection closed"} <= {
        line["event"] for line in log
    }


async def test_a_filter_that_fails_does_not_tell_secrets(log, monkeypatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("the test says so")

    async with open_ftp() as world:
        client = await world.connect()
        assert await client.codes(1) == [220]
        monkeypatch.setattr("fwproxy_filters.ftp.client_side.check_command", fail)
        await client.send(b"PASS hunter2\r\n")
        assert await client.peer.is_cut_off()
        await eventually(lambda: not len(world.firewall.sessions))
    assert [line for line in log if line["log_level"] == "error"]
    assert "hunter2" not in repr(log)


async def test_kinds_of_listeners_are_what_they_are_called():
    async with open_ftp(kind=ListenerKind.FORWARD) as world:
        assert (await world.login()).is_idle
