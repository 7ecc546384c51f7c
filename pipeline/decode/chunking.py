"""How the sampled frames of a clip are cut into chunks, and which of them must be decoded at all."""

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import pyarrow as pa

from pipeline.config.models import DecodeConfig
from pipeline.decode.open import reason_of
from pipeline.decode.yuv420 import DEGREES, Layout, Upright
from pipeline.errors import ClipError
from pipeline.intervals import END, complement
from pipeline.schema import CHUNK

Row = dict[str, Any]


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


# -- one clip ---------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was seen of the clip so far; becomes the `video` of its last row."""

    stage: str = "open"
    stream: dict[str, Any] | None = None
    frames: int = 0
    sampled: int = 0
    start_time: float | None = None
    end_time: float | None = None
    jumps: int = 0
    length: float | None = None

    def describe(self, stream: Any) -> None:
        """Take the header's description of the stream; from here on errors are errors of decoding."""
        codec = stream.codec_context
        rate = stream.average_rate
        self.stage = "decode"
        self.stream = {
            "fps": float(rate) if rate else None,
            "width": codec.width,
            "height": codec.height,
            "codec": codec.codec.canonical_name,
            "pixel_format": codec.pix_fmt,
            "rotation": 0,
        }

    def show(self, frame: av.VideoFrame, upright: Upright) -> None:
        """Take the first frame's size, rotation and format, which say more than the header."""
        if self.stream is not None:
            layout, turn = upright.layout(frame), upright.turn(frame)
            self.stream |= {"width": layout.width, "height": layout.height, "rotation": DEGREES[turn]}
            self.stream["pixel_format"] = frame.format.name

    def video(self) -> dict[str, Any] | None:
        """The `video` struct of `schema.CHUNK`; None if the file could not be opened."""
        if self.stream is None:
            return None
        counts = {"frames": self.frames, "sampled": self.sampled}
        times = {"start_time": self.start_time, "end_time": self.end_time}
        return {**counts, **self.stream, **times, "time_jumps": self.jumps, "length": self.length}


@dataclass(frozen=True)
class Request:
    """What is wanted of a clip.

    Attributes:
        clip: row of `schema.CLIP`.
        have: (first, count) of sampled ordinals that are stored already: they are not copied, chunks are cut there. If
            they reach to `intervals.END`, decoding stops where nothing is missing any more.
        only: indices of the frames that are looked at; all others count as seen, but are not copied. None: all.
    """

    clip: Mapping[str, Any]
    have: tuple[tuple[int, int], ...] = ()
    only: Collection[int] | None = None


class ClipRows:
    """Builds the rows (schema.CHUNK) of one clip.

    Attributes:
        request: what is wanted.
        needed: up to where the clip must be decoded.
        tally: what was seen.
        ended: no more rows come.
    """

    def __init__(self, request: Request, config: DecodeConfig, upright: Upright) -> None:
        self.request, self._config, self._upright = request, config, upright
        self._stored, self._gaps = _Intervals(request.have), complement(request.have)
        self.needed = DecodeWindow(self._gaps, request.only)
        self.tally = Tally()
        self.ended = False
        self._chunk: Chunk | None = None

    def looks_at(self, ordinal: int, index: int) -> bool:
        """Whether the pixels of a sampled frame are wanted."""
        return ordinal not in self._stored and (self.request.only is None or index in self.request.only)

    def nothing(self) -> Iterator[Row]:
        """The rows of a clip of which nothing is needed."""
        self.ended = True
        yield from unseen_rows(self.request.clip, self._gaps, 0, None)

    def take(self, index: int, time: float | None, frame: av.VideoFrame | None) -> Iterator[Row]:
        """The next sampled frame; None where its pixels are not wanted. Rows come as chunks are full."""
        ordinal = self.tally.sampled
        self.tally.sampled += 1
        clip = self.request.clip
        if self.needed.ends_before(ordinal, index):
            self.ended = True
            yield from unseen_rows(clip, self._gaps, ordinal, self._chunk)
            self._chunk = None
            return
        missing = ordinal not in self._stored
        looked_at = frame is not None and self.looks_at(ordinal, index)
        try:
            layout = self._upright.layout(frame) if frame is not None and looked_at else None
            if self._chunk is not None and (not missing or self._chunk.ends_before(layout)):
                yield self._chunk.row(clip)
                self._chunk = None  # before the next one is allocated: two chunks, not three
            if missing:
                self._chunk = self._chunk or Chunk(ordinal, self._config)
                self._chunk.add(index, time, frame, layout, self._upright)
        except av.FFmpegError as problem:
            error = ClipError(f"frame {index} cannot be converted: {reason_of(problem)}", "unsupported_pixels")
            yield from self.fail(error)

    def finish(self) -> Iterator[Row]:
        """The last row: decoding has seen the end of the clip."""
        self.ended = True
        chunk = self._chunk
        final = chunk.row(self.request.clip) if chunk is not None else empty_row(self.request.clip, self.tally.sampled)
        self._chunk = None
        yield final | {"last": True, "video": self.tally.video()}

    def fail(self, error: ClipError) -> Iterator[Row]:
        """The last rows: the clip cannot be decoded any further."""
        self.ended = True
        if self._chunk is not None and self._chunk.count:
            yield self._chunk.row(self.request.clip)
        self._chunk = None
        details = {"stage": self.tally.stage, "error_class": error.error_class, "message": str(error)}
        yield error_row(self.request.clip, self.tally.sampled, details, self.tally.video())

    def again(self) -> tuple[list[Row], "ClipRows"]:
        """The rows so far, and a builder for the clip read again from its start, which leaves out what is in them."""
        rows = [self._chunk.row(self.request.clip)] if self._chunk is not None and self._chunk.count else []
        have = (*self.request.have, (0, self.tally.sampled)) if self.tally.sampled else self.request.have
        again = ClipRows(Request(self.request.clip, have, self.request.only), self._config, self._upright)
        return rows, again


class _Intervals:
    """Set of integers given as (first, count) intervals in any order, also overlapping."""

    def __init__(self, intervals: Iterable[tuple[int, int]]) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for first, count in sorted(intervals):
            if self._ends and first <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], first + count)
            else:
                self._begins.append(first)
                self._ends.append(first + count)

    def __contains__(self, value: int) -> bool:
        position = bisect_right(self._begins, value) - 1
        return position >= 0 and value < self._ends[position]
