"""A server that tells everyone whom it sees, on one port with TCP and UDP; and a client of it.

    who.py serve HOST PORT
    who.py ask tcp|udp HOST PORT [COUNT]

The client prints what it was told, and whom it believes to talk to.
"""

from __future__ import annotations

import socket
import sys
import threading

PATIENCE = 10.0


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def serve_tcp(listener: socket.socket) -> None:
    while True:
        connection, peer = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            said = connection.recv(1000)
            connection.sendall(f"{peer[0]} {peer[1]} {said.decode()}".encode())


def serve_udp(sock: socket.socket) -> None:
    while True:
        said, peer = sock.recvfrom(1000)
        sock.sendto(f"{peer[0]} {peer[1]} {said.decode()}".encode(), peer)


def serve(host: str, port: int) -> None:
    listener = socket.create_server((host, port), family=family_of(host))
    datagrams = socket.socket(family_of(host), socket.SOCK_DGRAM)
    datagrams.bind((host, port))
    threading.Thread(target=serve_udp, args=(datagrams,), daemon=True).start()
    print("started", flush=True)
    serve_tcp(listener)


def ask(transport: str, host: str, port: int, count: int) -> None:
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family_of(host), kind) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((host, port))
        own = sock.getsockname()
        for number in range(count):
            sock.send(b"%d" % number)
            print(sock.recv(1000).decode(), own[1], sock.getpeername()[0], flush=True)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "serve":
        serve(rest[0], int(rest[1]))
    else:
        ask(rest[0], rest[1], int(rest[2]), int(rest[3]) if len(rest) > 3 else 1)
