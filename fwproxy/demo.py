"""An FTP server to try the proxy with, and a check that fetches a file through the proxy from it.

The server is for demonstrations and tests: anonymous, read-only, on the loopback interface.
"""

from __future__ import annotations

import asyncio
import ftplib
import hashlib
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyftpdlib.ioloop import AsyncChat, IOLoop  # first: it keeps Python 3.11 from warning

# isort: split
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

from fwproxy.address import Endpoint
from fwproxy.config.config import Config
from fwproxy.config.listeners import ListenerConfig
from fwproxy.firewall import Firewall

LOOPBACK = Endpoint("127.0.0.1", 0)
LISTEN = Endpoint("127.0.0.1", 2121)
"""Where `fwproxy run` listens without a configuration file."""

BIG_FILE = "data.bin"
FILES: dict[str, bytes] = {
    "README.txt": (
        b"This file came through fwproxy: the FTP server listens on a port of its own, and the\r\n"
        b"proxy opened the data connection that carried it.\r\n"
    ),
    BIG_FILE: hashlib.shake_256(b"fwproxy").digest(1024 * 1024),
    "pub/hello.txt": b"hello\r\n",
}
"""What the demo server offers."""

MODES = ("PORT", "PASV", "EPRT", "EPSV")
"""The commands that open an FTP data connection, each tried by `check`."""

_FETCH_TIMEOUT = 10.0


def demo_config(listen: Endpoint, server: Endpoint) -> Config:
    """Return the configuration that puts a proxy on *listen* in front of *server*."""
    listener = ListenerConfig(name="ftp", bind=listen, protocol="ftp", upstream=server)
    return Config(listeners=(listener,))


class DemoServer:
    """The FTP server, in a thread and a temporary directory of its own; a context manager.

    Args:
        bind: where to listen; port 0 takes a free one.

    Attributes:
        address: where it listens, once it was entered.

    Raises:
        OSError: on entry, if it cannot listen there.
    """

    def __init__(self, bind: Endpoint = LOOPBACK) -> None:
        self.address = bind
        self._directory = tempfile.TemporaryDirectory(prefix="fwproxy-demo-")
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            self._start(Path(self._directory.name))
        except BaseException:
            self._directory.cleanup()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._thread is not None  # noqa: S101 - it was entered
        self._stop.close()
        self._thread.join()
        self._directory.cleanup()

    def _start(self, directory: Path) -> None:
        for name, content in FILES.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        logger = logging.getLogger("pyftpdlib")
        if not logger.handlers:  # else it would set up logging by itself
            logger.addHandler(logging.NullHandler())
        ioloop = IOLoop()
        try:
            server = FTPServer(self.address.sockaddr, _handler_class(directory), ioloop)
            self.address = Endpoint(*server.address)
            self._stop, wakes = socket.socketpair()
            _Stopper(wakes, ioloop)
        except BaseException:
            ioloop.close()
            raise
        self._thread = threading.Thread(target=ioloop.loop, name="demo-ftp-server", daemon=True)
        self._thread.start()


class _Stopper(AsyncChat):  # type: ignore[misc]
    """Closes the server and everything of it, in its own thread, when the other end is closed."""

    def handle_read(self) -> None:
        """Take the end of the stream."""
        self.ioloop.close()


def _handler_class(directory: Path) -> type[Any]:
    authorizer = DummyAuthorizer()
    authorizer.add_anonymous(str(directory), perm="elr")

    class Handler(FTPHandler):  # type: ignore[misc]
        banner = "fwproxy demo server"

    Handler.authorizer = authorizer
    return Handler


class _Client(ftplib.FTP):
    """Opens data connections with the one command it was made for, and believes the reply."""

    trust_server_pasv_ipv4_address = True

    def __init__(self, mode: str) -> None:
        super().__init__(timeout=_FETCH_TIMEOUT)
        self._mode = mode
        self.set_pasv(mode in {"PASV", "EPSV"})

    def makepasv(self) -> tuple[str, int]:
        """Ask for a port of the server."""
        if self._mode == "PASV":
            return super().makepasv()
        assert self.sock is not None  # noqa: S101 - ftplib calls this when connected
        host, port = ftplib.parse229(self.sendcmd("EPSV"), self.sock.getpeername())  # noqa: S321
        return str(host), int(port)

    def makeport(self) -> socket.socket:
        """Offer a port of ours to the server."""
        assert self.sock is not None  # noqa: S101 - ftplib calls this when connected
        host = self.sock.getsockname()[0]
        listener = socket.create_server((host, 0), family=self.af, backlog=1)
        listener.settimeout(_FETCH_TIMEOUT)
        try:
            send = self.sendport if self._mode == "PORT" else self.sendeprt
            send(host, listener.getsockname()[1])
        except BaseException:
            listener.close()
            raise
        return listener


def fetch(proxy: Endpoint, mode: str, name: str = BIG_FILE) -> str:
    """Fetch a file of the demo server through *proxy*; return a line that says how it went.

    Raises:
        OSError, EOFError, ftplib.Error: it cannot be fetched, or is not what the server has.
    """
    digest, size = hashlib.sha256(), 0

    def take(data: bytes) -> None:
        nonlocal size
        digest.update(data)
        size += len(data)

    start = time.perf_counter()
    with _Client(mode) as client:
        client.connect(proxy.host, proxy.port)
        client.login()
        client.retrbinary(f"RETR {name}", take)
    seconds = time.perf_counter() - start
    if digest.digest() != hashlib.sha256(FILES[name]).digest():
        raise OSError(f"{size} bytes came, and they are not those of the file")
    return f"{size} bytes in {seconds:.3f} s, SHA-256 is right"


async def check(write: Callable[[str], object], time_limit: float = 60.0) -> int:
    """Fetch a file through a proxy in each of the four ways FTP knows; return the exit code.

    Args:
        write: takes one line of the report.
        time_limit: seconds for everything together.
    """
    failures = 0
    try:
        async with asyncio.timeout(time_limit):
            with DemoServer() as server:
                async with Firewall(demo_config(LOOPBACK, server.address)) as firewall:
                    proxy = firewall.listeners["ftp"].address
                    for mode in MODES:
                        failures += not await _report(write, proxy, mode)
    except TimeoutError:
        write(f"failed: not finished within {time_limit:g} seconds")
        return 1
    write("the proxy works" if not failures else f"failed: {failures} of {len(MODES)}")
    return 1 if failures else 0


async def _report(write: Callable[[str], object], proxy: Endpoint, mode: str) -> bool:
    try:
        result = await asyncio.to_thread(fetch, proxy, mode)
    except ftplib.all_errors as error:
        write(f"{mode}: failed: {str(error) or type(error).__name__}")
        return False
    write(f"{mode}: {result}")
    return True
