"""The clock of a video: presentation times that rise from frame to frame, whatever the file's timestamps do.

    ticks of a frame     its presentation time as the stream states it, in ticks of the stream's time base; or none
        |  streams without presentation times (AVI): decode times                                    frame_ticks
        |  restarts and wild jumps: continued by the frame rate, counted as `jumps`                  Clock
        |  0 at the video's first frame, or where the stream has it (`decode.clock`)                 Clock.seconds
    time in seconds

A step from one frame to the next is one of the clock if it goes forward by less than a second or ten frame intervals.
What else a step may be, the next `LOOK_AHEAD` frames tell:

    they come back to the clock      the frame's time is wild: it gets one frame interval after the one before
    back, and they stay there        the clock was started again (joined recordings): it is continued
    far forward, and they stay there as above; far is `far_s` of `jump_limit_s`
    less far forward                 a pause between frames, which is real
"""

import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

RAW_FPS = 25.0  # clock of streams that give neither times nor a rate
LOOK_AHEAD = 8
_PAUSE_S = 1.0
_PAUSE_INTERVALS = 10
_MEMORY = 15  # steps whose median is the frame interval
#: MPEG streams are recorded off the air, with gaps and restarts; the limit is that of the ffmpeg program
_BROADCAST = frozenset({"mpegts", "mpeg"})
_BROADCAST_FAR_S, _FAR_S = 10.0, 3600.0
#: containers that store no presentation times: what FFmpeg gives in their place is unsorted with B-frames
_WITHOUT_TIMES = frozenset({"avi"})

Item = TypeVar("Item")
Number = TypeVar("Number", float, NDArray[np.float64])


def jump_limit_s(format_name: str) -> float:
    """Seconds from which a step forward is a jump of the clock and no pause, by FFmpeg's name of the container."""
    return _BROADCAST_FAR_S if format_name in _BROADCAST else _FAR_S


def has_presentation_times(format_name: str) -> bool:
    """Whether a container, by FFmpeg's name of it, can state presentation times."""
    return format_name not in _WITHOUT_TIMES


def seconds_of(ticks: Number, time_base: Fraction) -> Number:
    """Seconds of ticks, one or an array; the same double as FFmpeg's and PyAV's for whole ticks."""
    return ticks * time_base.numerator / time_base.denominator


class _Ahead(Generic[Item]):
    """Looks ahead in a stream of frames; an error comes when the frames before it have been given."""

    def __init__(self, items: Iterable[tuple[int | None, Item]]) -> None:
        self.waiting: deque[tuple[int | None, Item]] = deque()
        self._source = iter(items)
        self._problem: Exception | None = None

    def fill(self, count: int) -> int:
        """Look so many frames ahead, if there are as many; returns how many wait."""
        while len(self.waiting) < count and self._problem is None:
            try:
                self.waiting.append(next(self._source))
            except Exception as problem:
                self._problem = problem
        if not self.waiting and not isinstance(self._problem, StopIteration):
            assert self._problem is not None
            raise self._problem
        return len(self.waiting)


