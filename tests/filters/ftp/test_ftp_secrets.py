"""Sessions through a real firewall: TLS on the control connection, and no secret in the log."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftp_dialogue import FILE
from ftp_ends import V4, numbers, open_ftp
from rig import eventually

from fwproxy import Endpoint

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
