"""Clients that connect and say nothing: `silent.py COUNT SOURCES HOST PORT [PORT...]`.

They come from so many loopback addresses, to each port in turn. It prints a line when all of them
have connected, and one when the proxy has closed the last: how many were closed in peace, and the
shortest and longest time that one has lasted.
"""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import sys
import time

PATIENCE = 60.0


def main(count: int, sources: int, host: str, ports: list[int]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    events = select.epoll()
    waiting: dict[int, tuple[socket.socket, float]] = {}
    for number in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: connecting takes one
        sock.bind((f"127.0.1.{1 + number % sources}", 0))
        sock.connect((host, ports[number % len(ports)]))
        waiting[sock.fileno()] = sock, time.monotonic()
        events.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
    print(json.dumps({"open": len(waiting)}), flush=True)
    lasted, in_peace = [], 0
    while waiting:
        ready = events.poll(PATIENCE)
        assert ready, f"{len(waiting)} connections are still open"
        now = time.monotonic()
        for fd, _ in ready:
            sock, since = waiting.pop(fd)
            lasted.append(now - since)
            with contextlib.suppress(ConnectionResetError):
                in_peace += sock.recv(1) == b""
            sock.close()
    report = {"closed": len(lasted), "in_peace": in_peace}
    print(json.dumps(report | {"shortest": min(lasted), "longest": max(lasted)}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], [int(port) for port in sys.argv[4:]])
