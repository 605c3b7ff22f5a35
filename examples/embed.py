"""fwproxy inside a program that has other things to do: here, to serve a status page.

    python examples/embed.py             # FTP on 2121 and 2122, the status page on 8080
    python examples/embed.py 0 0 0       # on free ports

The page shows the sessions of the proxy and its ledger: every port that it holds open at this
moment, for whom, and until when. To see something in it, log in with an FTP client, send PASV, and
reload it. Both listeners lead to one demo server; the second one makes all data connections active.
Logging and signals stay with the program. Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from functools import partial
from typing import Any

import attrs
import structlog

from fwproxy import Config, Connection, Endpoint, Firewall, ListenerConfig
from fwproxy.demo import DemoServer

HOST = "127.0.0.1"


def set_up_logging() -> None:
    """Send the log of this program to standard error, and let fwproxy's go the same way."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def described(connection: Connection) -> dict[str, Any]:
    """Return one connection of a session, for JSON."""
    return {
        "protocol": connection.protocol.name,
        "state": connection.state.value,
        "path": connection.data_path,
        "bytes from client": connection.client_bytes,
        "bytes from server": connection.server_bytes,
    }


def status(firewall: Firewall) -> dict[str, Any]:
    """Return what the proxy is doing, for JSON."""
    sessions = [
        {
            "id": session.id,
            "listener": session.listener_name,
            "client": session.client_address.host,
            "connections": [described(connection) for connection in session.connections],
        }
        for session in firewall.sessions
    ]
    return {"sessions": sessions, "ledger": [attrs.asdict(entry) for entry in firewall.ledger]}


async def answer(
    firewall: Firewall, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one HTTP request, whatever it asks for."""
    with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
        writer.write(json.dumps(status(firewall), indent=2).encode() + b"\n")
        await writer.drain()
    writer.close()


def configuration(server: Endpoint, ports: list[int]) -> Config:
    """Return two ways to the FTP server."""
    return Config(
        [
            ListenerConfig("ftp", Endpoint(HOST, ports[0]), "ftp", upstream=server),
            ListenerConfig(
                "active",
                Endpoint(HOST, ports[1]),
                "ftp",
                upstream=server,
                filters={"ftp": {"data_mode": "active"}},
            ),
        ]
    )


async def main(ports: list[int]) -> None:
    """Serve FTP and the page until the program is interrupted."""
    with DemoServer() as ftp:
        async with (
            Firewall(configuration(ftp.address, ports[:2])) as firewall,
            await asyncio.start_server(partial(answer, firewall), HOST, ports[2]) as page,
        ):
            for name, listener in firewall.listeners.items():
                print(f"{name}: curl ftp://{listener.address}/README.txt")
            print(f"status: curl http://{Endpoint(*page.sockets[0].getsockname())}/", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    set_up_logging()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main([int(port) for port in sys.argv[1:]] or [2121, 2122, 8080]))
