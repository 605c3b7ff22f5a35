"""Asks for a connection at each of many ports, in whosever name: SOURCE PORT TARGET FIRST COUNT.

Answers go to the source, which need not be here; nobody completes the handshake. The last port to
be asked is 21.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys

SYN = 0x02
BARRIER = 21


def checksum(data: bytes) -> int:
    """The sum of RFC 1071."""
    words = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return ~words & 0xFFFF


def segment(source: bytes, source_port: int, target: bytes, port: int) -> bytes:
    """A TCP header (RFC 9293, section 3.1) with its checksum."""
    offset_and_flags = 5 << 12 | SYN
    fields = [source_port, port, 1, 0, offset_and_flags, 64240]
    pseudo = source + target + struct.pack("!II", 20, socket.IPPROTO_TCP)
    found = checksum(pseudo + struct.pack("!HHIIHHHH", *fields, 0, 0))
    return struct.pack("!HHIIHHHH", *fields, found, 0)


def packet(source: bytes, target: bytes, content: bytes) -> bytes:
    """The segment in an IP packet."""
    if len(source) == 4:
        # The kernel fills in the length and the checksum, raw(7).
        head = (0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0)
        return struct.pack("!BBHHHBBH4s4s", *head, source, target) + content
    head = (6 << 28, len(content), socket.IPPROTO_TCP, 64)
    return struct.pack("!IHBB16s16s", *head, source, target) + content


def main() -> None:
    """Send them."""
    source, source_port, target, first, count = sys.argv[1:]
    ends = [ipaddress.ip_address(host).packed for host in (source, target)]
    family = socket.AF_INET if len(ends[0]) == 4 else socket.AF_INET6
    start = int(first)
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for port in [*range(start, start + int(count)), BARRIER]:
            content = segment(ends[0], int(source_port), ends[1], port)
            sock.sendto(packet(*ends, content), (target, 0))


if __name__ == "__main__":
    main()
