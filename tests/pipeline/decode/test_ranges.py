"""Time ranges: bounds as they are printed meet the frames that were meant, and no range is empty for being short."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.models import DecodeConfig
from pipeline.decode.ranges import Bounds, Sampler, bounds_of, select

RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(50), Fraction(60)]
BASES = [Fraction(1, 90000), Fraction(1, 15360), Fraction(1, 1000)]
PRINTED = {
    "exact": float,
    "6 decimals": lambda value: float(f"{value:.6f}"),
    "3 decimals": lambda value: float(f"{value:.3f}"),
    "2 decimals": lambda value: float(f"{value:.2f}"),
    "float32": lambda value: float(np.float32(value)),
    "float32 as text": lambda value: float(str(np.float32(value))),
}


@pytest.mark.parametrize("printed", PRINTED)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("base", BASES)
def test_bounds_at_frames_meet_these_frames(rate, base, printed):
    ticks = [round(n / rate / base) for n in range(4000)]
    times = np.array([float(tick * base) for tick in ticks])
    for first in range(0, 3900, 37):
        start, end = (PRINTED[printed](float(n / rate)) for n in (first, first + 20))
        bounds = bounds_of({"start_s": start, "end_s": end}, float(base), float(1 / rate))
        selected = select(times, bounds, DecodeConfig())
        assert (selected.first, selected.end) == (first, first + 20)


def test_bounds_between_frames_are_as_they_stand():
    times = np.arange(0, 10, 0.04)
    bounds = bounds_of({"start_s": 1.01, "end_s": 1.99}, 1 / 90000, 0.04)
    selected = select(times, bounds, DecodeConfig())
    assert (selected.first, selected.end) == (26, 50)


def test_no_bounds_are_the_whole_video():
    assert bounds_of({"start_s": None, "end_s": None}, 1e-3, 0.04) == Bounds(-math.inf, math.inf)
    assert bounds_of({}, 1e-3, 0.04).whole


@pytest.mark.parametrize(
    ("start", "end", "every", "sampled"),
    [
        (1.0, 1.01, 1, [25]),
        (1.01, 1.02, 1, [26]),  # no frame inside: the first one behind
        (1.01, 1.5, 30, [30]),
        (0.5, 0.9, 30, [13]),  # shorter than the step: the first frame
        (9.99, 11.0, 1, []),  # behind the last frame
    ],
)
def test_a_short_range_has_the_frame_at_or_after_its_start(start, end, every, sampled):
    times = np.arange(0, 9.97, 0.04)
    bounds = bounds_of({"start_s": start, "end_s": end}, 1 / 90000, 0.04)
    assert select(times, bounds, DecodeConfig(every=every)).sampled_S.tolist() == sampled


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=80),
    st.floats(0, 10),
    st.floats(0.001, 5),
    st.sampled_from([{}, {"every": 3}, {"every": 50}, {"fps": 2.0}, {"fps": 30.0}]),
)
def test_selecting_at_once_is_sampling_one_by_one(steps, start, length, settings):
    times = np.cumsum(steps) / 1000
    config = DecodeConfig(**settings)
    bounds = bounds_of({"start_s": start, "end_s": start + length}, 1e-3, 0.04)
    inside = [i for i, time in enumerate(times) if bounds.low <= time < bounds.high]
    inside = inside or [i for i, time in enumerate(times) if time >= bounds.low][:1]
    sampler = Sampler(config)
    expected = [i for i in inside if sampler.takes(i, float(times[i]))] or inside[:1]
    assert select(times, bounds, config).sampled_S.tolist() == expected
