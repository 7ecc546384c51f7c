"""Real videos, made videos, and short ways to decode them."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.config.models import DecodeConfig
from pipeline.decode.decoder import decode_clip
from pipeline.intervals import END
from pipeline.storage import fs


def _picture(index: int, width: int, height: int) -> np.ndarray:
    """A picture that tells its index, without symmetry, so that each turn of it looks different."""
    y, x = np.mgrid[:height, :width]
    red = (x * 255 // max(1, width - 1)).astype(np.uint8)
    green = (y * 255 // max(1, height - 1)).astype(np.uint8)
    blue = np.full((height, width), index * 37 % 256, np.uint8)
    picture = np.stack([red, green, blue], -1)
    picture[: height // 4, : width // 3] = (250, 20, 20)
    return picture


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """make_video(path, count=8, width=64, height=48, fps=25, ...) encodes a small video and returns its path."""

    def make(
        path: Path,
        count: int = 8,
        width: int = 64,
        height: int = 48,
        fps: int = 25,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        pts: Iterable[int] | None = None,
        time_base: Fraction | None = None,
        codec_options: dict[str, str] | None = None,
        mux_options: dict[str, str] | None = None,
    ) -> Path:
        with av.open(str(path), "w", options=mux_options or {}) as out:
            stream = out.add_stream(codec, rate=fps, options=codec_options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.thread_count = 1
            if time_base is not None:
                stream.codec_context.time_base = time_base
            for index, at in zip(range(count), pts or range(count), strict=False):
                frame = av.VideoFrame.from_ndarray(_picture(index, width, height), "rgb24")
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = at, time_base or Fraction(1, fps)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path

    return make


@pytest.fixture(scope="session")
def clip_row() -> Callable[..., dict[str, Any]]:
    """clip_row(path or uri, **columns) is a row of schema.CLIP."""

    def make(path: Any, **columns: Any) -> dict[str, Any]:
        uri = fs.normalise_uri(str(path))
        row = dict.fromkeys(("member", "offset", "size", "start_s", "end_s", "key", "fingerprint", "bbox"))
        return {**row, "clip_id": "0" * 16, "uri": uri, "shard": "s", **columns}

    return make


class Decoded:
    """The rows of a clip, and its frames put together again."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.last = rows[-1]
        self.video, self.error = self.last["video"], self.last["error"]
        self.frames = [frame for row in rows for frame in row["frames"]]
        self.times = [time for row in rows for time in row["times"]]
        self.ordinals = [row["first"] + i for row in rows for i in range(len(row["frames"]))]
        self.planes = [
            plane for row in rows if row["frames"] for plane in row["planes"].reshape(len(row["frames"]), -1)
        ]
        self.sizes = [(row["width"], row["height"]) for row in rows for _ in row["frames"]]

    def luma(self, position: int) -> np.ndarray:
        width, height = self.sizes[position]
        return self.planes[position][: width * height].reshape(height, width)


@pytest.fixture(scope="session")
def decode(clip_row: Callable[..., dict[str, Any]]) -> Callable[..., Decoded]:
    """decode(path or clip row, have=(), only=None, **settings of DecodeConfig) decodes and checks what always holds."""

    def run(clip: Any, have: Iterable[tuple[int, int]] = (), only: set[int] | None = None, **settings: Any) -> Decoded:
        row = clip if isinstance(clip, dict) else clip_row(clip)
        rows = list(decode_clip(row, DecodeConfig(**settings), have=have, only=only))
        ends = [r["last"] for r in rows]
        # where the clip's end is stored, decoding may stop before it, and then says nothing of it
        end_is_stored = any(first + count >= END for first, count in have)
        assert ends == [False] * (len(rows) - 1) + [True] or (end_is_stored and not any(ends))
        for r in [r for r in rows if not r["last"]]:
            assert r["count"]
            assert r["frames"] or only is not None
            assert r["video"] is None
            assert r["error"] is None
        assert all(len(r["frames"]) == len(r["times"]) for r in rows)
        assert not (rows[-1]["error"] and rows[-1]["frames"])
        return Decoded(rows)

    return run


@pytest.fixture(scope="session")
def plain() -> Callable[[Path], list[av.VideoFrame]]:
    """plain(path) decodes with nothing but a PyAV loop, on one thread."""

    def loop(path: Path) -> list[av.VideoFrame]:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            return list(container.decode(stream))

    return loop
