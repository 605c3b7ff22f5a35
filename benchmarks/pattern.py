"""The bytes that bulk servers send and clients expect."""

from __future__ import annotations

import random

PATTERN_SIZE = 32 << 20
SMALL_FILE_SIZE = 1024


def pattern() -> bytes:
    """Larger than the CPU's caches, so that a copy costs what a copy costs."""
    return random.Random(2121).randbytes(PATTERN_SIZE)


def small_file() -> bytes:
    """The 1 KiB that an FTP session fetches."""
    return random.Random(21).randbytes(SMALL_FILE_SIZE)
