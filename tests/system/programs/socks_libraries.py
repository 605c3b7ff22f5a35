"""Clients that are Python libraries: each does one thing through a proxy, and prints the answer.

    socks_libraries.py WAY PROXY_URL HOST PORT

WAY is `pysocks`, `pysocks-udp`, `pysocks-relay`, `python-socks` or `aiohttp-socks`. The last one
fetches a file; `pysocks-relay` says at which UDP port of this host it stands in for the server, and
does so until it is ended.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from urllib.parse import urlsplit

import python_socks.async_.asyncio
import socks

PATIENCE = 10.0
KINDS = {"socks4": socks.SOCKS4, "socks5": socks.SOCKS5, "http": socks.HTTP}


def pysocks(url: str, host: str, port: int, kind: socket.SocketKind) -> str:
    parts = urlsplit(url)
    with socks.socksocket(socket.AF_INET, kind) as sock:
        sock.set_proxy(
            KINDS[parts.scheme], parts.hostname, parts.port,
            rdns=True, username=parts.username, password=parts.password,
        )  # fmt: skip
        sock.settimeout(PATIENCE)
        if kind is socket.SOCK_STREAM:
            sock.connect((host, port))
            sock.sendall(b"hello")
        else:
            sock.sendto(b"hello", (host, port))
        return sock.recv(1000).decode()


def pysocks_relay(url: str, host: str, port: int) -> None:
    """Let programs that know nothing of SOCKS send datagrams by it, one client at a time."""
    parts = urlsplit(url)
    with (
        socket.socket(type=socket.SOCK_DGRAM) as near,
        socks.socksocket(type=socket.SOCK_DGRAM) as far,
    ):
        near.bind(("127.0.0.1", 0))
        far.set_proxy(
            KINDS[parts.scheme], parts.hostname, parts.port,
            rdns=True, username=parts.username, password=parts.password,
        )  # fmt: skip
        print(near.getsockname()[1], flush=True)
        while True:
            said, client = near.recvfrom(65535)
            far.sendto(said, (host, port))
            near.sendto(far.recv(65535), client)


async def python_socks_(url: str, host: str, port: int) -> str:
    proxy = python_socks.async_.asyncio.Proxy.from_url(url, rdns=True)
    sock = await proxy.connect(host, port, timeout=PATIENCE)
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"hello")
    answer = (await reader.read()).decode()
    writer.close()
    return answer


async def aiohttp_socks_(url: str, host: str, port: int) -> str:
    import aiohttp  # noqa: PLC0415 - slow, and only this way needs it
    import aiohttp_socks  # noqa: PLC0415

    connector = aiohttp_socks.ProxyConnector.from_url(url, rdns=True)
    bracketed = f"[{host}]" if ":" in host else host
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://{bracketed}:{port}/one.bin") as response,
    ):
        return (await response.read()).hex()


def main(way: str, url: str, host: str, port: str) -> str:
    if way == "python-socks":
        return asyncio.run(python_socks_(url, host, int(port)))
    if way == "aiohttp-socks":
        return asyncio.run(aiohttp_socks_(url, host, int(port)))
    kind = socket.SOCK_DGRAM if way == "pysocks-udp" else socket.SOCK_STREAM
    return pysocks(url, host, int(port), kind)


if __name__ == "__main__":
    if sys.argv[1] == "pysocks-relay":
        pysocks_relay(*sys.argv[2:4], int(sys.argv[4]))
    else:
        print(main(*sys.argv[1:]))
