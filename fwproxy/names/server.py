"""One DNS server, and one question to it (RFC 1035 section 4.2)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import dns.exception
import dns.message
import dns.nameserver

DATAGRAM_SIZE = 65_535
"""Bytes of the longest datagram; those that a server sends are shorter."""

MAX_STRAYS = 16
"""Datagrams that are no answer to the question, after which the server is no good."""


class Server(dns.nameserver.AddressAndPortNameserver):
    """A server that is asked from a socket which is connected to it.

    So the kernel lets nobody else's answers through, and says at once when nobody listens there.
    Each question has a socket of its own, with a port of its own (RFC 5452 section 4.5).
    """

    def kind(self) -> str:
        """Say what messages call it."""
        return "DNS server"

    async def async_query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,  # noqa: ASYNC109 - as the class above has it
        source: str | None,  # noqa: ARG002 - the same for all that follow
        source_port: int,  # noqa: ARG002
        max_size: bool,  # noqa: FBT001
        backend: Any,  # noqa: ARG002
        one_rr_per_rrset: bool = False,  # noqa: ARG002, FBT001, FBT002
        ignore_trailing: bool = False,  # noqa: ARG002, FBT001, FBT002
    ) -> dns.message.Message:
        """Ask, by TCP where *max_size* says so.

        Raises:
            dns.exception.Timeout: there was no answer in time.
            dns.exception.DNSException: the answer is cut off, or is none.
            OSError: the server cannot be reached.
            EOFError: it has hung up.
        """
        try:
            async with asyncio.timeout(timeout):
                return await (self._by_stream if max_size else self._by_datagram)(request)
        except TimeoutError:
            raise dns.exception.Timeout(timeout=timeout) from None

    async def _by_datagram(self, request: dns.message.Message) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        with self._connected(socket.SOCK_DGRAM) as sock:
            await loop.sock_sendall(sock, request.to_wire())
            for _ in range(MAX_STRAYS):
                wire = await loop.sock_recv(sock, DATAGRAM_SIZE)
                try:
                    reply = dns.message.from_wire(wire, raise_on_truncation=True)
                except dns.message.Truncated as error:
                    if request.is_response(error.message()):
                        raise
                except Exception:  # noqa: BLE001, S112 - whatever else is wrong: it is no answer
                    continue
                else:
                    if request.is_response(reply):
                        return reply
        raise dns.exception.FormError("nothing but answers to other questions")

    async def _by_stream(self, request: dns.message.Message) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        with self._connected(socket.SOCK_STREAM) as sock:
            await loop.sock_sendall(sock, request.to_wire(prepend_length=True))
            size = int.from_bytes(await _exactly(sock, 2), "big")
            reply = dns.message.from_wire(await _exactly(sock, size))
        if not request.is_response(reply):
            raise dns.exception.FormError("an answer to another question")
        return reply

    def _connected(self, kind: socket.SocketKind) -> socket.socket:
        """Open a socket that is connected, or will be when it can be written to."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(BlockingIOError):
                sock.connect((self.address, self.port))
        except BaseException:
            sock.close()
            raise
        return sock


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size:
        more = await loop.sock_recv(sock, size - len(data))
        if not more:
            raise EOFError("the server has hung up")
        data += more
    return data
