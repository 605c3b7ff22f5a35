"""The clients, each in a process of its own: ``python -m benchmarks.loads KIND WHERE KEY=VALUE``.

WHERE is a port of the loopback address, or HOST:PORT.

Every load checks what it gets back and prints one JSON object with its figures, or ``error``.
They are plain sockets and one epoll set, because on a small machine each microsecond spent here
is one the proxy cannot have.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from itertools import count

from benchmarks.backends import GREETING
from benchmarks.pattern import pattern, small_file

HOST = "127.0.0.1"
TIMEOUT = 30.0
Figures = dict[str, float]
Address = tuple[str, int]


class LoadError(Exception):
    """The other side did not do what it should."""


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=TIMEOUT)


def receive(sock: socket.socket, size: int, flags: int = 0) -> int:
    """Receive to the end of the stream, ``size`` bytes a call, and return how many there were."""
    buffer = bytearray(size)
    total = 0
    while got := sock.recv_into(buffer, len(buffer), flags):
        total += got
    return total


def bulk(address: Address, size: int, verify: int) -> Figures:
    """Download ``size`` bytes over one connection; with ``verify=1`` compare every byte."""
    with connect(address) as sock:
        sock.settimeout(None)
        started = time.perf_counter()
        sock.sendall(struct.pack("!Q", size))
        if verify:
            expected = pattern()[:size]
            data = bytearray()
            while chunk := sock.recv(1 << 20):
                data += chunk
            if data != expected:
                raise LoadError(f"{len(data)} bytes arrived, and not those that were sent")
        else:
            # MSG_TRUNC on a TCP socket drops the bytes in the kernel, tcp(7): the client is cheap.
            total = receive(sock, 1 << 20, socket.MSG_TRUNC)
            if total != size:
                raise LoadError(f"{total} bytes arrived of {size}")
        return {"seconds": time.perf_counter() - started}


def connections(address: Address, total: int, parallel: int) -> Figures:
    """Open, ask, be answered, close, ``total`` times, ``parallel`` at a time."""
    events = select.epoll()
    opened: dict[int, tuple[socket.socket, bytes]] = {}
    number = 0

    def start() -> None:
        nonlocal number
        request = b"%016d" % number
        number += 1
        # On the loopback interface the handshake is over before connect() could ever sleep.
        sock = socket.socket()
        sock.connect(address)
        sock.send(request)
        opened[sock.fileno()] = sock, request
        events.register(sock, select.EPOLLIN)

    started = time.perf_counter()
    for _ in range(min(parallel, total)):
        start()
    while opened:
        ready = events.poll(TIMEOUT)
        if not ready:
            raise LoadError(f"no answer within {TIMEOUT:.0f} s after {number} connections")
        for fd, _ in ready:
            sock, request = opened.pop(fd)
            if sock.recv(64) != request:
                raise LoadError(f"a wrong answer after {number} connections")
            sock.close()
            if number < total:
                start()
    return {"seconds": time.perf_counter() - started}


def keepalive(address: Address, total: int, parallel: int, size: int) -> Figures:
    """``total`` requests and answers of ``size`` bytes over ``parallel`` lasting connections."""
    read, write = os.read, os.write
    socks = [connect(address) for _ in range(parallel)]
    requests: dict[int, bytes] = {}
    events = select.epoll()
    for sock in socks:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests[sock.fileno()] = (b"%08d" % sock.fileno()).ljust(size, b".")
        events.register(sock, select.EPOLLIN)
    started = time.perf_counter()
    for fd, request in requests.items():
        write(fd, request)
    sent, done = len(requests), 0
    while done < total:
        ready = events.poll(TIMEOUT)
        if not ready:
            raise LoadError(f"no answer within {TIMEOUT:.0f} s after {done} requests")
        for fd, _ in ready:
            request = requests[fd]
            if read(fd, size) != request:
                raise LoadError(f"a wrong answer after {done} requests")
            done += 1
            if sent < total:
                sent += 1
                write(fd, request)
    seconds = time.perf_counter() - started
    for sock in socks:
        sock.close()
    return {"seconds": seconds}


def idle(address: Address, greeted: int) -> Figures:
    """For each line N of standard input open N more connections, and keep all of them open.

    A connection counts once it has carried a byte each way, or, with ``greeted=1``, once the
    server's greeting has arrived.
    """
    kept: list[socket.socket] = []
    for line in sys.stdin:
        for _ in range(int(line)):
            sock = connect(address)
            kept.append(sock)
            if greeted:
                if (greeting := sock.recv(256)) != GREETING:
                    raise LoadError(f"connection {len(kept)} was greeted with {greeting!r}")
            else:
                sock.sendall(b"x")
                if sock.recv(16) != b"x":
                    raise LoadError(f"connection {len(kept)} was not answered")
        print(json.dumps({"open": len(kept)}), flush=True)
    return {"open": float(len(kept))}


class FtpClient:
    """Just enough of an FTP client: a blocking socket, replies of one or several lines."""

    def __init__(self, address: Address) -> None:
        self.host = address[0]
        self.control = connect(address)
        self.control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.expect(b"220")

    def expect(self, code: bytes) -> bytes:
        """The last line of the next reply, which must have this code."""
        while True:
            line, newline, rest = self.buffer.partition(b"\r\n")
            if not newline:
                data = self.control.recv(4096)
                if not data:
                    raise LoadError(f"closed instead of a {code.decode()} reply")
                self.buffer += data
                continue
            self.buffer = rest
            if line[3:4] == b" " and line[:3].isdigit():
                if line[:3] != code:
                    raise LoadError(f"{line!r} instead of a {code.decode()} reply")
                return line

    def command(self, line: bytes, code: bytes) -> bytes:
        self.control.sendall(line + b"\r\n")
        return self.expect(code)

    def login(self) -> None:
        self.command(b"USER anonymous", b"331")
        self.command(b"PASS bench@example.org", b"230")

    def retrieve(self, name: bytes) -> socket.socket:
        """PASV and RETR; the data connection, after the 150."""
        reply = self.command(b"PASV", b"227")
        found = re.search(rb"\((\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\)", reply)
        if found is None:
            raise LoadError(f"no address in {reply!r}")
        *octets, high, low = (int(field) for field in found.groups())
        host = ".".join(map(str, octets))
        if host != self.host:
            raise LoadError(f"{reply!r} leads away from {self.host}")
        data = connect((host, high * 256 + low))
        self.command(b"RETR " + name, b"150")
        return data

    def retrieve_actively(self, name: bytes) -> socket.socket:
        """PORT and RETR; the data connection that the server has made, after the 150."""
        with socket.create_server((self.control.getsockname()[0], 0)) as listener:
            listener.settimeout(TIMEOUT)
            host, port = listener.getsockname()
            numbers = ",".join([*host.split("."), *map(str, divmod(port, 256))])
            self.command(b"PORT " + numbers.encode(), b"200")
            self.control.sendall(b"RETR " + name + b"\r\n")
            data = listener.accept()[0]
        self.expect(b"150")
        return data

    def quit(self) -> None:
        self.command(b"QUIT", b"221")
        self.control.close()


def ftp_session(address: Address, expected: bytes) -> None:
    client = FtpClient(address)
    client.login()
    content = b""
    with client.retrieve(b"small.bin") as data:
        while chunk := data.recv(4096):
            content += chunk
    if content != expected:
        raise LoadError(f"{len(content)} bytes arrived, and not those of the file")
    client.expect(b"226")
    client.quit()


def ftp_sessions(address: Address, total: int, parallel: int) -> Figures:
    """Login, PASV, RETR of 1 KiB, QUIT, ``total`` times, ``parallel`` at a time."""
    expected = small_file()
    numbers = count()
    errors: list[str] = []

    def work() -> None:
        try:
            while next(numbers) < total and not errors:
                ftp_session(address, expected)
        except (LoadError, OSError) as error:
            errors.append(str(error) or type(error).__name__)

    workers = [threading.Thread(target=work) for _ in range(parallel)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise LoadError(errors[0])
    return {"seconds": time.perf_counter() - started}


def ftp_bulk(address: Address, size: int, active: int = 0) -> Figures:
    """Fetch one large file, 64 KiB at a time as clients do; the time from PASV or PORT on."""
    client = FtpClient(address)
    client.login()
    client.command(b"TYPE I", b"200")
    started = time.perf_counter()
    retrieve = client.retrieve_actively if active else client.retrieve
    with retrieve(b"large.bin") as data:
        data.settimeout(None)
        total = receive(data, 64 << 10)
    seconds = time.perf_counter() - started
    if total != size:
        raise LoadError(f"{total} bytes arrived of {size}")
    client.expect(b"226")
    client.quit()
    return {"seconds": seconds}


LOADS: dict[str, Callable[..., Figures]] = {
    "bulk": bulk,
    "connections": connections,
    "keepalive": keepalive,
    "idle": idle,
    "ftp-sessions": ftp_sessions,
    "ftp-bulk": ftp_bulk,
}


def main() -> None:
    kind, where, *settings = sys.argv[1:]
    host, _, port = where.rpartition(":")
    keywords = {key: int(value) for key, _, value in (item.partition("=") for item in settings)}
    try:
        answer: dict[str, float] | dict[str, str] = LOADS[kind](
            (host or HOST, int(port)), **keywords
        )
    except (LoadError, OSError) as error:
        answer = {"error": str(error) or type(error).__name__}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
