"""One decoded frame as planar YUV 4:2:0 of 8 bits, as it is to be displayed, whatever format the codec gives.

Frames in that format are copied; all others go through swscale once, with matrix and range set explicitly, so that what
a chunk says of its colors is what was done. Pixels are not resampled: an aspect ratio other than 1 stays unapplied.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

# AVColorSpace to (matrix of the chunk, the same for swscale). All others, unspecified among them, are BT.601, which is
# what swscale and so every reader built on FFmpeg takes them for. SMPTE 240M differs from BT.709 by less than 0.02.
_MATRICES = {
    1: ("bt709", Colorspace.ITU709),
    7: ("bt709", Colorspace.ITU709),
    9: ("bt2020", Colorspace.BT2020),
    10: ("bt2020", Colorspace.BT2020),
}
_BT601 = ("bt601", Colorspace.ITU601)
_PLAIN_FORMATS = ("yuv420p", "yuvj420p")

# The eight ways a display matrix can turn a picture, (a, b, c, d) with x' = a x + c y and y' = b x + d y, and the
# degrees of clockwise rotation in each; a mirrored one is mirrored left to right first.
DEGREES = {
    (1, 0, 0, 1): 0,
    (0, 1, -1, 0): 90,
    (-1, 0, 0, -1): 180,
    (0, -1, 1, 0): 270,
    (-1, 0, 0, 1): 0,
    (0, -1, -1, 0): 90,
    (1, 0, 0, -1): 180,
    (0, 1, 1, 0): 270,
}


@dataclass(frozen=True)
class Layout:
    """What all frames of a chunk share: size in pixels as displayed, and the meaning of the values."""

    width: int
    height: int
    matrix: str
    full_range: bool

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of one frame: Y, then U and V of half the columns and rows, rounded up."""
        return self.width * self.height + 2 * ((self.width + 1) // 2) * ((self.height + 1) // 2)


class Upright:
    """Makes the frames of one video upright planes; keeps what is worth keeping from frame to frame."""

    def __init__(self) -> None:
        self._convert = VideoReformatter()
        self._turns: dict[int, tuple[int, int, int, int]] = {}
        self._kind: tuple[Any, ...] | None = None
        self._layout: Layout | None = None

    def turn(self, frame: av.VideoFrame) -> tuple[int, int, int, int]:
        """The nearest of the eight turns, a key of DEGREES, to a frame's display matrix.

        The matrix is read once per angle of rotation: reading a frame's side data makes PyAV keep the whole frame until
        the next garbage collection, which measured 180 kB per frame at 1080p.
        """
        rotation = frame.rotation
        if rotation not in self._turns:
            self._turns[rotation] = _read_turn(frame)
        return self._turns[rotation]

    def layout(self, frame: av.VideoFrame) -> Layout:
        """Layout that a frame has after `copy`; frames of one kind that follow each other share one object."""
        kind = frame.width, frame.height, frame.format.name, frame.rotation, frame.colorspace, frame.color_range
        if self._layout is not None and kind == self._kind:
            return self._layout
        matrix, _, full_range = _color(frame)
        turned = not self.turn(frame)[0]
        width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
        self._kind, self._layout = kind, Layout(width, height, matrix, full_range)
        return self._layout

    def copy(self, frame: av.VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write a frame's planes end to end into `out`, (Layout.frame_bytes,) uint8, turned as they are displayed.

        Of an odd number of columns or rows, mirroring moves the chroma by half a pixel, as in any player.

        Raises:
            av.FFmpegError: the pixel format cannot be converted.
        """
        a, b, c, d = self.turn(frame)
        if frame.format.name not in _PLAIN_FORMATS:
            frame = _to_yuv420p(frame, self._convert)
        begin = 0
        for plane in frame.planes:
            data: Any = plane
            width, height, line = plane.width, plane.height, plane.line_size
            if line == width and a == d == 1:  # nothing between the rows
                size = width * height
                out[begin : begin + size] = np.frombuffer(data, np.uint8, size)
                begin += size
                continue
            rows = np.frombuffer(data, np.uint8).reshape(height, abs(line))[:, :width]
            if line < 0:  # stored from the bottom up
                rows = rows[::-1]
            turned = rows[::d, ::a] if a else rows.T[::b, ::c]
            out[begin : begin + turned.size].reshape(turned.shape)[...] = turned
            begin += turned.size


def _read_turn(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    try:
        side_data: Any = frame.side_data
        if (data := side_data.get(SideData.DISPLAYMATRIX)) is None:
            return 1, 0, 0, 1
        matrix = np.frombuffer(data, np.int32).astype(np.float64)
    except ValueError:  # PyAV does not know all kinds of side data, and then gives none
        angle = math.radians(-frame.rotation)
        matrix = np.array([math.cos(angle), math.sin(angle), 0, -math.sin(angle), math.cos(angle)])
    a, b, c, d = matrix[[0, 1, 3, 4]]
    return max(DEGREES, key=lambda turn: turn[0] * a + turn[1] * b + turn[2] * c + turn[3] * d)


def _color(frame: av.VideoFrame) -> tuple[str, Colorspace, bool]:
    """(matrix, the same for swscale, full range) of the planes that `Upright.copy` makes of a frame."""
    pixels = frame.format
    if pixels.is_rgb or pixels.has_palette or pixels.is_bayer:
        return *_BT601, False  # a choice: it is converted in any case, and so most readers do it
    if len(pixels.components) < 3:
        return *_BT601, frame.color_range != ColorRange.MPEG  # grey: the luma stays as it is
    full_range = frame.color_range == ColorRange.JPEG or pixels.name.startswith("yuvj")
    return *_MATRICES.get(int(frame.colorspace), _BT601), full_range


def _to_yuv420p(frame: av.VideoFrame, convert: VideoReformatter) -> av.VideoFrame:
    """Convert any pixel format to yuv420p with matrix and range as `_color` says."""
    _, matrix, full_range = _color(frame)
    pixels = frame.format
    target_range = ColorRange.JPEG if full_range else ColorRange.MPEG
    if pixels.is_rgb or pixels.has_palette or pixels.is_bayer:
        source: dict[str, Any] = {}
    elif len(pixels.components) < 3:
        source, target_range = {}, ColorRange.JPEG  # swscale takes all gray for full range: this keeps the luma
    else:
        source = {"src_colorspace": matrix, "src_color_range": target_range}
    # threads=1: the default starts one per CPU of the machine, for a task that has one
    target = {"dst_colorspace": matrix, "dst_color_range": target_range}
    return convert.reformat(frame, format="yuv420p", threads=1, **source, **target)
