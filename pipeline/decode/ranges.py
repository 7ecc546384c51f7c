"""Which frames of a video a clip has, and which of them are annotated.

A clip with a time range has the frames with start_s <= time < end_s, where a bound also meets a frame that lies a
little before it: half a tick of the stream's time base, and half a unit of the last digit that the manifest gives (at
least a single-precision float's rounding, at most so much that the frame is nearer to the bound than the next one). So
bounds that were printed with 6, 3 or 2 decimals or kept as float32 begin at the frame that was meant and end before it.
A range in which no frame is annotated, for it is shorter than the step from one to the next, has its first frame
annotated, or the first one behind it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.models import DecodeConfig

TICK_TOLERANCE_S = 1e-6  # of floating point; the finest usual clock of a container is 11 us
_LEAST_DIGITS = 2  # a bound such as 1.5 may have been printed as 1.50
_FLOAT32 = 2.0**-23  # relative rounding of a single-precision number, and of its shortest text
_NEAR = 0.49  # of a frame interval


@dataclass(frozen=True)
class Bounds:
    """The frames of a clip: low <= time < high, tolerances taken off, in seconds on the clip's clock."""

    low: float
    high: float
    frames: tuple[int, float] | None = None  # first <= index < end instead, of a clip that is given by frames

    @property
    def whole(self) -> bool:
        """Whether all frames of the video are the clip's."""
        return self.low == -math.inf and self.high == math.inf and self.frames is None

    def begins(self, index: int, time: float) -> bool:
        """Whether a frame is not before the clip."""
        return time >= self.low if self.frames is None else index >= self.frames[0]

    def ends(self, index: int, time: float) -> bool:
        """Whether a frame is behind the clip."""
        return time >= self.high if self.frames is None else index >= self.frames[1]


def bounds_of(clip: Mapping[str, Any], tick_s: float, interval_s: float) -> Bounds:
    """Bounds of a clip, a row of `schema.CLIP`.

    Args:
        clip: its `start_s` and `end_s` are used; None is no bound.
        tick_s: time base of the stream.
        interval_s: from a frame to the next, by the stated rate.
    """
    if clip.get("start_frame") is not None:
        end = clip.get("end_frame")
        return Bounds(-math.inf, math.inf, (clip["start_frame"], math.inf if end is None else end))
    given = [clip.get("start_s"), clip.get("end_s")]
    digits = max([_LEAST_DIGITS, *(_digits(value) for value in given if value is not None)])

    def lowered(value: float) -> float:
        printed = max(0.5 * 10.0**-digits, abs(value) * _FLOAT32)
        return value - min(tick_s / 2 + printed, _NEAR * interval_s) - abs(value) * 1e-15

    low, high = (None if value is None else lowered(value) for value in given)
    return Bounds(-math.inf if low is None else low, math.inf if high is None else high)


def _digits(value: float) -> int:
    """Decimals of the shortest text that gives this number."""
    text = repr(float(value))
    return 17 if "e" in text else len(text.partition(".")[2].rstrip("0"))


class Sampler:
    """Chooses the frames of one clip that are annotated, from its frames by time."""

    def __init__(self, config: DecodeConfig) -> None:
        self._every, self._fps = config.every, config.fps
        self._origin: float | None = None
        self._next_tick = -math.inf

    def takes(self, index: int, time: float) -> bool:
        """Whether the clip's next frame, by its index in the video and its time in seconds, is annotated."""
        if self._fps is None:
            return index % self._every == 0
        origin = self._origin = time if self._origin is None else self._origin
        taken = time >= self._next_tick - TICK_TOLERANCE_S
        if taken:
            self._next_tick = origin + (math.floor((time - origin + TICK_TOLERANCE_S) * self._fps) + 1) / self._fps
        return taken


@dataclass(frozen=True)
class Selected:
    """The frames of a clip within a video all of whose times are known.

    Attributes:
        first, end: its frames are first <= index < end.
        sampled_S: indices of those that are annotated, rising.
    """

    first: int
    end: int
    sampled_S: NDArray[np.int64]


def select(time_F: NDArray[np.float64], bounds: Bounds, config: DecodeConfig) -> Selected:
    """The frames of a clip, out of the rising times of all frames of its video."""
    if bounds.frames is None:
        first, end = (int(np.searchsorted(time_F, bound, side="left")) for bound in (bounds.low, bounds.high))
    else:
        first, end = (int(min(bound, len(time_F))) for bound in bounds.frames)
    end = min(max(end, first + 1), len(time_F))  # never empty while there is a frame at or after the start
    if config.fps is None:
        sampled = np.arange(-(-first // config.every) * config.every, end, config.every, dtype=np.int64)
    else:
        sampler = Sampler(config)
        times = time_F[first:end].tolist()
        sampled = np.array([i for i, time in enumerate(times, first) if sampler.takes(i, time)], np.int64)
    if not len(sampled) and first < end:
        sampled = np.array([first], np.int64)
    return Selected(first, end, sampled)
