"""The frames of a video's clips, decoded in one pass as a stream of chunks of planar YUV 4:2:0.

    clips of one video          (time range, what is stored, what is looked at)
        |  does it pay, and do the packets tell the frames?         FrameIndex, or none
        |  with an index: only what a wanted frame is decoded from  _read_indexed
        |  without: from the start, as far as a clip goes           _read_from_start
    rows of schema.CHUNK        the same either way: index, time and pixels

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
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import av
import numpy as np

from pipeline.config.models import DecodeConfig
from pipeline.decode.chunking import ClipRows, Request, Row
from pipeline.decode.clock import RAW_FPS, Clock, TimeSource, continue_clock, jump_limit_s, seconds_of
from pipeline.decode.index import FrameIndex, NotIndexedError, Packets, check_head, index_packets, scan
from pipeline.decode.mp4_index import read_tables
from pipeline.decode.open import SharedFile, Video, check_size, is_encrypted, open_video, reason_of
from pipeline.decode.ranges import Bounds, Sampler, Selected, bounds_of, select
from pipeline.decode.seek import DistrustError, Reader
from pipeline.decode.yuv420 import Upright
from pipeline.errors import UNEXPECTED, ClipError
from pipeline.storage import fs

av.logging.set_level(av.logging.PANIC)  # prints nothing; errors then carry FFmpeg's reason, which they else do not

#: clips of one video that are open at once: each has a chunk that is filled
_OPEN_CLIPS = 3
#: a range that begins so early is read from the start, which costs less than to read the index
_EARLY_S = 2.0
#: a shorter video is decoded as a whole when only some of its frames are sampled
_SHORT_FRAMES = 300


@dataclass
class Effort:
    """What reading clips took.

    Attributes:
        decoded: frames that came out of the codec.
        jumps: how often decoding began at a keyframe.
        indexed: packet indices that were read.
        bytes_read: that the demuxer and the index asked the file for, those of shared blocks each time.
    """

    decoded: int = 0
    jumps: int = 0
    indexed: int = 0
    bytes_read: int = 0


@dataclass(frozen=True)
class Opened:
    """Positions of the clips that are worked on from now on: should the process die, one of them did it."""

    positions: tuple[int, ...]


#: position of the clip and its row
Placed = Opened | tuple[int, Row]


def decode_clip(
    clip: Mapping[str, Any],
    config: DecodeConfig,
    storage_options: Mapping[str, Any] | None = None,
    have: Iterable[tuple[int, int]] = (),
    only: Collection[int] | None = None,
) -> Iterator[Row]:
    """Decode one clip, chunk by chunk.

    Frames are numbered in the decoder's output order from 0, in the whole video. Which of them are the clip's, and
    which of those are sampled, says pipeline/decode/ranges.py; what their times are, pipeline/decode/clock.py.

    Args:
        clip: row of `schema.CLIP`.
        config: sampling, and the size of chunks.
        storage_options: for fsspec.
        have: see `Request`.
        only: see `Request`.

    Yields:
        Rows of `schema.CHUNK`; `planes` is a uint8 array, (bytes,), or None without frames. The final row has `last`
        and `video` if decoding saw the clip's end; if it stopped before, as the rest is not needed, no row has. What
        the clip does wrong never raises: it is the `error` of the last row, which then has no frames; frames decoded
        before it come in rows of their own.
    """
    for item in decode_video([Request(clip, tuple(have), only)], config, storage_options):
        if not isinstance(item, Opened):
            yield item[1]


def decode_video(
    requests: Sequence[Request],
    config: DecodeConfig,
    storage_options: Mapping[str, Any] | None = None,
    effort: "Effort | None" = None,
) -> Iterator[Placed]:
    """Decode clips of one video: what several of them hold is decoded once, what none of them holds is jumped over.

    Args:
        requests: of clips of the same bytes (uri, member and offset).
        config: sampling, and the size of chunks.
        storage_options: for fsspec.
        effort: is counted up.

    Yields:
        (position in `requests`, row) with the rows that `decode_clip` gives for each; and `Opened`, whenever the clips
        that are worked on become others.
    """
    source = _Source(requests[0].clip, config, storage_options, effort) if requests else None
    if source is None:
        return
    with closing(source):
        for lane in passes([request.clip for request in requests]):
            parts = [
                _Part(position, requests[position], ClipRows(requests[position], config, source.upright))
                for position in lane
            ]
            yield from _read(source, parts)


def passes(clips: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Positions of clips of one video, in order of time, in as many passes as keep few enough of them open at once."""
    lanes: list[list[int]] = []
    ends_of: list[list[float]] = []
    spans = [_span(clip) for clip in clips]
    for position in sorted(range(len(clips)), key=lambda i: (spans[i][0], i)):
        start, end = spans[position]
        ends_of = [[other for other in ends if other >= start] for ends in ends_of]
        lane = next((i for i, ends in enumerate(ends_of) if len(ends) < _OPEN_CLIPS), len(lanes))
        if lane == len(lanes):
            lanes.append([])
            ends_of.append([])
        lanes[lane].append(position)
        ends_of[lane].append(end)
    return lanes


