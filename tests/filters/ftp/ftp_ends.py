"""A firewall with the FTP filter on loopback in front of a scripted server, and raw clients.

When a world closes, nothing may be left in the firewall although nobody has told it to stop: every
session must have ended because its ends did.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

from ftp_dialogue import FtpServer, Handler
from rig import Peer, Upstream, assert_nothing_left, eventually

from fwproxy import Config, Endpoint, Firewall, ListenerConfig, ListenerKind
from fwproxy.config.config import Limits, SecondaryConfig
from fwproxy_filters.ftp import FtpFilter
from fwproxy_filters.ftp.addresses import parse_227, parse_229

V4, V6 = "127.0.0.1", "::1"
OTHER_V4 = "127.0.0.2"


class FtpClient:
    """A raw client: sends what it is told to, and reads reply by reply."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.peer.send(data)

    async def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = await self.peer.receive()
            if not data:
                raise EOFError(f"the control connection ended after {self._buffer!r}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    async def reply(self) -> bytes:
        """Return the next reply, all its lines."""
        lines = [await self._line()]
        if lines[0][3:4] == b"-":
            while not lines[-1].startswith(lines[0][:3] + b" "):
                lines.append(await self._line())
        return b"".join(lines)

    async def codes(self, count: int) -> list[int]:
        """Return the codes of the next replies."""
        return [int((await self.reply())[:3]) for _ in range(count)]

    async def ask(self, command: str | bytes) -> bytes:
        """Send a command, return the next reply."""
        line = command.encode() if isinstance(command, str) else command
        await self.send(line + b"\r\n")
        return await self.reply()

    async def code(self, command: str | bytes) -> int:
        return int((await self.ask(command))[:3])

    async def final_code(self) -> int:
        """Return the code of the next reply that is not preliminary."""
        while (code := (await self.codes(1))[0]) < 200:
            pass
        return code

    async def login(self) -> None:
        assert await self.codes(1) == [220]
        assert await self.code("USER joe") == 331
        assert await self.code("PASS secret") == 230

    async def rest(self) -> bytes:
        """Return everything up to the end of the stream."""
        return self._buffer + await self.peer.read_all()

    @property
    def is_idle(self) -> bool:
        """Whether nothing came that has not been read."""
        with contextlib.suppress(BlockingIOError):
            self._buffer += self.peer.sock.recv(65536)
        return not self._buffer

    def close(self) -> None:
        self.peer.close()


class FtpWorld:
    """A running firewall in front of a scripted server."""

    def __init__(self, firewall: Firewall, server: FtpServer) -> None:
        self.firewall = firewall
        self.server = server
        self._ends: list[Any] = []

    @property
    def address(self) -> Endpoint:
        return self.firewall.listeners["ftp"].address

    @property
    def permissions(self) -> int:
        return len(self.firewall.ledger)

    @property
    def connections(self) -> int:
        """Connections of all sessions, primary ones included."""
        return sum(len(session.connections) for session in self.firewall.sessions)

    def add(self, end: Any) -> Any:
        """Close *end* when the test is over."""
        self._ends.append(end)
        return end

    async def connect(self, source: str | None = None) -> FtpClient:
        """Connect a client; nothing has been read yet."""
        client: FtpClient = self.add(FtpClient(await Peer.connect(self.address, source)))
        return client

    async def login(self) -> FtpClient:
        client = await self.connect()
        await client.login()
        return client

    async def open_data(self, address: Endpoint, source: str | None = None) -> Peer:
        """Connect to a data port."""
        peer: Peer = self.add(await Peer.connect(address, source))
        return peer

    async def is_refused(self, address: Endpoint, source: str | None = None) -> bool:
        """Tell whether a data port lets nobody in: nothing listens, or a reset comes."""
        try:
            peer = await self.open_data(address, source)
        except ConnectionError:
            return True
        return await peer.is_cut_off()

    async def passive(self, client: FtpClient, verb: str = "PASV") -> Endpoint:
        """Ask for a port to connect to."""
        reply = await client.ask(verb)
        if verb == "PASV":
            assert reply.startswith(b"227 "), reply
            return parse_227(reply[4:])
        assert reply.startswith(b"229 "), reply
        return Endpoint(self.address.host, parse_229(reply[4:]))

    async def fetch(self, client: FtpClient, verb: str = "PASV", command: str = "RETR f") -> bytes:
        """Do a passive transfer and return what came."""
        data = await self.open_data(await self.passive(client, verb))
        await client.send(command.encode() + b"\r\n")
        got = await data.read_all()
        assert await client.codes(2) == [150, 226]
        data.close()
        return got

    async def is_alive(self, client: FtpClient) -> bool:
        """Tell whether the control connection works and is in step."""
        return await client.ask("NOOP") == b"200 Noop ok\r\n"

    async def settled(self) -> None:
        """Wait until there is nothing but control connections, and no permission."""
        await eventually(lambda: not self.permissions, "a permission was left")
        await eventually(
            lambda: self.connections == len(self.firewall.sessions), "a data connection was left"
        )

    def close_ends(self) -> None:
        for end in self._ends:
            end.close()


def ftp_config(
    server: Endpoint | None,
    host: str = V4,
    *,
    kind: ListenerKind = ListenerKind.FORWARD,
    limits: Limits | None = None,
    secondary: SecondaryConfig | None = None,
    rest: dict[str, Any] | None = None,
    users: str | None = None,
    **settings: Any,
) -> Config:
    """Return a configuration with one FTP listener; *settings* are the filter's."""
    upstream = server if kind is ListenerKind.FORWARD else None
    listener = ListenerConfig(
        "ftp", Endpoint(host), "ftp", kind, upstream, {"ftp": settings}, users=users
    )
    return Config(
        (listener,),
        limits=limits or Limits(),
        secondary=secondary or SecondaryConfig(),
        **(rest or {}),
    )


@contextlib.asynccontextmanager
async def open_ftp(
    client_host: str = V4,
    server_host: str = V4,
    *,
    upstream: Any = None,
    handlers: dict[str, Handler | bytes] | None = None,
    greeting: bytes = b"220 Ready\r\n",
    **settings: Any,
) -> AsyncIterator[FtpWorld]:
    """Run a firewall in front of a scripted server; afterwards nothing may be left in it."""
    server = FtpServer(server_host)
    server.handlers.update(handlers or {})
    server.greeting = greeting
    await server.start()
    firewall = Firewall(
        ftp_config(upstream or server.address, client_host, **settings), [FtpFilter]
    )
    world = FtpWorld(firewall, server)
    try:
        async with firewall:
            yield world
            world.close_ends()
            for dialogue in server.dialogues:
                dialogue.close_listener()
            await eventually(lambda: not len(firewall.sessions), "a session was left")
            await assert_nothing_left(firewall)
    finally:
        world.close_ends()
        await server.stop()


def data_port(reply: bytes) -> Endpoint:
    """Return the address in a 227 reply."""
    return parse_227(reply[4:])


def numbers(text: bytes) -> list[int]:
    """Return all numbers in *text*."""
    return [int(number) for number in re.findall(rb"\d+", text)]


class Listening(Upstream):
    """A port where a client or a third party waits for data connections."""

    def __init__(self, host: str = V4) -> None:
        super().__init__(host)
        self._peers: list[Peer] = []

    async def accept(self) -> Peer:
        peer = await super().accept()
        self._peers.append(peer)
        return peer

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        super().close()

    @property
    def was_called(self) -> bool:
        """Whether anybody has connected that was not accepted."""
        try:
            sock, _ = self.sock.accept()
        except BlockingIOError:
            return False
        sock.close()
        return True

    @property
    def port_command(self) -> str:
        host, (high, low) = self.address.host.replace(".", ","), divmod(self.address.port, 256)
        return f"PORT {host},{high},{low}"

    @property
    def eprt_command(self) -> str:
        family = 1 if self.address.version == 4 else 2
        return f"EPRT |{family}|{self.address.host}|{self.address.port}|"


def waiting(world: FtpWorld) -> Listening:
    """Return a port where the client waits for data."""
    listening: Listening = world.add(Listening(world.address.host))
    return listening
