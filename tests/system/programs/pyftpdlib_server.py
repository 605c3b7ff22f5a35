"""Runs pyftpdlib's server in the foreground: `pyftpdlib_server.py HOST PORT USER PASSWORD ROOT`.

A program of its own, so that it can run in a network namespace.
"""

from __future__ import annotations

import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer


def main() -> None:
    """Serve until a signal ends the process."""
    host, port, username, password, root = sys.argv[1:]
    FTPHandler.authorizer = DummyAuthorizer()
    FTPHandler.authorizer.add_user(username, password, root, perm="elradfmwMT")
    FTPHandler.auth_failed_timeout = 0
    FTPServer((host, int(port)), FTPHandler).serve_forever(handle_exit=False)


if __name__ == "__main__":
    main()
