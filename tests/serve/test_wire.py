"""Frames between a worker and its learned arm, and what is made of pieces of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.wire import MAX_FRAME, FrameError, Frames, frame

CONTENT = st.dictionaries(st.text(max_size=5), st.integers(-(2**53), 2**53) | st.text(max_size=9), max_size=3)


@given(
    sent=st.lists(st.tuples(CONTENT, st.binary(max_size=50)), max_size=6),
    cuts=st.lists(st.integers(0, 600), max_size=10),
)
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[tuple[dict[str, object], bytes]], cuts: list[int]
) -> None:
    data = b"".join(frame(content, block) for content, block in sent)
    ends = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    frames = Frames()
    received = [one for start, end in pairwise(ends) for one in frames.feed(data[start:end])]
    assert received == sent


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME + 1).to_bytes(4, "little") + bytes(4),
        bytes(4) + (MAX_FRAME + 1).to_bytes(4, "little"),
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x02\0\0\0\0\0\0\0{]",
        b"\x00\0\0\0\0\0\0\0",
        b'\x09\0\0\0\0\0\0\0{"a":NaN}',
        b"\x01\0\0\0\0\0\0\0\xff",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(Frames().feed(data))
