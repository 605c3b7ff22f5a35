"""The two directions of a connection."""

from __future__ import annotations

import enum


class Way(enum.IntEnum):
    """Which way bytes and datagrams go."""

    UP = 0
    """From the client to the server."""
    DOWN = 1
