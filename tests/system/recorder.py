"""What a server really gets: stands before it and notes the commands on control connections."""

from __future__ import annotations

import contextlib
import selectors
import socket
import socketserver
import threading
from collections.abc import Iterator

import attrs

from .server_kind import FTPServer

BLOCK_SIZE = 1 << 16


class _Relay(socketserver.BaseRequestHandler):
    """Carries one control connection to the server and back."""

    server: _Server

    def handle(self) -> None:
        target = self.server.target
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection((target.host, target.port)) as upstream,
        ):
            self.carry(upstream)

    def carry(self, upstream: socket.socket) -> None:
        """Copy until both sides have ended their streams."""
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.request, selectors.EVENT_READ, upstream)
            selector.register(upstream, selectors.EVENT_READ, self.request)
            while selector.get_map():
                for key, _ in selector.select():
                    source, sink = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(BLOCK_SIZE)
                    if source is self.request:
                        *whole, line = (line + data).split(b"\r\n")
                        self.server.commands += [each.decode("latin-1") for each in whole]
                    if data:
                        sink.sendall(data)
                    else:
                        selector.unregister(source)
                        with contextlib.suppress(OSError):  # it has gone altogether
                            sink.shutdown(socket.SHUT_WR)


class _Server(socketserver.ThreadingTCPServer):
    """Accepts on a free port of the server's address."""

    daemon_threads = True

    def __init__(self, target: FTPServer) -> None:
        self.address_family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
        self.target = target
        self.commands: list[str] = []
        super().__init__((target.host, 0), _Relay)


@attrs.frozen
class Recorder:
    """Where to connect instead of the server, and the commands so far, oldest first."""

    server: FTPServer
    commands: list[str]


@contextlib.contextmanager
def recording(target: FTPServer) -> Iterator[Recorder]:
    """Record while the block runs; sessions must have ended before it does."""
    with _Server(target) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            port = server.server_address[1]
            yield Recorder(attrs.evolve(target, port=port), server.commands)
        finally:
            server.shutdown()
            thread.join()
