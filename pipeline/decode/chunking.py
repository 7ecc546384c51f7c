"""How the sampled frames of a clip are cut into chunks, and which of them must be decoded at all."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import pyarrow as pa

from pipeline.config.models import DecodeConfig
from pipeline.decode.yuv420 import Layout, Upright
from pipeline.intervals import END
from pipeline.schema import CHUNK


@dataclass
class Chunk:
    """Sampled frames with consecutive ordinals; those that are looked at have one layout and lie in one buffer.

    Attributes:
        first: ordinal of the first.
        config: limits.
        count: frames that it spans.
        layout: of the frames that are looked at; None while there is none.
        frames, times: index and time of these.
    """

    first: int
    config: DecodeConfig
    count: int = 0
    layout: Layout | None = None
    frames: list[int] = field(default_factory=list)
    times: list[float | None] = field(default_factory=list)

    def ends_before(self, layout: Layout | None) -> bool:
        """Whether a next frame, of this layout or not looked at, belongs to a next chunk."""
        if self.layout is None:
            return False
        return len(self.frames) == _capacity(self.layout, self.config) or layout not in (None, self.layout)

    def add(
        self, index: int, time: float | None, frame: av.VideoFrame | None, layout: Layout | None, upright: Upright
    ) -> None:
        """Take in the next frame; one without a layout is not looked at, so it only counts."""
        if layout is None or frame is None:
            self.count += 1
            return
        if self.layout is None:
            self.layout = layout
            # pages that are never written cost no memory, so a clip shorter than a chunk pays for its frames only
            self.buffer = np.empty(_capacity(layout, self.config) * layout.frame_bytes, np.uint8)
        begin = len(self.frames) * layout.frame_bytes
        upright.copy(frame, self.buffer[begin : begin + layout.frame_bytes])
        self.count += 1
        self.frames.append(index)
        self.times.append(time)

    def row(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk as a row of `schema.CHUNK`."""
        row = empty_row(clip, self.first) | {"count": self.count}
        layout = self.layout
        if layout is None:
            return row
        return row | {
            "frames": self.frames,
            "times": self.times,
            "width": layout.width,
            "height": layout.height,
            "matrix": layout.matrix,
            "full_range": layout.full_range,
            "planes": self.buffer[: len(self.frames) * layout.frame_bytes],
        }


class DecodeWindow:
    """Up to where a clip must be decoded, if its end and the frames that are looked at are known."""

    def __init__(self, gaps: Sequence[tuple[int, int]], only: Collection[int] | None) -> None:
        self.end = gaps[-1][0] + gaps[-1][1] if gaps else 0
        self.last_index = math.inf if only is None or self.end >= END else max(only, default=-1)
        self.nothing = self.last_index < 0

    def ends_before(self, ordinal: int, index: int) -> bool:
        """Whether neither this sampled frame nor any later one is needed."""
        return ordinal >= self.end or index > self.last_index


def empty_row(clip: Mapping[str, Any], first: int) -> dict[str, Any]:
    """A row of `schema.CHUNK` without frames."""
    empty = dict.fromkeys(("width", "height", "matrix", "full_range", "planes", "video", "error"))
    named = {"clip_id": clip["clip_id"], "shard": clip["shard"], "first": first}
    return {**named, "count": 0, "frames": [], "times": [], "last": False, **empty}


def error_row(
    clip: Mapping[str, Any], first: int, error: Mapping[str, Any], video: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The last row of a clip that cannot be decoded any further; `first` is the ordinal of the frame that is lost."""
    return empty_row(clip, first) | {"last": True, "video": video, "error": dict(error)}


def unseen_rows(
    clip: Mapping[str, Any], gaps: Iterable[tuple[int, int]], begin: int, chunk: Chunk | None
) -> Iterator[dict[str, Any]]:
    """The rows of a clip from a sampled frame on from which nothing is looked at.

    None of them is the clip's last: decoding stops here, and only who has seen the end of the video may speak of it.
    """
    if chunk is not None:
        yield chunk.row(clip)
    for first, count in gaps:
        if first + count > begin:
            start = max(first, begin)
            yield empty_row(clip, start) | {"count": first + count - start}


def _capacity(layout: Layout, config: DecodeConfig) -> int:
    return max(1, min(config.chunk_frames, config.chunk_mb * 1_000_000 // layout.frame_bytes))


def chunks_to_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Arrow table of chunk rows, one record batch per row; `planes` is not copied.

    Args:
        rows: rows of `decode_clip`; may be none.

    Returns:
        Table with `schema.CHUNK`.
    """
    batches = []
    for row in rows:
        arrays = [
            _planes_array(row["planes"]) if f.name == "planes" else pa.array([row[f.name]], f.type) for f in CHUNK
        ]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=CHUNK))
    return pa.Table.from_batches(batches, schema=CHUNK)


def _planes_array(planes: Any) -> pa.LargeBinaryArray:
    if planes is None:
        return pa.nulls(1, pa.large_binary())
    data = pa.py_buffer(planes)
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])
