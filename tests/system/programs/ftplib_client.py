"""One operation of Python's ftplib: `ftplib_client.py REQUEST`, with REQUEST as JSON.

Keys: host, port, username, password, passive (a bool), operation, arguments.
"""

from __future__ import annotations

import ftplib
import json
import sys
from pathlib import Path

TIMEOUT = 10.0
BLOCK_SIZE = 1 << 18


class TrustingFTP(ftplib.FTP):
    """Connects to the address in a PASV reply, so that a wrong one shows."""

    trust_server_pasv_ipv4_address = True


def listing(ftp: ftplib.FTP, directory: str) -> None:
    """Print the names in a directory."""
    ftp.retrlines(f"LIST {directory}", lambda line: print(line.split()[-1]))


def fetch(ftp: ftplib.FTP, remote: str, local: str) -> None:
    """Copy a file from the server."""
    with Path(local).open("wb") as file:
        ftp.retrbinary(f"RETR {remote}", file.write, BLOCK_SIZE)


def resume(ftp: ftplib.FTP, remote: str, local: str) -> None:
    """Fetch what the local file lacks."""
    with Path(local).open("ab") as file:
        ftp.retrbinary(f"RETR {remote}", file.write, BLOCK_SIZE, rest=file.tell())


def store(ftp: ftplib.FTP, local: str, remote: str) -> None:
    """Copy a file to the server."""
    with Path(local).open("rb") as file:
        ftp.storbinary(f"STOR {remote}", file, BLOCK_SIZE)


def fetch_many(ftp: ftplib.FTP, directory: str, names: list[str], local: str) -> None:
    """Fetch files of one directory in one session."""
    ftp.cwd(directory)
    for name in names:
        fetch(ftp, name, f"{local}/{name}")


OPERATIONS = {f.__name__: f for f in (listing, fetch, resume, store, fetch_many)}


def main() -> None:
    """Log in, do what is asked, log out."""
    request = json.loads(sys.argv[1])
    with TrustingFTP(timeout=TIMEOUT) as ftp:
        ftp.connect(request["host"], request["port"])
        ftp.login(request["username"], request["password"])
        ftp.set_pasv(request["passive"])
        OPERATIONS[request["operation"]](ftp, *request["arguments"])


if __name__ == "__main__":
    main()
