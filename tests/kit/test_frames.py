import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwproxy.kit.frames import FrameReader, FrameTooLongError

FORMATS = ["B", ">H", "<H", ">I", ">i", ">Q"]


@given(st.sampled_from(FORMATS), st.lists(st.binary(max_size=200)), st.lists(st.integers(0, 2000)))
def test_frames_come_out_of_every_split(prefix, frames, cuts):
    data = b"".join(struct.pack(prefix, len(frame)) + frame for frame in frames)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = FrameReader(prefix, 200)
    items = []
    for start, end in itertools.pairwise(bounds):
        items += reader.feed(data[start:end])
    assert items == frames
    assert reader.pending == 0


@pytest.mark.parametrize("length", [11, 2**31 - 1, -1, -(2**31)])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_nothing_is_read_behind_a_frame_that_is_too_long(length, step):
    data = struct.pack(">i", 2) + b"ok" + struct.pack(">i", length) + struct.pack(">i", 1) + b"x"
    reader = FrameReader(">i", 10)
    items = []
    for start in range(0, len(data), step):
        items += reader.feed(data[start : start + step])
    assert items[0] == b"ok"
    assert [type(item) for item in items[1:]] == [FrameTooLongError]
    assert reader.pending == 0
    assert reader.feed(b"more") == []


def test_an_incomplete_frame_is_held():
    reader = FrameReader(">H", 10)
    assert reader.feed(b"\0") == []
    assert reader.feed(b"\x03ab") == []
    assert reader.pending == 4
    assert reader.feed(b"c\0\0\0") == [b"abc", b""]
    assert reader.pending == 1
