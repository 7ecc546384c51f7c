"""Planes of frames: copied whole where nothing lies between the rows, and by rows where something does."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from pipeline.decode.yuv420 import Upright


def made_frame(width: int, height: int, seed: int = 0) -> av.VideoFrame:
    rng = np.random.default_rng(seed)
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    return frame


@pytest.mark.parametrize("width", [640, 636, 130, 33])
def test_a_copy_has_the_pixels_of_every_plane_with_and_without_padding(width: int) -> None:
    frame, upright = made_frame(width, 34), Upright()
    out = np.zeros(upright.layout(frame).frame_bytes, np.uint8)
    upright.copy(frame, out)
    expected = [
        np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].ravel()
        for plane in frame.planes
    ]
    assert np.array_equal(out, np.concatenate(expected))


def test_the_widths_have_planes_of_both_kinds() -> None:
    padded = {plane.line_size > plane.width for w in (640, 636, 130, 33) for plane in made_frame(w, 34).planes}
    assert padded == {True, False}


def test_the_layout_follows_each_change_of_size_range_and_matrix() -> None:
    upright = Upright()
    first, wide, full, hd = made_frame(64, 32), made_frame(96, 32), made_frame(64, 32), made_frame(64, 32)
    full.color_range = ColorRange.JPEG
    hd.colorspace = 1
    layouts = [upright.layout(frame) for frame in (first, wide, full, hd, first, first)]
    assert [(one.width, one.full_range, one.matrix) for one in layouts] == [
        (64, False, "bt601"),
        (96, False, "bt601"),
        (64, True, "bt601"),
        (64, False, "bt709"),
        (64, False, "bt601"),
        (64, False, "bt601"),
    ]
    assert layouts[4] is layouts[5]
