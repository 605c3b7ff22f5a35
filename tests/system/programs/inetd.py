"""Runs a program for every connection, with the connection as its standard input and output.

`inetd.py HOST PORT PROGRAM [ARGUMENT ...]`, as the super-server inetd does it.
"""

from __future__ import annotations

import socket
import subprocess
import sys


def main() -> None:
    """Accept until a signal ends the process."""
    host, port, *command = sys.argv[1:]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    running: list[subprocess.Popen[bytes]] = []
    with socket.create_server((host, int(port)), family=family, backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                running.append(
                    subprocess.Popen(command, stdin=connection.fileno(), stdout=connection.fileno())
                )
            running = [process for process in running if process.poll() is None]


if __name__ == "__main__":
    main()
