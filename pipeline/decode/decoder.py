"""A clip's frames, decoded as a stream of chunks of planar YUV 4:2:0.

Why planes and not RGB: they are what the codecs give, so nothing is converted here; they are half the bytes; and the
device converts them in passing. Through Ray Data that is 1,213 frames/s of 512x512 instead of 625, and 0.95 instead of
1.74 ms of CPU per frame. They travel as `large_binary`, since a block of several chunks passes 2 GB, where 32-bit
offsets end, and since Arrow and Ray carry one such buffer without a copy from here to the model.

Memory of one clip, whatever its length: the codec's reference frames (at most 17), and two chunks (the one that the
consumer holds and the one that is filled), each at most `chunk_mb` or one frame. Frames are copied out of the codec's
memory once, straight into their chunk. Measured: 0.4 GB at 30 minutes of 1080p, 0.15 GB of it the libraries.

A file that is cut off gives fewer frames and no error. It is found out by what MP4, Matroska and AVI state of their
length; MPEG and raw streams state none, so these just end.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import av

from pipeline.config.models import DecodeConfig
from pipeline.decode.chunking import Chunk, DecodeWindow, empty_row, error_row, unseen_rows
from pipeline.decode.open import Video, check_size, open_video, reason_of
from pipeline.decode.yuv420 import DEGREES, Upright
from pipeline.errors import UNEXPECTED, ClipError
from pipeline.intervals import complement
from pipeline.storage import fs

av.logging.set_level(av.logging.PANIC)  # prints nothing; errors then carry FFmpeg's reason, which they else do not

RAW_FPS = 25.0  # clock of streams that give neither times nor a rate
TICK_TOLERANCE_S = 1e-6  # of floating point; the finest usual clock of a container is 11 us


def decode_clip(
    clip: Mapping[str, Any],
    config: DecodeConfig,
    storage_options: Mapping[str, Any] | None = None,
    have: Iterable[tuple[int, int]] = (),
    only: Collection[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Decode one clip, chunk by chunk.

    Frames are numbered in the decoder's output order from 0, in the whole video. A clip with a time range holds the
    frames with start_s <= time < end_s, and ends at the first frame at or past end_s; where a stream gives no times,
    frame index / average rate stands in for the range. Sampled are the frames whose index is a multiple of
    `config.every`, or with `config.fps` the first frame at or after each tick n/fps from the clip's first frame.

    Args:
        clip: row of `schema.CLIP`.
        config: sampling, and the size of chunks.
        storage_options: for fsspec.
        have: (first, count) of sampled ordinals that are stored already: they are not copied, chunks are cut there. If
            they reach to `intervals.END`, decoding stops where nothing is missing any more.
        only: indices of the frames that are looked at; all others count as seen, but are not copied. None: all.

    Yields:
        Rows of `schema.CHUNK`; `planes` is a uint8 array, (bytes,), or None without frames. The final row has `last`
        and `video` if decoding saw the clip's end; if it stopped before, as the rest is not needed, no row has. What
        the clip does wrong never raises: it is the `error` of the last row, which then has no frames; frames decoded
        before it come in rows of their own.
    """
    have = list(have)
    stored, gaps = _Intervals(have), complement(have)
    needed = DecodeWindow(gaps, only)
    tally = _Tally()
    chunk: Chunk | None = None
    error: ClipError | None = None
    upright = Upright()
    try:
        with ExitStack() as stack:
            frames: Iterable[tuple[int, float | None, av.VideoFrame]] = ()
            if not needed.nothing:
                video = open_video(clip, config, storage_options, stack)
                tally.describe(video.stream)
                frames = _sampled_frames(video, clip, config, tally, upright)
            for index, time, frame in frames:
                ordinal = tally.sampled - 1
                if needed.ends_before(ordinal, index):
                    yield from unseen_rows(clip, gaps, ordinal, chunk)
                    return
                missing = ordinal not in stored
                layout = upright.layout(frame) if missing and (only is None or index in only) else None
                if chunk is not None and (not missing or chunk.ends_before(layout)):
                    yield chunk.row(clip)
                    chunk = None  # before the next one is allocated: two chunks, not three
                if missing:
                    chunk = chunk or Chunk(ordinal, config)
                    chunk.add(index, time, frame, layout, upright)
    except ClipError as problem:
        error = problem
    except av.FFmpegError as problem:
        error = ClipError(f"frame {tally.decoded - 1} cannot be converted: {reason_of(problem)}", "unsupported_pixels")
    except Exception as problem:  # one that leaves the task would fail the whole job
        error = _of_reading(problem, clip["uri"], tally.decoded)
    if needed.nothing:
        yield from unseen_rows(clip, gaps, 0, None)
        return
    if error is None:
        final = chunk.row(clip) if chunk is not None else empty_row(clip, tally.sampled)
        yield final | {"last": True, "video": tally.video()}
        return
    if chunk is not None and chunk.count:
        yield chunk.row(clip)
    chunk = None
    details = {"stage": tally.stage, "error_class": error.error_class, "message": str(error)}
    yield error_row(clip, tally.sampled, details, tally.video())


