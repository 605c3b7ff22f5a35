"""Ends of control and data connections that a test speaks for, in a namespace or on loopback.

    with ScriptedServer() as server, talking(server, proxy.target(...)) as (client, inside):
        client.send(b"NOOP\\r\\n")
        assert inside.line() == b"NOOP\\r\\n"

They work without threads: a test reads what it waits for, and nothing waits longer than PATIENCE.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from .namespaces import NAMES
from .terms import LOOPBACK, Target

PATIENCE = 10.0
CLONE_NEWNET = 0x40000000
BLOCK_SIZE = 1 << 18
NUMBERS = re.compile(rb"\d+")


def socket_in(namespace: str | None, host: str) -> socket.socket:
    """A TCP socket for the IP version of `host`, in a namespace or in this one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if namespace is None:
        made = socket.socket(family)
    else:
        # A namespace is the thread's that enters it, and a socket stays where it was made.
        with concurrent.futures.ThreadPoolExecutor(1) as visitor:
            made = visitor.submit(_visit, NAMES / namespace, family).result()
    made.settimeout(PATIENCE)
    return made


def _visit(namespace: Path, family: socket.AddressFamily) -> socket.socket:
    with namespace.open() as entrance:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(entrance.fileno(), CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return socket.socket(family)


def connect(
    host: str, port: int, namespace: str | None = None, source: str | None = None
) -> socket.socket:
    """Connect, from a given address of this side if asked to."""
    made = socket_in(namespace, host)
    try:
        if source is not None:
            made.bind((source, 0))
        made.connect((host, port))
    except BaseException:
        made.close()
        raise
    return made


def listen(host: str, namespace: str | None = None, backlog: int = 16) -> socket.socket:
    """Listen on any port of an address."""
    made = socket_in(namespace, host)
    made.bind((host, 0))
    made.listen(backlog)
    return made


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    blocks = []
    while block := sock.recv(BLOCK_SIZE):
        blocks.append(block)
    return b"".join(blocks)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """That many bytes, fewer only at the end of the stream."""
    read = b""
    while len(read) < size and (block := sock.recv(size - len(read))):
        read += block
    return read


def knock(host: str, port: int, namespace: str | None = None, source: str | None = None) -> str:
    """What a port says to one who comes: "refused", "reset", or whatever else."""
    try:
        with connect(host, port, namespace, source) as sock:
            return f"heard {sock.recv(100)!r}"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:  # before or after connect has returned
        return "reset"


def reset(sock: socket.socket) -> None:
    """Close with a reset, whatever is still on its way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def was_called(listener: socket.socket) -> bool:
    """Whether somebody has connected who was not accepted yet."""
    listener.settimeout(0)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


class Control:
    """One end of a control connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def line(self) -> bytes:
        """The next line with its end; EOFError if there is none."""
        while b"\n" not in self._buffer:
            block = self.sock.recv(BLOCK_SIZE)
            if not block:
                raise EOFError(f"the control connection ended after {self._buffer!r}")
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        return self._buffer + read_all(self.sock)


class ScriptedClient(Control):
    """A client; `target` is a server or the proxy before it."""

    def __init__(
        self, target: Target, namespace: str | None = None, source: str | None = None
    ) -> None:
        super().__init__(connect(target.host, target.port, namespace, source))
        self.target = target
        self.namespace = namespace
        self.source = source

    @property
    def address(self) -> str:
        """The client's own address."""
        host: str = self.sock.getsockname()[0]
        return host

    def reply(self) -> bytes:
        """The next reply, all its lines."""
        lines = [self.line()]
        if lines[0][3:4] == b"-":
            while not lines[-1].startswith(lines[0][:3] + b" "):
                lines.append(self.line())
        return b"".join(lines)

    def code(self, command: str | bytes | None = None) -> int:
        """The code of the next reply, after sending a command if there is one."""
        return int((self.reply() if command is None else self.ask(command))[:3])

    def codes(self, count: int) -> list[int]:
        """The codes of the next replies."""
        return [self.code() for _ in range(count)]

    def ask(self, command: str | bytes) -> bytes:
        """Send a command and return the next reply."""
        self.send((command.encode() if isinstance(command, str) else command) + b"\r\n")
        return self.reply()

    def login(self) -> None:
        """Hear the greeting and log in, for binary transfers."""
        assert self.code() == 220
        if self.code(f"USER {self.target.username}") == 331:
            assert self.code(f"PASS {self.target.password}") == 230
        assert self.code("TYPE I") == 200

    def is_alive(self) -> bool:
        """Whether the control connection works and is in step."""
        return self.ask("NOOP")[:1] == b"2" and self.ask("PWD")[:3] == b"257"

    def passive(self, verb: str = "EPSV") -> tuple[str, int]:
        """Ask where to connect for data."""
        reply = self.ask(verb)
        if verb == "PASV":
            assert reply[:3] == b"227", reply
            *octets, high, low = map(int, NUMBERS.findall(reply[4:]))
            return ".".join(map(str, octets)), high * 256 + low
        assert reply[:3] == b"229", reply
        (port,) = map(int, NUMBERS.findall(reply[4:]))
        return self.target.host, port

    def open_data(self, verb: str = "EPSV") -> socket.socket:
        """Ask where to connect for data, and connect."""
        return connect(*self.passive(verb), self.namespace, self.source)

    def listen(self) -> socket.socket:
        """A port for the data connection of an active transfer."""
        return listen(self.address, self.namespace)

    def fetch(self, name: str) -> bytes:
        """Fetch a file in passive mode."""
        return self.fetch_bytes(f"RETR {name}".encode())

    def fetch_bytes(self, command: bytes) -> bytes:
        """What the server sends for a command, in passive mode."""
        with self.open_data() as data:
            assert self.code(command) in {125, 150}
            content = read_all(data)
        assert self.code() == 226
        return content


class ScriptedServer:
    """Waits for the proxy, for control connections or for data."""

    def __init__(self, host: str = LOOPBACK[4], namespace: str | None = None) -> None:
        self._listener = listen(host, namespace)
        self.host, self.port = self._listener.getsockname()[:2]
        self.namespace = namespace

    @property
    def target(self) -> Target:
        """Where it is."""
        return Target(self.host, self.port, "joe", "secret")

    def accept(self) -> Control:
        """The next connection."""
        return Control(self._listener.accept()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()


def port_argument(host: str, port: int) -> str:
    """The argument of PORT, and what stands in a 227."""
    return ",".join([*host.split("."), *map(str, divmod(port, 256))])


def active_command(listener: socket.socket, verb: str = "EPRT") -> str:
    """PORT or EPRT for a port that listens."""
    host, port, *_ = listener.getsockname()
    return address_command(host, port, verb)


def address_command(host: str, port: int, verb: str = "EPRT") -> str:
    """PORT or EPRT for an address."""
    if verb == "PORT":
        return f"PORT {port_argument(host, port)}"
    return f"EPRT |{2 if ':' in host else 1}|{host}|{port}|"


@contextlib.contextmanager
def talking(
    server: ScriptedServer, target: Target, namespace: str | None = None
) -> Iterator[tuple[ScriptedClient, Control]]:
    """A client that has connected to `target` and been greeted, and the server's end of that."""
    with ScriptedClient(target, namespace) as client, server.accept() as inside:
        inside.send(b"220 Ready\r\n")
        assert client.code() == 220
        yield client, inside
