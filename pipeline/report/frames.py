"""Pictures from the videos: single frames as RGB, faces cut out of them, JPEG.

No table holds a picture, so that biometric data is stored in one place less; they are decoded again on demand.
"""

import base64
import io
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.models import DecodeConfig
from pipeline.decode.decoder import decode_clip
from pipeline.errors import ClipError
from pipeline.intervals import END
from pipeline.schema import LUMA_WEIGHTS

_GROWN = 1.4  # a face with some hair and chin is easier to know than the detector's box


def read_frames(
    clip: Mapping[str, Any], wanted: Collection[int] | None, options: Mapping[str, Any] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frames of a clip.

    Args:
        clip: row of `clips`.
        wanted: indices of frames; None: all. Nothing is decoded past the last of them.
        options: for fsspec.

    Yields:
        (index in the video, uint8 RGB (H, W, 3)) in the order of the video.

    Raises:
        ClipError: the video cannot be read to the last of them.
    """
    config = DecodeConfig(chunk_frames=16)
    only = None if wanted is None else frozenset(wanted)
    # a known end lets decoding stop at the last frame that is looked at
    have = [(clip["frames"], END)] if only is not None and clip.get("frames") else []
    for chunk in decode_clip(clip, config, options, have=have, only=only):
        if chunk["error"] is not None:
            raise ClipError(f"{clip['uri']}: {chunk['error']['message']}", chunk["error"]["error_class"])
        if not chunk["frames"]:
            continue
        for index, planes in zip(chunk["frames"], chunk["planes"].reshape(len(chunk["frames"]), -1), strict=True):
            yield index, to_rgb(planes, chunk["width"], chunk["height"], chunk["matrix"], chunk["full_range"])


def to_rgb(planes: np.ndarray, width: int, height: int, matrix: str, full_range: bool) -> np.ndarray:
    """One frame of planar YUV 4:2:0 as uint8 RGB (H, W, 3), chroma of the nearest sample (ITU-R BT.601, sec. 2.5)."""
    half_w, half_h = (width + 1) // 2, (height + 1) // 2
    luma, chroma = width * height, half_w * half_h
    y = planes[:luma].reshape(height, width).astype(np.float32)
    u, v = (
        planes[luma + i * chroma : luma + (i + 1) * chroma].reshape(half_h, half_w).astype(np.float32) - 128
        for i in (0, 1)
    )
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    scale_y, scale_c = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    y = (y - (0 if full_range else 16)) * scale_y
    shifts = (
        2 * (1 - red) * scale_c * v,
        (-2 * (1 - blue) * blue / green * scale_c) * u - (2 * (1 - red) * red / green * scale_c) * v,
        2 * (1 - blue) * scale_c * u,
    )
    rgb = np.empty((height, width, 3), np.uint8)
    for channel, shift in enumerate(shifts):
        full = shift.repeat(2, axis=0)[:height].repeat(2, axis=1)[:, :width]
        rgb[..., channel] = np.clip(y + full + 0.5, 0, 255)
    return rgb


def cut_face(frame_HW3: np.ndarray, box: tuple[float, float, float, float], side: int) -> Image.Image | None:
    """A face with its surroundings, `side` px square, black outside the frame; None if the box has no extent."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
        return None
    half = _GROWN * max(x2 - x1, y2 - y1) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    square = tuple(round(value) for value in (x - half, y - half, x + half, y + half))
    if square[2] <= square[0]:
        return None
    height, width = frame_HW3.shape[:2]
    inside = (max(square[0], 0), max(square[1], 0), min(square[2], width), min(square[3], height))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return None
    # only what lies inside is copied, so that a box of any size takes no more memory than its frame
    scale = side / (square[2] - square[0])
    part = Image.fromarray(frame_HW3[inside[1] : inside[3], inside[0] : inside[2]])
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    face = Image.new("RGB", (side, side))
    face.paste(part.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), _at(inside, square, scale))
    return face


def _at(inside: tuple[int, ...], square: tuple[int, ...], scale: float) -> tuple[int, int]:
    return round((inside[0] - square[0]) * scale), round((inside[1] - square[1]) * scale)


def thumbnail(frame_HW3: np.ndarray, width: int) -> Image.Image:
    """A whole frame, `width` px wide."""
    image = Image.fromarray(frame_HW3)
    size = (width, max(1, round(width * image.height / image.width)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def to_jpeg(image: Image.Image, quality: int = 80) -> bytes:
    """JPEG bytes of a picture."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def data_uri(image: Image.Image, quality: int = 70) -> str:
    """A picture as a `data:` URI, for pages that load nothing."""
    return "data:image/jpeg;base64," + base64.b64encode(to_jpeg(image, quality)).decode()
