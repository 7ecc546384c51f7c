"""The clock of a video: real pauses stay, restarts and wild times are continued by the frame rate and counted."""

from fractions import Fraction

import numpy as np
import pytest

from pipeline.decode.clock import LOOK_AHEAD, Clock, TimeSource, continue_clock, jump_limit_s, seconds_of
from pipeline.errors import ClipError

MS = Fraction(1, 1000)
STEADY = list(range(0, 4000, 40))  # 100 frames at 25/s


def follow(ticks, format_name="matroska,webm", rate=25):
    clock = Clock(MS, rate, jump_limit_s(format_name))
    times = [round(t) for t, _ in clock.follow((tick, None) for tick in ticks)]
    known = np.array([tick for tick in ticks if tick is not None], np.int64)
    if len(known) == len(ticks):  # the way of the packet index gives the same
        other = Clock(MS, rate, jump_limit_s(format_name))
        array, jumps = continue_clock(other, known)
        assert array.round().tolist() == times
        assert (jumps[-1], jumps[0]) == (clock.jumps, 0)
    return times, clock.jumps


def with_wild(wild, at=40, count=1):
    return [wild + 40 * (i - at) if at <= i < at + count else tick for i, tick in enumerate(STEADY)]


def test_a_steady_clock_stays_as_it_is():
    assert follow(STEADY) == (STEADY, 0)


@pytest.mark.parametrize("offset", [-2_000, 0, 1_600, 99_000_000])
def test_a_recording_that_begins_again_is_continued(offset):
    second = [offset + tick for tick in STEADY]
    times, jumps = follow([*STEADY, *second], "mpegts")
    assert times == list(range(0, 8000, 40))
    assert jumps == 1


@pytest.mark.parametrize("wild", [5_600, 7_200_000, -4_000, 0, 200])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("at", [1, 40, 90])
def test_a_few_wild_times_move_no_other_frame(wild, count, at):
    wild = wild if wild > 4000 or wild < 0 else wild - 1000
    assert follow(with_wild(wild, at, count)) == (STEADY, 1)


def test_wild_first_and_last_frames():
    assert follow([9_000_000, *STEADY[1:]])[0] == [9_000_000 + tick for tick in STEADY]
    assert follow([*STEADY[:-1], 90_000_000]) == (STEADY, 1)


@pytest.mark.parametrize(("pause", "container", "real"), [(9_000, "mpegts", True), (11_000, "mpegts", False)])
def test_a_pause_is_real_up_to_a_limit(pause, container, real):
    ticks = [tick + (pause if tick >= 2000 else 0) for tick in STEADY]
    assert follow(ticks, container) == ((ticks, 0) if real else (STEADY, 1))


@pytest.mark.parametrize(("pause", "real"), [(1_800_000, True), (1_209_600_000, False)])
def test_other_containers_may_pause_for_long(pause, real):
    ticks = [tick + (pause if tick >= 2000 else 0) for tick in STEADY]
    assert follow(ticks, "flv") == ((ticks, 0) if real else (STEADY, 1))


def test_slides_of_a_minute_are_no_jumps():
    ticks = list(range(0, 3_000_000, 60_000))
    assert follow(ticks, "mpegts", rate=Fraction(1, 60)) == (ticks, 0)


def test_frames_that_share_a_time_are_no_jump():
    ticks = [tick - tick % 80 for tick in STEADY]
    assert follow(ticks) == (ticks, 0)


def test_frames_without_a_time_are_counted_on():
    ticks = [tick if i % 3 == 0 else None for i, tick in enumerate(STEADY)]
    assert follow(ticks) == (STEADY, 0)
    assert follow([None] * 100) == (STEADY, 0)


def test_an_error_comes_after_the_frames_before_it():
    def broken():
        yield from ((tick, None) for tick in [0, 40, 80, 7_000_000, 7_000_040])
        raise ClipError("cut off", "truncated")

    given = []

    def take():
        for ticks, _ in Clock(MS, 25, jump_limit_s("flv")).follow(broken()):
            given.append(ticks)

    with pytest.raises(ClipError, match="cut off"):
        take()
    assert given == [0, 40, 80, 120, 160]


def test_seconds_are_the_doubles_of_pyav():
    for base in (Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 12800)):
        for ticks in (0, 1, 133200, 99991, 2**33):
            assert seconds_of(ticks, base) == float(ticks * base) == float(seconds_of(np.array([ticks]), base)[0])


class Stamped:
    def __init__(self, pts, dts):
        self.pts, self.dts = pts, dts


def ordered(packets, frames, format_name="matroska,webm"):
    source = TimeSource(format_name, reorders=True)

    def decoded():
        for position, frame in enumerate(frames):
            for pts in packets[position : position + 3] if not position else packets[position + 2 : position + 3]:
                source.feed(Stamped(pts, pts))
            yield Stamped(frame, 100 + position)

    return [source.ticks(frame) for frame in source.in_order(decoded())]


def test_times_in_the_order_of_decoding_are_found_out_before_the_first_frame():
    stored = list(range(20))
    shown = [0, 2, 1, 3, 5, 4, *range(6, 20)]  # the packet at 1 is shown after the one at 2
    assert ordered(stored, shown) == [100 + i for i in range(20)]


def test_times_of_presentation_are_kept():
    stored = [0, 3, 1, 2, 6, 4, 5, *range(7, 20)]
    assert ordered(stored, list(range(20))) == list(range(20))
    assert ordered(list(range(20)), list(range(20))) == list(range(20))


def test_frames_are_not_held_back_for_long():
    source = TimeSource("matroska,webm", reorders=True)
    frames = iter([Stamped(i, i) for i in range(100)])
    first = next(source.in_order(frames))
    assert first.pts == 0
    assert next(frames).pts == LOOK_AHEAD + 1