def _of_reading(problem: Exception, uri: str, decoded: int) -> ClipError:
    if fs.is_storage_error(problem):
        return ClipError(f"reading failed after {decoded} frames: {problem}", fs.reading_failed(uri, problem))
    return ClipError(f"unexpected {type(problem).__name__}: {problem}", UNEXPECTED)


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


# -- frames -----------------------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What was seen of the clip so far; becomes the `video` of its last row."""

    stage: str = "open"
    stream: dict[str, Any] | None = None
    decoded: int = 0  # in the whole video
    frames: int = 0  # of them inside the clip's range
    sampled: int = 0
    start_time: float | None = None
    end_time: float | None = None

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

    def count(self, frame: av.VideoFrame, time: float | None, upright: Upright) -> None:
        """Count a frame inside the clip's range; the first says more about size and rotation than the header."""
        if not self.frames and self.stream is not None:
            layout, turn = upright.layout(frame), upright.turn(frame)
            self.stream |= {"width": layout.width, "height": layout.height, "rotation": DEGREES[turn]}
            self.stream["pixel_format"] = frame.format.name
        self.frames += 1
        if time is not None:
            self.start_time = time if self.start_time is None else self.start_time
            self.end_time = time

    def video(self) -> dict[str, Any] | None:
        """The `video` struct of `schema.CHUNK`; None if the file could not be opened."""
        if self.stream is None:
            return None
        counts = {"frames": self.frames, "sampled": self.sampled}
        return {**counts, **self.stream, "start_time": self.start_time, "end_time": self.end_time}


def _sampled_frames(
    video: Video, clip: Mapping[str, Any], config: DecodeConfig, tally: _Tally, upright: Upright
) -> Iterator[tuple[int, float | None, av.VideoFrame]]:
    """(index in the video, time in seconds, frame) of each sampled frame of the clip's range; counts in `tally`."""
    start_s = -math.inf if clip.get("start_s") is None else clip["start_s"]
    end_s = math.inf if clip.get("end_s") is None else clip["end_s"]
    interval_s = 1.0 / float(video.stream.average_rate or RAW_FPS)
    known = (0, 0.0)  # index and time from which the clock of frames without a time is counted on
    begin = origin = next_tick = None
    for index, frame in enumerate(_frames(video, config, tally)):
        time = frame.time
        if time is not None:
            known = (index, time)
        clock = known[1] + (index - known[0]) * interval_s
        begin = clock if begin is None else begin
        if clock - begin > 3600 * config.max_hours:
            raise ClipError(f"longer than {config.max_hours:g} hours, which decode.max_hours allows", "too_long")
        if clock >= end_s:
            return
        if clock < start_s:
            continue
        tally.count(frame, time, upright)
        if config.fps is None:
            sampled = index % config.every == 0
        else:
            origin = clock if origin is None else origin
            sampled = next_tick is None or clock >= next_tick - TICK_TOLERANCE_S
            if sampled:
                next_tick = origin + (math.floor((clock - origin + TICK_TOLERANCE_S) * config.fps) + 1) / config.fps
        if sampled:
            tally.sampled += 1
            yield index, time, frame


def _frames(video: Video, config: DecodeConfig, tally: _Tally) -> Iterator[av.VideoFrame]:
    """All frames of a stream in the decoder's order, with those that B-frames hold back at the end.

    Raises:
        ClipError: `encrypted`, `too_large`, `too_long`, `corrupt`, `truncated` or `no_frames`, after the frames before
            the defect.
    """
    incomplete = False
    try:
        for packet in video.container.demux(video.stream):
            if packet.has_sidedata("encryption_info"):  # decoding it would give noise, or fail for another reason
                raise ClipError(f"the video is encrypted (DRM) from frame {tally.decoded} on", "encrypted")
            if packet.size:  # else it is the flush at the end
                incomplete = packet.is_corrupt
            for frame in packet.decode():
                check_size(frame.width, frame.height, config)
                if tally.decoded >= config.max_frames:
                    raise ClipError(f"more than {config.max_frames} frames, which decode.max_frames allows", "too_long")
                tally.decoded += 1
                yield frame
    except av.FFmpegError as error:
        codec = video.stream.codec_context
        check_size(codec.width, codec.height, config)  # the codec's own limit has refused it, see open_video
        if incomplete or video.is_cut_off():
            raise ClipError(f"the file is cut off after {tally.decoded} frames", "truncated") from error
        raise ClipError(f"decoding failed after {tally.decoded} frames: {reason_of(error)}", "corrupt") from error
    if video.is_cut_off():  # not `incomplete`: recorded MPEG streams end within a packet as a rule
        raise ClipError(f"the file is cut off after {tally.decoded} frames", "truncated")
    if not tally.decoded:
        raise ClipError("the video stream holds no frame that can be decoded", "no_frames")
