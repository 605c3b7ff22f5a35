"""Drives handshakes as their listener does, without a socket."""

from __future__ import annotations

from collections.abc import Sequence

from fwproxy.handshake.base import Handshake, Login, Refusal, Request, Say, Step


def drive(
    handshake: Handshake, pieces: Sequence[bytes], *, passwords: dict[str, bytes] | None = None
) -> tuple[list[Step], bytes]:
    """Feed pieces; return the steps, without how many bytes each used, and what is left over."""
    waiting = b""
    steps: list[Step] = []
    for piece in pieces:
        waiting += piece
        while waiting and not (steps and isinstance(steps[-1], Request | Refusal)):
            shown = waiting[: handshake.max_size]
            step = handshake.step(shown)
            if step is None and len(shown) == handshake.max_size:
                step = handshake.too_long()
            if step is None:
                break
            steps.append(step)
            waiting = waiting[step.used :]
            if isinstance(step, Login):
                answer = handshake.logged_in((passwords or {}).get(step.user) == step.password)
                steps += [] if answer is None else [answer]
                waiting = waiting if answer is None else waiting[answer.used :]
    return steps, waiting


def in_two(data: bytes) -> list[list[bytes]]:
    """Every cut of the data into two pieces, and into single bytes."""
    cuts = [[data[:at], data[at:]] for at in range(len(data) + 1)]
    return [*cuts, [data[at : at + 1] for at in range(len(data))]]


def essence(steps: Sequence[Step]) -> list[object]:
    """What a client, the proxy and the log get from steps."""
    found: list[object] = []
    for step in steps:
        if isinstance(step, Say):
            found.append(step.data)
        elif isinstance(step, Login):
            found.append((step.user, step.password))
        elif isinstance(step, Request):
            found.append((step.command, step.destination))
        else:
            found.append((step.data, step.reason))
    return found