class Clock:
    """Continues the ticks of one video's frames, given in the order of presentation.

    Attributes:
        jumps: places so far at which the clock was continued by the frame rate.
    """

    def __init__(self, time_base: Fraction, rate: Fraction | float | None, far_s: float) -> None:
        """Begin before the first frame.

        Args:
            time_base: seconds of a tick.
            rate: average frames per second that the container states; None: none.
            far_s: see `jump_limit_s`.
        """
        self.jumps = 0
        self._stated = 1 / (float(rate or RAW_FPS) * float(time_base))  # frame interval in ticks
        self._pause, self._far = _PAUSE_S / float(time_base), far_s / float(time_base)
        self._steps: deque[int] = deque(maxlen=_MEMORY)
        self._last: int | None = None  # continued ticks of the last frame that has a time
        self._untimed = 0  # frames since
        self._offset = 0
        self._wild = 0  # frames with a wild time on end

    @property
    def interval(self) -> float:
        """Ticks from a frame to the next, as of late."""
        return statistics.median(self._steps) if len(self._steps) > 2 else self._stated

    def is_short(self, step: float) -> bool:
        """Whether a step of so many ticks is one of the clock whatever the frame interval is."""
        return 0 <= step <= self._pause

    def follow(self, items: Iterable[tuple[int | None, Item]]) -> Iterator[tuple[float, Item]]:
        """Continued ticks of each frame; of one that has no time, counted on from the last that has.

        Args:
            items: (ticks or None, anything that belongs to the frame). Up to LOOK_AHEAD wait at a jump.
        """
        source = _Ahead(items)
        while source.fill(1):
            ticks, item = source.waiting.popleft()
            if ticks is not None and self._last is not None and not self._untimed:
                step = ticks + self._offset - self._last
                if 0 <= step <= self._pause:  # nearly all
                    self._steps.append(step)
                    self._last, self._wild = ticks + self._offset, 0
                    yield self._last, item
                    continue
            if ticks is not None and self._is_doubtful(ticks):
                source.fill(LOOK_AHEAD)
                ahead = [later for later, _ in source.waiting if later is not None]
                yield self._judge(ticks, ahead), item
            else:
                yield self._take(ticks), item

    def _take(self, ticks: int | None) -> float:
        if ticks is None:
            self._untimed += 1
            begin = 0 if self._last is None else self._last
            return begin + (self._untimed - (self._last is None)) * self.interval
        continued = ticks + self._offset
        if self._last is not None and not self._untimed:
            self._steps.append(continued - self._last)
        self._last, self._untimed, self._wild = continued, 0, 0
        return continued

    def _is_doubtful(self, ticks: int) -> bool:
        if self._last is None:
            return False
        step = ticks + self._offset - self._last
        return not 0 <= step <= self._longest_step()

    def _longest_step(self) -> float:
        return max(self._pause, _PAUSE_INTERVALS * self.interval * (self._untimed + 1))

    def _judge(self, ticks: int, ahead: Sequence[int]) -> float:
        """Continued ticks of a frame whose step is doubtful."""
        assert self._last is not None
        step = ticks + self._offset - self._last
        expected = self._last + round(self.interval * (self._untimed + 1))
        longest = self._longest_step()
        returns = any(
            0 < later + self._offset - self._last <= longest + position * self.interval
            and (step < 0 or later + self._offset < ticks + self._offset)
            for position, later in enumerate(ahead, start=1)
        )
        if returns and self._wild < LOOK_AHEAD:
            self.jumps += not self._wild
            self._wild += 1
        elif step < 0 or step > self._far:
            self.jumps += not self._wild
            self._offset = expected - ticks
            self._wild = 0
        else:
            return self._take(ticks)
        self._last, self._untimed = expected, 0
        return expected


def continue_clock(clock: Clock, ticks_F: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Continued ticks of all frames of a video, as `Clock.follow` gives them, and the jumps up to each: (F,), (F,)."""
    steps = np.diff(ticks_F)
    if len(steps) == 0 or (clock.is_short(steps.min()) and clock.is_short(steps.max())):
        return ticks_F.astype(np.float64), np.zeros(len(ticks_F), np.int64)
    followed = [(ticks, clock.jumps) for ticks, _ in clock.follow((tick, None) for tick in ticks_F.tolist())]
    return np.array([ticks for ticks, _ in followed], np.float64), np.array([jumps for _, jumps in followed], np.int64)


class TimeSource:
    """Where a stream's frames have their ticks from, found out as its packets and frames come.

    Packets are stored in the order of decoding. If their times rise in that order, and those of the frames do not in
    the order of presentation, then they are not times of presentation: the container has none, and the decode time at
    which a frame comes out of the codec stands in for it, as in the ffmpeg program.

    Attributes:
        unordered: decode times stand in.
    """

    def __init__(self, format_name: str, reorders: bool) -> None:
        """Begin before the first packet.

        Args:
            format_name: FFmpeg's name of the container.
            reorders: the codec gives frames in another order than that of its packets (`has_b_frames`).
        """
        self.unordered = reorders and format_name in _WITHOUT_TIMES
        self._settled = self.unordered or not reorders
        self._rising = True  # the times of all packets so far
        self._highest: int | None = None
        self._first_dts: int | None = None
        self._last: int | None = None

    def feed(self, packet: Any) -> None:
        """A packet goes into the codec."""
        if self._first_dts is None:
            self._first_dts = packet.dts
        if self._rising and packet.pts is not None:
            self._rising = self._highest is None or packet.pts >= self._highest
            self._highest = packet.pts
            self._settled |= not self._rising

    def in_order(self, frames: Iterable[Any]) -> Iterator[Any]:
        """The frames; the first LOOK_AHEAD wait until it is clear where their times come from."""
        held: list[Any] = []
        source = iter(frames)
        while True:
            try:
                frame = next(source)
            except Exception as problem:
                yield from held
                if isinstance(problem, StopIteration):
                    return
                raise
            if not self._rising and not held:  # nothing is left to find out
                yield frame
                yield from source
                return
            self._settled |= frame.pts is None
            if self._rising and not self.unordered and frame.pts is not None:
                self.unordered = self._last is not None and frame.pts < self._last
                self._settled |= self.unordered
                self._last = frame.pts
            held.append(frame)
            if self._settled or len(held) > LOOK_AHEAD:
                self._settled = True
                yield from held
                held.clear()

    def ticks(self, frame: Any) -> int | None:
        """Ticks of a frame; None: the stream gives none."""
        return frame.dts if self.unordered else frame.pts

    def zero(self, first: float) -> float:
        """Ticks at which a video begins whose first frame has these: without presentation times, its first packet's."""
        return self._first_dts if self.unordered and self._first_dts is not None else first
