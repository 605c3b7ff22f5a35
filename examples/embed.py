"""fwproxy inside a program that has other things to do: here, to serve a status page.

    python examples/embed.py             # the status page, FTP and web on 8080, 2121 and 8081
    python examples/embed.py 0 0 0       # on free ports

The program starts an HTTP server of its own that shows, as JSON, the sessions of the proxy and
its ledger: every port that it holds open at this moment, for whom and until when. The proxy has
two listeners, one for FTP with a demo server behind it, and one that leads to the status page.
Signals and logging stay with the program. Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from typing import Any

import attrs
import structlog

from fwproxy import Config, Connection, Endpoint, Firewall, ListenerConfig
from fwproxy.demo import DemoServer

HOST = "127.0.0.1"


def report(firewall: Firewall) -> dict[str, Any]:
    """Return what the proxy is doing, for JSON."""
    return {
        "sessions": [
            {
                "id": session.id,
                "listener": session.listener_name,
                "client": session.client_address.host,
                "connections": [carried(each) for each in session.connections],
            }
            for session in firewall.sessions
        ],
        "ledger": [attrs.asdict(entry) for entry in firewall.ledger],
    }


def carried(connection: Connection) -> dict[str, Any]:
    """Return one connection of a session, for JSON."""
    return {
        "protocol": connection.protocol.name,
        "state": connection.state.value,
        "path": connection.data_path,
        "bytes from client": connection.client_bytes,
        "bytes from server": connection.server_bytes,
    }


class StatusServer:
    """An HTTP server with one page.

    Attributes:
        firewall: what it reports on, once there is one.
    """

    def __init__(self) -> None:
        self.firewall: Firewall | None = None

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, whatever it asks for."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            page = {} if self.firewall is None else report(self.firewall)
            body = json.dumps(page, indent=2).encode() + b"\n"
            head = f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            writer.write(head.encode() + b"\r\n\r\n" + body)
            await writer.drain()
        writer.close()


async def main(status_port: int = 8080, ftp_port: int = 2121, web_port: int = 8081) -> None:
    """Serve until the program is interrupted."""
    status = StatusServer()
    async with await asyncio.start_server(status.answer, HOST, status_port) as server:
        page = Endpoint(*server.sockets[0].getsockname())
        with DemoServer() as ftp_server:
            ...
