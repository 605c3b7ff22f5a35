"""What the tests of the FTP filter get besides: the log of each test, from debug on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    """Keep every line that is logged."""
    before = structlog.get_config()
    structlog.reset_defaults()
    try:
        with structlog.testing.capture_logs() as lines:
            yield lines
    finally:
        structlog.configure(**before)
