"""A DNS server that a test speaks for, by UDP and TCP on one port of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from rig import HOST, eventually, free_ports

from fwproxy import Endpoint

KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


def sockets() -> int:
    """Return how many sockets this process has open."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that listed the directory
            found += str(entry.readlink()).startswith("socket:")
    return found


class DnsServer:
    """Answers from `zone`, as `put` has filled it.

    Attributes:
        asked: name, kind of record and transport of every question.
        silent: questions that get no answer, as name and kind.
        rcodes: answers without records, by name.
        truncated: names whose answers do not fit into a datagram.
        strays: datagrams that are sent before an answer, made from the question.
        hangs_up: whether TCP connections are closed instead of answered.
    """

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.silent: set[tuple[str, str]] = set()
        self.rcodes: dict[str, dns.rcode.Rcode] = {}
        self.truncated: set[str] = set()
        self.strays: list[object] = []
        self.hangs_up = False
        self.address = Endpoint(HOST)

    def put(self, name: str, kind: str, ttl: int, *data: str) -> None:
        """Set the records of a name."""
        self.zone[name, kind] = ttl, data

    def questions(self, name: str | None = None) -> list[str]:
        """Return the kinds of what was asked for a name, or for any, sorted."""
        return sorted(kind for asked, kind, _ in self.asked if name in {None, asked})

    async def heard(self, name: str, count: int = 1) -> None:
        """Wait until a name has been asked for so often."""
        await eventually(lambda: len(self.questions(name)) >= count)

    def replies(self, wire: bytes, by: str) -> list[bytes]:
        """Return what is sent for a question."""
        request = dns.message.from_wire(wire)
        (question,) = request.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        name = name.rstrip(".")
        self.asked.append((name, kind, by))
        if (name, kind) in self.silent:
            return []
        strays = [stray(request) for stray in self.strays] if by == "udp" else []
        return [*strays, self._answer(request, name, kind, by)]

    def _answer(self, request: dns.message.Message, name: str, kind: str, by: str) -> bytes:
        reply = dns.message.make_response(request)
        if name in self.rcodes:
            reply.set_rcode(self.rcodes[name])
        elif by == "udp" and name in self.truncated:
            reply.flags |= dns.flags.TC
        elif not any(known == name for known, _ in self.zone):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        else:
            self._fill(reply, name, kind)
        return reply.to_wire()

    def _fill(self, reply: dns.message.Message, name: str, kind: str) -> None:
        for each in ("CNAME", kind):
            if (name, each) in self.zone:
                ttl, data = self.zone[name, each]
                reply.answer.append(dns.rrset.from_text_list(f"{name}.", ttl, "IN", each, data))
                if each == "CNAME":
                    self._fill(reply, data[0].rstrip("."), kind)
                    return


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for reply in self._server.replies(data, "udp"):
            self._transport.sendto(reply, addr)


class _Stream(asyncio.Protocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        size = int.from_bytes(self._data[:2], "big")
        if len(self._data) < 2 + size:
            return
        if self._server.hangs_up:
            self._transport.close()
            return
        for reply in self._server.replies(self._data[2:], "tcp"):
            self._transport.write(len(reply).to_bytes(2, "big") + reply)


def bound(host: str) -> tuple[socket.socket, socket.socket]:
    """Return a socket for TCP and one for UDP, at one port that is free for both."""
    for _ in range(100):
        port = free_ports(1).first
        made = [socket.socket(Endpoint(host).family, kind) for kind in KINDS]
        try:
            for sock in made:
                sock.settimeout(0)
                sock.bind((host, port))
        except OSError:  # somebody else was faster
            for sock in made:
                sock.close()
        else:
            return made[0], made[1]
    raise AssertionError("no free port")


@contextlib.asynccontextmanager
async def dns_server(host: str = HOST) -> AsyncIterator[DnsServer]:
    """Run a server; afterwards nobody may be waiting for it."""
    server, loop = DnsServer(), asyncio.get_running_loop()
    stream, datagrams = bound(host)
    server.address = Endpoint.from_sockaddr(stream.getsockname())
    listener = await loop.create_server(lambda: _Stream(server), sock=stream)
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(server), sock=datagrams
        )
        try:
            yield server
        finally:
            transport.close()
    finally:
        listener.close()
        await listener.wait_closed()
