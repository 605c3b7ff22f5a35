"""Proves the harness without the proxy: each client talks directly to each server."""

from __future__ import annotations

import pytest

from .conftest import RecordCombination, StartServer
from .matrix import SAME_FAMILY, Combination, Workspace, combinations, exercise


@pytest.mark.parametrize("combination", list(combinations(SAME_FAMILY)), ids=str)
def test_client_and_server_understand_each_other(
    combination: Combination,
    start_server: StartServer,
    workspace: Workspace,
    record_combination: RecordCombination,
) -> None:
    record_combination("direct", combination, on_this_host=True)
    server = start_server(combination.server, combination.server_family)
    exercise(combination.build_client(), server.target, workspace, combination.operations())
