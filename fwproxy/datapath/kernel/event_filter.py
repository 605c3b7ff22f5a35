"""Which events of conntrack reach the proxy: a program in classic BPF that the kernel runs."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator

from fwproxy.datapath.kernel import conntrack

_SO_ATTACH_FILTER = 26
_KIND, _BODY = 4, 20
"""Where in a message its type is, and what follows its headers."""

# linux/filter.h and linux/bpf_common.h. A and X are the registers.
_LOAD, _LOAD_X, _COPY_TO_X = 0x00, 0x01, 0x07
_WORD_AT, _HALF_AT = 0x20, 0x28
_WORD_AT_X, _BYTE_AT_X = 0x40, 0x50
_JUMP_IF_EQUAL, _RETURN = 0x15, 0x06
_EXTENSIONS = 0xFFFFF000
_FIND = _WORD_AT, _EXTENSIONS + 12
"""SKF_AD_NLATTR: A becomes the offset of the first attribute X from offset A on, or 0."""
_FIND_INSIDE = _WORD_AT, _EXTENSIONS + 16
"""SKF_AD_NLATTR_NEST: the same for those in the attribute at offset A."""
_CONTENT = 4

Instruction = tuple[int, int, str, str]
"""Code, operand, and where to go on if a comparison holds or fails: to the next one if empty."""


def instructions(mark: int) -> Iterator[Instruction]:
    """Yield what decides about one event.

    It takes those of flows with our mark, and of TCP's states only those that say something new.
    What tells that a flow is over is never left out.

    Args:
        mark: the conntrack mark of our flows.
    """

    def step(code: int, operand: int, then: str = "", otherwise: str = "") -> Instruction:
        return code, operand, then, otherwise

    yield step(_LOAD, _BODY)
    yield step(_LOAD_X, conntrack.MARK)
    yield step(*_FIND)
    yield step(_JUMP_IF_EQUAL, 0, "refuse")
    yield step(_COPY_TO_X, 0)
    yield step(_WORD_AT_X, _CONTENT)
    yield step(_JUMP_IF_EQUAL, mark, "", "refuse")
    yield step(_HALF_AT, _KIND)
    yield step(_JUMP_IF_EQUAL, socket.htons(conntrack.DELETE), "take")
    yield step(_LOAD, _BODY)
    yield step(_LOAD_X, conntrack.PROTOINFO)
    yield step(*_FIND)
    yield step(_JUMP_IF_EQUAL, 0, "take")
    for inner in (conntrack.TCP_INFO, conntrack.TCP_STATE):
        yield step(_LOAD_X, inner)
        yield step(*_FIND_INSIDE)
        yield step(_JUMP_IF_EQUAL, 0, "take")
    yield step(_COPY_TO_X, 0)
    yield step(_BYTE_AT_X, _CONTENT)
    for state in conntrack.UNREMARKABLE:
        yield step(_JUMP_IF_EQUAL, state, "refuse")


def packed(mark: int) -> bytes:
    """Return the program as the kernel takes it."""
    steps = list(instructions(mark))
    ends = {"take": len(steps), "refuse": len(steps) + 1}
    code = [
        (code, ends.get(then, number + 1) - number - 1, ends.get(other, number + 1) - number - 1, k)
        for number, (code, k, then, other) in enumerate(steps)
    ]
    code += [(_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def attach(sock: socket.socket, mark: int) -> None:
    """Let a socket hear only of what is worth it.

    Raises:
        OSError: the kernel does not take the program.
    """
    attach_program(sock, packed(mark))


def attach_program(sock: socket.socket, code: bytes) -> None:
    """Let a socket hear only of what a program takes.

    Raises:
        OSError: the kernel does not take the program.
    """
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
