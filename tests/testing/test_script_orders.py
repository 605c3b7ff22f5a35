"""The scripted session: what happens at the same time, and in which order it is noticed."""

from __future__ import annotations

import contextlib

import pytest
from shouting import ShoutFilter

from fwproxy.testing import Script


def test_nothing_is_noticed_before_the_block_ends() -> None:
    with Script(ShoutFilter) as script:
        with script.at_once():
            script.client.send(b"one", b"two")
            assert script.server.take() == b""
        assert script.server.take() == b"ONETWO"


def test_a_block_that_fails_leaves_the_loop_to_the_test() -> None:
    with Script(ShoutFilter) as script:
        with contextlib.suppress(ZeroDivisionError), script.at_once():
            script.client.send(b"hello")
            raise ZeroDivisionError
        assert script.server.take() == b""
        script.settle()
        assert script.server.take() == b"HELLO"


@pytest.mark.parametrize("first", ["client", "server"])
def test_the_test_says_who_is_noticed_first(first: str) -> None:
    with Script() as script:
        connection, told = script.connection, []

        def arrange(descriptors: list[int]) -> list[int]:
            told.append(sorted(descriptors, reverse=first == "server"))
            return told[-1][:1]  # the client's is the lower number; the other one comes next time

        script.arrange = arrange
        with script.at_once():
            script.client.reset()
            script.server.reset()
        assert connection.close_reason == (
            f"broken {first} to {other(first)}: Connection reset by peer"
        )


def other(end: str) -> str:
    return "server" if end == "client" else "client"


def test_what_came_before_a_reset_can_be_read_and_no_more_be_sent() -> None:
    with Script() as script:
        with script.at_once():
            script.server.send(b"last words")
            script.server.reset()
        assert script.client.take() == b"last words"
        assert script.client.is_reset
