"""One operation of aioftp's client: `aioftp_client.py REQUEST`, with REQUEST as JSON.

Keys: host, port, username, password, commands (a list of "epsv" and "pasv"), operation, arguments.
"""

# ruff: noqa: ASYNC230, ASYNC240 - it does one thing at a time, so that blocking harms nothing

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import aioftp

TIMEOUT = 10.0
BLOCK_SIZE = 1 << 18


async def listing(ftp: aioftp.Client, directory: str) -> None:
    """Print the names in a directory."""
    for path, _ in await ftp.list(directory):
        print(path.name)


async def _receive(ftp: aioftp.Client, remote: str, local: str, offset: int) -> None:
    with Path(local).open("ab" if offset else "wb") as file:
        async with ftp.download_stream(remote, offset=offset) as stream:
            async for block in stream.iter_by_block(BLOCK_SIZE):
                file.write(block)


async def fetch(ftp: aioftp.Client, remote: str, local: str) -> None:
    """Copy a file from the server."""
    await _receive(ftp, remote, local, 0)


async def resume(ftp: aioftp.Client, remote: str, local: str) -> None:
    """Fetch what the local file lacks."""
    await _receive(ftp, remote, local, Path(local).stat().st_size)


async def store(ftp: aioftp.Client, local: str, remote: str) -> None:
    """Copy a file to the server."""
    with Path(local).open("rb") as file:
        async with ftp.upload_stream(remote) as stream:
            while block := file.read(BLOCK_SIZE):
                await stream.write(block)


async def fetch_many(ftp: aioftp.Client, directory: str, names: list[str], local: str) -> None:
    """Fetch files of one directory in one session."""
    await ftp.change_directory(directory)
    for name in names:
        await fetch(ftp, name, f"{local}/{name}")


OPERATIONS = {f.__name__: f for f in (listing, fetch, resume, store, fetch_many)}


async def main() -> None:
    """Log in, do what is asked, log out."""
    request = json.loads(sys.argv[1])
    async with aioftp.Client.context(
        *(request[key] for key in ("host", "port", "username", "password")),
        socket_timeout=TIMEOUT,
        passive_commands=tuple(request["commands"]),
    ) as ftp:
        await OPERATIONS[request["operation"]](ftp, *request["arguments"])


if __name__ == "__main__":
    asyncio.run(main())
