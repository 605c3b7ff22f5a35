"""The servers behind the proxies, each in a process of its own: ``python -m benchmarks.backends``.

They bind a free port of the loopback address, or of the one that is named, print it, and serve
until standard input closes.

* ``echo`` sends back what it gets.
* ``bulk`` reads a length (8 bytes, big-endian) and sends that much of a fixed pattern from its
  memory. (Not with sendfile: its single pages fill a pipe soon, and a proxy that splices then
  looks twice as costly. What vsftpd sends is the measurement of that.)
* ``ftp-silent`` greets like an FTP server and then never says another word.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from benchmarks.pattern import pattern

GREETING = b"220 Silent server ready.\r\n"
STDIN = 0


def serve_events(listener: socket.socket, greeting: bytes) -> None:
    """Greet every client, then echo (no greeting) or ignore (a greeting) what it sends."""
    read, write, close = os.read, os.write, os.close
    listener.settimeout(0)
    events = select.epoll()
    events.register(STDIN, select.EPOLLIN)
    events.register(listener, select.EPOLLIN)
    accepting = listener.fileno()
    while True:
        for fd, _ in events.poll():
            if fd == accepting:
                with suppress(BlockingIOError):
                    while True:
                        client = listener.accept()[0].detach()
                        if greeting:
                            write(client, greeting)
                        events.register(client, select.EPOLLIN)
            elif fd == STDIN:
                return
            else:
                try:
                    data = read(fd, 65536)
                    if data:
                        if not greeting:
                            write(fd, data)
                        continue
                except OSError:
                    pass
                close(fd)


def serve_echo(listener: socket.socket) -> None:
    serve_events(listener, b"")


def serve_silent_ftp(listener: socket.socket) -> None:
    serve_events(listener, GREETING)


def serve_bulk(listener: socket.socket) -> None:
    """A thread for each connection: there is one at a time, plus probes that only connect."""
    data = memoryview(pattern())

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=send, args=(client,), daemon=True).start()

    def send(client: socket.socket) -> None:
        with client, suppress(OSError):
            request = client.recv(8, socket.MSG_WAITALL)
            if len(request) < 8:
                return
            (left,) = struct.unpack("!Q", request)
            offset = 0
            while left:
                sent = client.send(data[offset : offset + min(left, 1 << 20)])
                left -= sent
                offset = (offset + sent) % len(data)

    threading.Thread(target=accept, daemon=True).start()
    os.read(STDIN, 1)


SERVERS: dict[str, Callable[[socket.socket], None]] = {
    "echo": serve_echo,
    "bulk": serve_bulk,
    "ftp-silent": serve_silent_ftp,
}


def main() -> None:
    kind, host = (*sys.argv[1:], "127.0.0.1")[:2]
    serve = SERVERS[kind]
    with socket.create_server((host, 0), backlog=4096) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        serve(listener)


if __name__ == "__main__":
    main()
