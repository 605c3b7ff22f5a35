"""The three parts of a protocol whose secondary connections take unusual ways.

`pathfinder.py proxy REQUEST`, `... server REQUEST` and `... client REQUEST`, with REQUEST as JSON.
A client says on its control connection

    INBOUND tcp|udp PORT     and waits there for the server, which is told an address
    OUTBOUND PORT            and goes to the server's port by itself
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from typing import Any

import structlog

from fwproxy import (
    Config,
    Endpoint,
    Firewall,
    ListenerConfig,
    ListenerKind,
    ProtocolDefinition,
    SecondaryFlags,
    Transport,
)
from fwproxy.config.config import DatapathConfig, SecondaryConfig
from fwproxy.kit.line_filter import LineFilter
from fwproxy.kit.primary_filter import PrimaryFilter
from fwproxy.policy.policy import Rule
from fwproxy.protocol import BUILT_IN

TIMEOUT = 10.0
PATH_DATA = ProtocolDefinition("path-data")
PATH = ProtocolDefinition("path", secondary=("path-data",), filters=("path",))


def say(line: str) -> None:
    """Tell the test."""
    print(line, flush=True)


class PathLines(LineFilter):
    """Opens what the client asks for."""

    async def line_from_client(self, line: bytes) -> bytes:
        """Tell the server the client's own address with a port that the proxy has bound there."""
        verb, *words = line.decode().split()
        session, server = self.connection.session, self.connection.server_address
        assert server is not None
        if verb == "INBOUND":
            transport, client = Transport(words[0]), session.client_address
            (bound,) = await session.bind_for_client(
                [client.with_port(int(words[1]))],
                proxy_address=client,
                transport=transport,
                flags=SecondaryFlags.BIDIRECTIONAL & _udp_only(transport),
                protocol=PATH_DATA,
            )
            assert bound.proxy_address is not None
            host, port = bound.proxy_address.sockaddr
            return f"INBOUND {transport.value} {host} {port}".encode()
        await session.allow_future_connect(server.with_port(int(words[0])), protocol=PATH_DATA)
        return line


def _udp_only(transport: Transport) -> SecondaryFlags:
    none = SecondaryFlags.NONE
    return ~none if transport is Transport.UDP else none


class PathFilter(PrimaryFilter):
    """What the proxy loads."""

    name = "path"
    data_filter = PathLines


async def proxy(request: dict[str, Any]) -> None:
    """Run until it is killed; say when it has started."""
    kind = ListenerKind.REDIRECT
    control, others = (Endpoint(request["any"], port) for port in request["ports"])
    config = Config(
        [
            ListenerConfig("control", control, "path", kind),
            ListenerConfig("others", others, "tcp", kind),
        ],
        protocols=(*BUILT_IN, PATH, PATH_DATA),
        rules=(Rule(allow=True, protocols=("path",)),),
        secondary=SecondaryConfig(source=request["source"]),
        datapath=DatapathConfig(kernel=request.get("kernel", "off")),
    )
    warning = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=warning)  # what it says is for the test
    async with Firewall(config, [PathFilter]):
        say("started")
        await asyncio.Event().wait()


def server(request: dict[str, Any]) -> None:
    """Serve one client, and say what was seen of it."""
    with socket.create_server((request["host"], request["port"]), family=_family(request)) as sock:
        say("started")
        sock.settimeout(TIMEOUT)
        control, _ = sock.accept()
    with control, control.makefile("rwb") as stream:
        verb, *words = stream.readline().decode().split()
        if verb == "INBOUND":
            say(json.dumps(_call(words[0], words[1], int(words[2]))))
            return
        with socket.create_server((request["host"], int(words[0])), family=_family(request)) as s:
            s.settimeout(TIMEOUT)
            stream.write(b"READY\r\n")
            stream.flush()
            data, peer = s.accept()
        with data:
            data.sendall(b"from the server")
            say(json.dumps({"peer": peer[0], "heard": data.recv(100).decode()}))


def _call(transport: str, host: str, port: int) -> dict[str, str]:
    """Go to the client, and say from where it has answered and what."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect((host, port))
        sock.send(b"from the server")
        return {"peer": sock.getpeername()[0], "heard": sock.recv(100).decode()}


def client(request: dict[str, Any]) -> None:
    """Do what is asked for, and say what was seen of the server."""
    control = socket.create_connection((request["host"], request["port"]), TIMEOUT)
    with control, control.makefile("rwb") as stream:
        if request["verb"] == "INBOUND":
            seen = _wait(request, stream)
        else:
            stream.write(f"OUTBOUND {request['secondary']}\r\n".encode())
            stream.flush()
            assert stream.readline() == b"READY\r\n"
            with socket.create_connection((request["host"], request["secondary"]), TIMEOUT) as s:
                seen = {"peer": s.getpeername()[0], "heard": s.recv(100).decode()}
                s.sendall(b"from the client")
    say(json.dumps(seen))


def _wait(request: dict[str, Any], stream: Any) -> dict[str, str]:
    kind = socket.SOCK_STREAM if request["transport"] == "tcp" else socket.SOCK_DGRAM
    with socket.socket(_family(request), kind) as sock:
        sock.settimeout(TIMEOUT)
        sock.bind((request["own"], 0))
        if kind is socket.SOCK_STREAM:
            sock.listen(1)
        port = sock.getsockname()[1]
        stream.write(f"INBOUND {request['transport']} {port}\r\n".encode())
        stream.flush()
        if kind is socket.SOCK_DGRAM:
            heard, peer = sock.recvfrom(100)
            sock.sendto(b"from the client", peer)
            return {"peer": peer[0], "heard": heard.decode()}
        data, peer = sock.accept()
        with data:
            data.settimeout(TIMEOUT)
            heard = data.recv(100)
            data.sendall(b"from the client")
            data.recv(100)  # until the server has heard it
        return {"peer": peer[0], "heard": heard.decode()}


def _family(request: dict[str, Any]) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in request["host"] else socket.AF_INET


def main() -> None:
    """Play the part that is asked for."""
    part, request = sys.argv[1], json.loads(sys.argv[2])
    if part == "proxy":
        asyncio.run(proxy(request))
    else:
        {"server": server, "client": client}[part](request)


if __name__ == "__main__":
    main()
