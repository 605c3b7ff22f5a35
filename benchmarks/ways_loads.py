"""Clients that ask a proxy for their server: ``python -m benchmarks.ways_loads KIND SERVER ...``.

SERVER is the port of an echo server, and a WAY is ``SPEECH:PORT``: what to say to the proxy at that
port. With ``tcp`` that is nothing, because the proxy has one server; the others are ``socks5`` and
``http``.

``hold SERVER WAY`` opens N more connections for each line N of standard input, and keeps all of
them open. ``latency SERVER TOTAL WAY...`` opens so many connections by each way and to the server
itself, in turns, one at a time; a connection takes from the first SYN to the first byte that has
come back. What else the machine does meanwhile hits all of them alike.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HOST = "127.0.0.1"
TIMEOUT = 30.0
MICROSECONDS = 1e6


class LoadError(Exception):
    """The other side did not do what it should."""


def receive(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise LoadError(f"closed after {data!r}")
        data += more
    return data


def ask_nobody(sock: socket.socket, server: int) -> None:
    """Say nothing: the proxy knows the server."""


def ask_by_socks5(sock: socket.socket, server: int) -> None:
    """Ask as clients do: offer to come without login, and wait for the answer to that."""
    sock.sendall(b"\5\1\0")
    if receive(sock, 2) != b"\5\0":
        raise LoadError("a login is wanted")
    request = b"\5\1\0\1" + socket.inet_aton(HOST) + server.to_bytes(2, "big")
    sock.sendall(request)
    if (reply := receive(sock, 10))[1]:
        raise LoadError(f"refused: {reply!r}")


def ask_by_http(sock: socket.socket, server: int) -> None:
    target = b"%b:%d" % (HOST.encode(), server)
    sock.sendall(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, target))
    reply = b""
    while not reply.endswith(b"\r\n\r\n"):  # nothing follows: the server waits to be asked
        more = sock.recv(4096)
        if not more:
            raise LoadError(f"closed after {reply!r}")
        reply += more
    if not reply.startswith(b"HTTP/1.1 200 "):
        raise LoadError(f"refused: {reply!r}")


SPEECHES: dict[str, Callable[[socket.socket, int], None]] = {
    "tcp": ask_nobody,
    "socks5": ask_by_socks5,
    "http": ask_by_http,
}


@dataclass(frozen=True)
class Way:
    """A way to a server."""

    speech: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Way:
        speech, _, port = text.partition(":")
        return cls(speech, int(port))

    def reach(self, server: int) -> socket.socket:
        """Connect, ask, and be answered by the server."""
        sock = socket.socket()
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((HOST, self.port))
        SPEECHES[self.speech](sock, server)
        sock.sendall(b"x")
        if receive(sock, 1) != b"x":
            raise LoadError("a wrong answer")
        return sock

    def seconds_to_reach(self, server: int) -> float:
        started = time.perf_counter()
        sock = self.reach(server)
        taken = time.perf_counter() - started
        sock.close()
        return taken


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def latency(server: int, total: int, ways: Sequence[Way]) -> dict[str, float]:
    """What each way adds to a connection: its quantiles, less those without a proxy."""
    all_ways = [Way("tcp", server), *ways]
    taken: list[list[float]] = [[] for _ in all_ways]
    for _ in range(total):
        for way, times in zip(all_ways, taken, strict=True):
            times.append(way.seconds_to_reach(server))
    directly, *by_proxy = taken
    return {
        f"{way.port} {name}": (quantile(times, share) - quantile(directly, share)) * MICROSECONDS
        for way, times in zip(ways, by_proxy, strict=True)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def hold(server: int, way: Way) -> None:
    kept: list[socket.socket] = []
    for line in sys.stdin:
        kept += [way.reach(server) for _ in range(int(line))]
        print(json.dumps({"open": len(kept)}), flush=True)


def main() -> None:
    kind, server, *words = sys.argv[1:]
    try:
        if kind == "hold":
            hold(int(server), Way.parse(words[0]))
        else:
            ways = [Way.parse(word) for word in words[1:]]
            print(json.dumps(latency(int(server), int(words[0]), ways)), flush=True)
    except (LoadError, OSError) as error:
        print(json.dumps({"error": str(error) or type(error).__name__}), flush=True)


if __name__ == "__main__":
    main()
