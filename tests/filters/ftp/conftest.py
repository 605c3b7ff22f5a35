"""What the tests of the FTP filter get besides: the log of each test, from debug on, and users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from scripted import GATEWAY_SECRETS

from fwproxy import users
from fwproxy.users import PasswordHash


@pytest.fixture(scope="session")
def gateway_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a gateway's users."""
    path = tmp_path_factory.mktemp("gateway") / "users"
    secrets = {user: word.encode() for user, word in GATEWAY_SECRETS.items()}
    users.write(path, {u: PasswordHash.make(word, cost_log2=4) for u, word in secrets.items()})
    return path


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
