"""A server that says what it is told to, and its side of the data connections."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Awaitable, Callable

from rig import HOST, PATIENCE, Peer

from fwproxy import Endpoint
from fwproxy_filters.ftp.addresses import parse_eprt, parse_port

FILE = bytes(range(256)) * 40
Handler = Callable[["Dialogue", bytes], Awaitable[bytes | None] | bytes | None]


class Dialogue:
    """One control connection as the server sees it, with the data connection of the moment.

    Attributes:
        lines: what came, without CRLF, but with Telnet's Synch.
        stored: what uploads brought.
    """

    def __init__(self, server: FtpServer, peer: Peer) -> None:
        self.server = server
        self.peer = peer
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.lines: list[bytes] = []
        self.stored: list[bytes] = []
        self._buffer = b""
        self._has_left = False
        self._listener: asyncio.Server | None = None
        self._accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self._accepted = asyncio.Queue()
        self._target: Endpoint | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def run(self) -> None:
        with contextlib.suppress(ConnectionError):
            if self.server.greeting:
                await self.say(self.server.greeting)
            while (line := await self._line()) is not None:
                self.lines.append(line)
                verb, _, argument = line.lstrip(b"\xff\xf4\xf2").partition(b" ")
                handler = self.server.handlers.get(verb.decode().upper(), b"500 What?\r\n")
                answer = handler if isinstance(handler, bytes) else handler(self, argument)
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer:
                    await self.say(answer)
                if verb == b"QUIT":
                    break
        self.close()

    async def _line(self) -> bytes | None:
        loop = asyncio.get_running_loop()
        while b"\r\n" not in self._buffer:
            data = await loop.sock_recv(self.peer.sock, 65536)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def say(self, reply: bytes) -> None:
        await self.peer.send(reply)

    def leave(self) -> None:
        """Close the control connection, both ways, and nothing else."""
        self.peer.sock.shutdown(socket.SHUT_RDWR)

    def leave_for_good(self) -> None:
        """Close the data connections too, whatever is waited for, and those that are to come."""
        self._has_left = True
        with contextlib.suppress(OSError):
            self.leave()
        self._close_data()

    def close(self) -> None:
        """Close the control connection and everything that belongs to it."""
        self._close_data()
        self.peer.close()

    def _close_data(self) -> None:
        self.close_listener()
        for writer in self._writers:
            writer.close()

    def close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # Data connections.

    async def wait_for_data(self) -> Endpoint:
        """Open a port for the next data connection."""
        self.close_listener()
        self._target = None
        self._accepted = queue = asyncio.Queue()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            if self._has_left:
                writer.close()
            await queue.put((reader, writer))

        self._listener = await asyncio.start_server(accepted, self.server.address.host, 0)
        return Endpoint.from_sockaddr(self._listener.sockets[0].getsockname())

    def call_back(self, target: Endpoint) -> None:
        """Connect to *target* for the next data connection."""
        self.close_listener()
        self._target = target

    async def data(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the data connection; OSError if there is none."""
        if self._target is None and self._listener is None:
            raise OSError("no data connection was set up")
        async with asyncio.timeout(PATIENCE):
            if self._target is None:
                return await self._accepted.get()
            own = (self.server.address.host, 0)  # whoever expects this server expects that
            reader, writer = await asyncio.open_connection(*self._target.sockaddr, local_addr=own)
        self._writers.append(writer)
        return reader, writer

    async def send_file(self, data: bytes = FILE) -> bytes:
        """Be a RETR."""
        try:
            _, writer = await self.data()
        except OSError:
            return b"425 No data connection\r\n"
        await self.say(b"150 Here it comes\r\n")
        try:
            writer.write(data)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, RuntimeError):  # uvloop's answer to a write when all is over
            return b"426 Broken\r\n"
        return b"226 Done\r\n"

    async def take_file(self) -> bytes:
        """Be a STOR."""
        try:
            reader, writer = await self.data()
        except OSError:
            return b"425 No data connection\r\n"
        await self.say(b"150 Go on\r\n")
        try:
            self.stored.append(await reader.read(-1))
        except ConnectionError:
            return b"426 Broken\r\n"
        finally:
            writer.close()
        return b"226 Stored\r\n"


async def _pasv(dialogue: Dialogue, argument: bytes) -> bytes:
    port = (await dialogue.wait_for_data()).port
    host = dialogue.server.address.host.replace(".", ",").encode()
    return b"227 Entering Passive Mode (%b,%d,%d)\r\n" % (host, *divmod(port, 256))


async def _epsv(dialogue: Dialogue, argument: bytes) -> bytes:
    port = (await dialogue.wait_for_data()).port
    return b"229 Entering Extended Passive Mode (|||%d|)\r\n" % port


def _port(dialogue: Dialogue, argument: bytes) -> bytes:
    dialogue.call_back(parse_port(argument))
    return b"200 PORT ok\r\n"


def _eprt(dialogue: Dialogue, argument: bytes) -> bytes:
    dialogue.call_back(parse_eprt(argument))
    return b"200 EPRT ok\r\n"


HANDLERS: dict[str, Handler | bytes] = {
    "USER": b"331 Password?\r\n",
    "PASS": b"230 Welcome\r\n",
    "ACCT": b"230 Account noted\r\n",
    "TYPE": b"200 Type set\r\n",
    "NOOP": b"200 Noop ok\r\n",
    "CWD": b"250 Changed\r\n",
    "REST": b"350 Restarting\r\n",
    "REIN": b"220 Again\r\n",
    "QUIT": b"221 Bye\r\n",
    "PASV": _pasv,
    "EPSV": _epsv,
    "PORT": _port,
    "EPRT": _eprt,
    "RETR": lambda dialogue, argument: dialogue.send_file(),
    "LIST": lambda dialogue, argument: dialogue.send_file(b"a file\r\n"),
    "MLSD": lambda dialogue, argument: dialogue.send_file(b"type=file; a file\r\n"),
    "STOR": lambda dialogue, argument: dialogue.take_file(),
    "STOU": lambda dialogue, argument: dialogue.take_file(),
}


class FtpServer:
    """A server that answers each verb as its table says: with bytes, or with what a call returns.

    Attributes:
        handlers: by verb.
        greeting: what is said first.
        dialogues: its connections, in the order in which they came.
    """

    def __init__(self, host: str = HOST) -> None:
        self.handlers: dict[str, Handler | bytes] = dict(HANDLERS)
        self.greeting = b"220 Ready\r\n"
        self.dialogues: list[Dialogue] = []
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = Endpoint(host)

    @property
    def last(self) -> Dialogue:
        return self.dialogues[-1]

    async def start(self) -> None:
        family = Endpoint(self._host).family
        self._sock = socket.create_server((self._host, 0), family=family)
        self._sock.settimeout(0)
        self.address = Endpoint.from_sockaddr(self._sock.getsockname())
        self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(self._sock)
            dialogue = Dialogue(self, Peer(sock))
            self.dialogues.append(dialogue)
            task = asyncio.create_task(dialogue.run())
            self._tasks.add(task)

    async def stop(self) -> None:
        for task in (self._accepting, *self._tasks):
            task.cancel()
        results = await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)
        for dialogue in self.dialogues:
            dialogue.close()
        self._sock.close()
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, asyncio.CancelledError):
                raise result
