"""Runs aioftp's server in the foreground: `aioftp_server.py HOST PORT USER PASSWORD ROOT`.

A program of its own, so that it can run in a network namespace.
"""

from __future__ import annotations

import asyncio
import sys

import aioftp

BLOCK_SIZE = 1 << 18


def main() -> None:
    """Serve until a signal ends the process."""
    host, port, username, password, root = sys.argv[1:]
    server = aioftp.Server(
        [aioftp.User(username, password, base_path=root)],
        path_io_factory=aioftp.PathIO,
        block_size=BLOCK_SIZE,
    )
    asyncio.run(server.run(host, int(port)))


if __name__ == "__main__":
    main()