def _span(clip: Mapping[str, Any]) -> tuple[float, float]:
    """About when a clip begins and ends, in seconds."""
    if clip.get("start_frame") is not None:
        end = clip.get("end_frame")
        return clip["start_frame"] / RAW_FPS, math.inf if end is None else end / RAW_FPS
    return clip.get("start_s") or 0.0, math.inf if clip.get("end_s") is None else clip["end_s"]


@dataclass
class _Part:
    """A clip that is read: where its rows come from, and which frames it has."""

    position: int
    request: Request
    rows: ClipRows
    bounds: Bounds = field(default_factory=lambda: Bounds(-math.inf, math.inf))
    interval_s: float = 1 / RAW_FPS

    def begin(self) -> float:
        """About when the clip begins, in seconds."""
        frames = self.bounds.frames
        return self.bounds.low if frames is None else frames[0] * self.interval_s

    def placed(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        for row in rows:
            yield self.position, row


class _Source:
    """One video, which may be opened several times; its file is opened once, and its index is read once."""

    def __init__(
        self, clip: Mapping[str, Any], config: DecodeConfig, options: Any, effort: "Effort | None" = None
    ) -> None:
        self._clip, self.config, self._options = clip, config, options
        self.effort = effort or Effort()
        self.upright = Upright()
        self._indexed: tuple[FrameIndex, np.ndarray, np.ndarray] | None = None
        self._asked = False
        self._file: SharedFile | None = None
        self._has_tables = True  # as far as is known
        self._of_tables = False  # the index is

    def file(self) -> SharedFile:
        """The file, which is opened once."""
        if self._file is None:
            self._file = SharedFile(self._clip, self._options)
        return self._file

    def close(self) -> None:
        """Close the file, and count what was read of it."""
        if self._file is not None:
            self.effort.bytes_read += self._file.bytes_read
            self._file.close()
            self._file = None

    def open(self, stack: ExitStack) -> Video:
        video = open_video(self._clip, self.config, self.file(), stack)
        self._has_tables &= "mp4" in video.container.format.name
        return video

    def distrust(self) -> None:
        """The index is wrong: one from tables gives way to one from the packets, and that to none."""
        self._asked, self._indexed = not self._of_tables, None
        self._has_tables = self._of_tables = False

    def indexed(self) -> "tuple[FrameIndex, np.ndarray, np.ndarray] | None":
        """The index, the time of each frame in seconds, and the jumps of the clock up to it; None: there is none."""
        if not self._asked:
            self._asked = True
            try:
                self._indexed = self._read_index()
            except (NotIndexedError, av.FFmpegError, ClipError):
                self._indexed = None
        return self._indexed

    def _read_index(self) -> "tuple[FrameIndex, np.ndarray, np.ndarray]":
        if self._has_tables:
            try:
                indexed = self._checked(self._packets(from_tables=True))
                self._of_tables = True
                return indexed
            except NotIndexedError:
                self._has_tables = False  # the packets may tell what the tables do not
        return self._checked(self._packets(from_tables=False))

    def _packets(self, from_tables: bool) -> Packets:
        with ExitStack() as stack:
            video = self.open(stack)
            if from_tables:
                return read_tables(self.file(), video)
            packets = scan(video.container, video.stream)
            if video.is_cut_off():
                raise NotIndexedError("the file is cut off")
            return packets

    def _checked(self, packets: Packets) -> "tuple[FrameIndex, np.ndarray, np.ndarray]":
        index, numbers = index_packets(packets), count()
        with ExitStack() as stack:
            video = self.open(stack)
            head = _Decoded()
            feed = lambda packet: packets.check(next(numbers), packet)  # noqa: E731
            index = check_head(index, _frames(video, self.config, head, feed))
            self.effort.decoded += head.count
            self.effort.indexed += 1
            clock, time_base = clock_of(video), video.stream.time_base  # gone once it is closed
        ticks, jumps_F = continue_clock(clock, index.pts_F)
        zero = ticks[0] if self.config.clock == "start" else 0
        time_F = seconds_of(ticks - zero, time_base)
        if len(index) > self.config.max_frames or time_F[-1] - time_F[0] > 3600 * self.config.max_hours:
            raise NotIndexedError("too long")
        return index, time_F, jumps_F

    def pays(self, video: Video, parts: Sequence[_Part]) -> bool:
        """Whether to read the index: a clip begins late, or of a video that is not short some frames are not wanted."""
        if any(_span(part.request.clip)[0] > _EARLY_S for part in parts):
            return True
        sampled = self.config.every > 1 or self.config.fps is not None
        sparse = sampled or any(part.request.have or part.request.only is not None for part in parts)
        ranged = any(_span(part.request.clip)[1] < math.inf for part in parts)
        return sparse and not ranged and not 0 < video.stream.frames < _SHORT_FRAMES


def clock_of(video: Video) -> Clock:
    """The clock of an opened video."""
    stream = video.stream
    return Clock(stream.time_base, stream.average_rate, jump_limit_s(video.container.format.name))


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass
class _Decoded:
    """Frames that came out of the codec so far, when decoding from the start."""

    count: int = 0


def _read(source: _Source, parts: list[_Part]) -> Iterator[Placed]:
    """One pass over a video."""
    decoded = _Decoded()
    for part in parts:
        if (problem := part.request.clip.get("problem")) is not None:
            yield from part.placed(part.rows.fail(ClipError(problem, "bad_range")))
        elif part.rows.needed.nothing:
            yield from part.placed(part.rows.nothing())
    parts = [part for part in parts if not part.rows.ended]
    try:
        if parts:
            yield from _read_opened(source, parts, decoded)
        return
    except ClipError as problem:
        error = problem
    except Exception as problem:  # one that leaves the task would fail the whole job
        error = _of_reading(problem, parts[0].request.clip["uri"], decoded.count)
    for part in parts:
        if not part.rows.ended:
            yield from part.placed(part.rows.fail(error))


def _read_opened(source: _Source, parts: list[_Part], decoded: _Decoded) -> Iterator[Placed]:
    yield Opened((parts[0].position,))
    with ExitStack() as stack:
        video = source.open(stack)
        _describe(video, parts)
        while parts and source.pays(video, parts) and (indexed := source.indexed()) is not None:
            try:
                yield from _read_indexed(source, *indexed, parts)
                return
            except DistrustError:
                source.distrust()
            for part in parts:
                if not part.rows.ended:
                    rows, part.rows = part.rows.again()
                    yield from part.placed(rows)
            left = [part for part in parts if not part.rows.ended]
            for part in left:
                if part.rows.needed.nothing:
                    yield from part.placed(part.rows.nothing())
            parts[:] = [part for part in left if not part.rows.ended]
            _describe(video, parts)
        if parts:
            try:
                yield from _read_from_start(video, source.config, source.upright, parts, decoded)
            finally:
                source.effort.decoded += decoded.count


def _describe(video: Video, parts: Iterable[_Part]) -> None:
    for part in parts:
        part.rows.tally.describe(video.stream)
        part.interval_s = 1 / float(video.stream.average_rate or RAW_FPS)
        part.bounds = bounds_of(part.request.clip, float(video.stream.time_base), part.interval_s)


def _of_reading(problem: Exception, uri: str, decoded: int) -> ClipError:
    if fs.is_storage_error(problem):
        return ClipError(f"reading failed after {decoded} frames: {problem}", fs.reading_failed(uri, problem))
    return ClipError(f"unexpected {type(problem).__name__}: {problem}", UNEXPECTED)


# -- with an index ----------------------------------------------------------------------------------------------------


class _Planned:
    """A part whose frames are all known beforehand."""

    def __init__(self, part: _Part, selected: Selected, time_F: np.ndarray) -> None:
        self.part, self._time_F = part, time_F
        self._sampled = selected.sampled_S.tolist()
        self._at = 0
        rows = part.rows
        looked_at = []
        for ordinal, index in enumerate(self._sampled):
            if rows.needed.ends_before(ordinal, index):
                break
            if rows.looks_at(ordinal, index):
                looked_at.append(index)
        self.first = selected.first
        #: frames that must be decoded: the first of all tells the size
        self.wanted_set = {*looked_at, *([self.first] if selected.first < selected.end else [])}
        self.wanted = sorted(self.wanted_set)

    def take(self, number: int, frame: av.VideoFrame, upright: Upright) -> Iterator[Row]:
        """A wanted frame has come, and with it all sampled ones before it that were not wanted."""
        rows = self.part.rows
        if number == self.first:
            rows.tally.show(frame, upright)
        yield from self._pass(number)
        if not rows.ended and self._at < len(self._sampled) and self._sampled[self._at] == number:
            self._at += 1
            yield from rows.take(number, float(self._time_F[number]), frame)
        if not rows.ended and number == self.wanted[-1]:
            yield from self.finish()

    def finish(self) -> Iterator[Row]:
        """No more frames are wanted."""
        yield from self._pass(len(self._time_F))
        if not self.part.rows.ended:
            yield from self.part.rows.finish()

    def _pass(self, number: int) -> Iterator[Row]:
        rows = self.part.rows
        while not rows.ended and self._at < len(self._sampled) and self._sampled[self._at] < number:
            index = self._sampled[self._at]
            self._at += 1
            yield from rows.take(index, float(self._time_F[index]), None)


def _read_indexed(
    source: _Source,
    index: FrameIndex,
    time_F: np.ndarray,
    jumps_F: np.ndarray,
    parts: Sequence[_Part],
) -> Iterator[Placed]:
    """The parts' rows, from as few frames as they can be had.

    Raises:
        DistrustError: frames are not what the index says; the rows so far are right.
    """
    planned = []
    for part in parts:
        selected = select(time_F, part.bounds, source.config)
        tally, first, end = part.rows.tally, selected.first, selected.end
        tally.frames = end - first
        tally.length = float(time_F[-1] - time_F[0]) + part.interval_s
        if first < end:
            tally.start_time, tally.end_time = float(time_F[first]), float(time_F[end - 1])
            tally.jumps = int(jumps_F[end - 1] - jumps_F[first])
        planned.append(_Planned(part, selected, time_F))
    for plan in planned:
        if not plan.wanted:
            yield from plan.part.placed(plan.finish())
    waiting = deque(sorted((plan for plan in planned if plan.wanted), key=lambda plan: plan.wanted[0]))
    wanted = sorted({number for plan in waiting for number in plan.wanted})
    reader = Reader(source.open, index, source.config)
    frames = reader.frames(wanted)
    active: list[_Planned] = []
    told: list[int] = []
    for number in wanted:
        while waiting and waiting[0].wanted[0] <= number:
            active.append(waiting.popleft())
        active = [plan for plan in active if not plan.part.rows.ended]
        if (positions := [plan.part.position for plan in active]) != told:
            told = positions
            yield Opened(tuple(told))
        before = reader.decoded, reader.jumps
        _, frame = next(frames)
        source.effort.decoded += reader.decoded - before[0]
        source.effort.jumps += reader.jumps - before[1]
        for plan in active:
            if number in plan.wanted_set:
                yield from plan.part.placed(plan.take(number, frame, source.upright))


# -- from the start ---------------------------------------------------------------------------------------------------


class _Streamed:
    """A part whose frames become known as they are decoded."""

    def __init__(self, part: _Part, config: DecodeConfig) -> None:
        self.part, self._sampler = part, Sampler(config)
        self._jumps = 0
        self._kept: tuple[int, float | None, av.VideoFrame] | None = None  # first frame, until one is sampled

    def take(
        self, index: int, seconds: float, time: float | None, frame: av.VideoFrame, jumps: int, upright: Upright
    ) -> Iterator[Row]:
        """The next frame of the video, from the clip's begin on."""
        bounds, rows = self.part.bounds, self.part.rows
        tally = rows.tally
        if bounds.ends(index, seconds) and tally.frames:
            yield from self.finish()
            return
        if not tally.frames:
            tally.show(frame, upright)
            self._jumps = jumps
        tally.frames += 1
        tally.jumps = jumps - self._jumps
        if time is not None:
            tally.start_time = time if tally.start_time is None else tally.start_time
            tally.end_time = time
        if self._sampler.takes(index, seconds):
            self._kept = None
            yield from rows.take(index, time, frame)
        elif tally.frames == 1:
            self._kept = index, time, frame
        if bounds.ends(index, seconds) and not rows.ended:
            yield from self.finish()

    def finish(self) -> Iterator[Row]:
        """The clip has no more frames."""
        rows = self.part.rows
        if self._kept is not None:
            yield from rows.take(*self._kept)
        if not rows.ended:
            yield from rows.finish()


def _read_from_start(
    video: Video,
    config: DecodeConfig,
    upright: Upright,
    parts: Sequence[_Part],
    decoded: _Decoded,
) -> Iterator[Placed]:
    """The parts' rows, from all frames up to the last part's end."""
    waiting = deque(_Streamed(part, config) for part in sorted(parts, key=_Part.begin))
    mixed = len({part.bounds.frames is None for part in parts}) > 1  # then their order is not certain
    active: list[_Streamed] = []
    clock = clock_of(video)
    times = TimeSource(video.container.format.name, video.stream.codec_context.has_b_frames)
    frames = times.in_order(_frames(video, config, decoded, times.feed))
    time_base, longest_s = video.stream.time_base, 3600 * config.max_hours  # PyAV makes a new number at each reading
    zero = begin = None
    told: list[_Streamed] | None = None
    seconds = -math.inf
    for ticks, (known, index, frame) in clock.follow(_with_ticks(times, frames)):
        if zero is None:
            zero = times.zero(ticks) if config.clock == "start" else 0
        seconds = seconds_of(ticks - zero, time_base)
        begin = seconds if begin is None else begin
        if seconds - begin > longest_s:
            raise ClipError(f"longer than {config.max_hours:g} hours, which decode.max_hours allows", "too_long")
        if waiting and (mixed or waiting[0].part.bounds.begins(index, seconds)):
            active = active + [part for part in waiting if part.part.bounds.begins(index, seconds)]
            waiting = deque(part for part in waiting if not part.part.bounds.begins(index, seconds))
        time = seconds if known else None
        for part in active:
            for row in part.take(index, seconds, time, frame, clock.jumps, upright):
                yield part.part.position, row
        if any(part.part.rows.ended for part in active):
            active = [part for part in active if not part.part.rows.ended]
            if not active and not waiting:
                return
        if told is not active:  # another list: a clip has started or ended
            told = active
            yield Opened(tuple(part.part.position for part in active or [waiting[0]]))
    for part in (*active, *waiting):
        part.part.rows.tally.length = seconds - (begin or 0.0) + part.part.interval_s
        yield from part.part.placed(part.finish())


def _with_ticks(
    times: TimeSource, frames: Iterable[av.VideoFrame]
) -> Iterator[tuple[int | None, tuple[bool, int, av.VideoFrame]]]:
    for index, frame in enumerate(frames):
        ticks = times.ticks(frame)
        yield ticks, (ticks is not None or times.unordered, index, frame)


def _frames(
    video: Video, config: DecodeConfig, decoded: _Decoded, feed: Callable[[Any], None] | None = None
) -> Iterator[av.VideoFrame]:
    """All frames of a stream in the decoder's order, with those that B-frames hold back at the end.

    Raises:
        ClipError: `encrypted`, `too_large`, `too_long`, `corrupt`, `truncated` or `no_frames`, after the frames before
            the defect.
    """
    incomplete = False
    try:
        for packet in video.container.demux(video.stream):
            if is_encrypted(packet):  # decoding it would give noise, or fail for another reason
                raise ClipError(f"the video is encrypted (DRM) from frame {decoded.count} on", "encrypted")
            if packet.size:  # else it is the flush at the end
                incomplete = packet.is_corrupt
                if feed is not None:
                    feed(packet)
            for frame in packet.decode():
                check_size(frame.width, frame.height, config)
                if decoded.count >= config.max_frames:
                    raise ClipError(f"more than {config.max_frames} frames, which decode.max_frames allows", "too_long")
                decoded.count += 1
                yield frame
    except av.FFmpegError as error:
        codec = video.stream.codec_context
        check_size(codec.width, codec.height, config)  # the codec's own limit has refused it, see open_video
        if incomplete or video.is_cut_off():
            raise ClipError(f"the file is cut off after {decoded.count} frames", "truncated") from error
        raise ClipError(f"decoding failed after {decoded.count} frames: {reason_of(error)}", "corrupt") from error
    if video.is_cut_off():  # not `incomplete`: recorded MPEG streams end within a packet as a rule
        raise ClipError(f"the file is cut off after {decoded.count} frames", "truncated")
    if not decoded.count:
        raise ClipError("the video stream holds no frame that can be decoded", "no_frames")
