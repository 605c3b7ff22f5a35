"""A bounded reader of frames that begin with their length, as Kafka and many others send them."""

from __future__ import annotations

import struct

from fwproxy.errors import FwproxyError


class FrameTooLongError(FwproxyError):
    """A frame announces more than `max_frame_length` bytes, or fewer than none."""


class FrameReader:
    """Cuts a byte stream into frames, holding at most one incomplete frame.

    The frames do not depend on how the input was cut. After a `FrameTooLongError`, which comes out
    as a value in the place of the frame, nothing more is read: the frames' limits are lost.

    Args:
        prefix_format: the length's `struct` format, `">I"` for four bytes in network order; the
            length does not count the prefix itself.
        max_frame_length: bytes in a frame, its prefix not counted.
    """

    __slots__ = ("_broken", "_max", "_pending", "_prefix")

    def __init__(self, prefix_format: str, max_frame_length: int) -> None:
        self._prefix = struct.Struct(prefix_format)
        self._max = max_frame_length
        self._pending = bytearray()
        self._broken = False

    @property
    def pending(self) -> int:
        """How many bytes of an incomplete frame are held, its prefix included."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[bytes | FrameTooLongError]:
        """Take bytes, return the frames they complete, without their prefixes."""
        frames: list[bytes | FrameTooLongError] = []
        if self._broken:
            return frames
        self._pending += data
        start, held, size = 0, len(self._pending), self._prefix.size
        while held - start >= size:
            (length,) = self._prefix.unpack_from(self._pending, start)
            if not 0 <= length <= self._max:
                frames.append(FrameTooLongError(f"{length} bytes, max_frame_length is {self._max}"))
                self._broken, start = True, held
                break
            end = start + size + length
            if end > held:
                break
            frames.append(bytes(self._pending[start + size : end]))
            start = end
        del self._pending[:start]
        return frames
