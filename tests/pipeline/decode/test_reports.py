"""Inputs after public bug reports: the right times, ranges, clocks and clips of each."""

import numpy as np
import pytest

from pipeline.config.models import Config
from pipeline.corpus.discover import read_corpus
from pipeline.errors import ManifestError
from pipeline.planning.shard_diff import no_frame


@pytest.fixture(scope="module")
def reports(data):
    folder = data / "reports" / "video"
    if not folder.is_dir():
        pytest.skip("needs the inputs of reports/video, which are not part of the project")
    return folder


STEADY = [round(0.04 * i, 2) for i in range(200)]


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [("v/avi_h264_bframes.avi", 0.08, 60), ("o/xvid_packed.avi", 0.12, 98), ("v/avi_piped.avi", 0.08, 100)],
)
def test_without_presentation_times_they_rise(reports, decode, name, first, count):
    ours = decode(reports / name)
    assert np.allclose(ours.times, first + 0.04 * np.arange(count))
    assert ours.frames == list(range(count))


def test_a_range_without_presentation_times(reports, decode, clip_row):
    assert decode(clip_row(reports / "v/avi_h264_bframes.avi", start_s=0.2, end_s=0.6)).frames == list(range(3, 13))


@pytest.mark.parametrize(
    ("name", "count", "jumps"),
    [
        ("ts_joined_clock_restarts.ts", 200, 1),
        ("ts_one_frame_4s_ahead.ts", 150, 1),
        ("ts_one_frame_hours_ahead.ts", 150, 1),
        ("flv_clock_jumps_14_days.flv", 60, 1),
        ("ts_start_1.4.ts", 100, 0),
        ("ts_pts_wrap.ts", 100, 0),
        ("mp4_fragmented_last_fragment_lost.mp4", 75, 0),
        ("mp4_cut_copy_editlist.mp4", 85, 0),
    ],
)
def test_clocks(reports, decode, name, count, jumps):
    ours = decode(reports / "v" / name)
    assert ours.error is None
    assert ours.times == pytest.approx(STEADY[:count])
    assert ours.video["time_jumps"] == jumps
    assert ours.video["length"] == pytest.approx(0.04 * count)
    assert len(decode(reports / "v" / name, fps=5.0).frames) == -(-count // 5)


@pytest.mark.parametrize(
    ("name", "start", "end", "frames"),
    [
        ("ts_joined_clock_restarts.ts", 4, 6, range(100, 150)),
        ("ts_one_frame_4s_ahead.ts", 2, 4, range(50, 100)),
        ("ts_one_frame_hours_ahead.ts", 2, 4, range(50, 100)),
        ("ts_start_1.4.ts", 0, 2, range(50)),
        ("ts_pts_wrap.ts", 0, 2, range(50)),
    ],
)
def test_ranges_on_the_clock_of_the_first_frame(reports, decode, clip_row, name, start, end, frames):
    assert decode(clip_row(reports / "v" / name, start_s=start, end_s=end)).frames == list(frames)


def test_the_clock_of_the_stream(reports, decode, clip_row):
    clip = clip_row(reports / "v/ts_start_1.4.ts", start_s=1.48, end_s=1.6)
    ours = decode(clip, clock="stream")
    assert (ours.frames, ours.times) == ([0, 1, 2], [1.48, 1.52, 1.56])


def test_uneven_and_shared_times_stay(reports, decode):
    times = decode(reports / "v/mkv_duplicate_times.mkv").times
    assert times == pytest.approx([0.08 * (i // 2) for i in range(40)])
    assert decode(reports / "v/webm_chrome_irregular.webm").times[:4] == pytest.approx([0, 0.009, 0.023, 0.041])


@pytest.mark.parametrize(("name", "rate"), [("fps2398.mp4", 24000 / 1001), ("fps60.mp4", 60)])
@pytest.mark.parametrize("printed", ["{:.6f}", "{:.3f}", "{:.2f}", "float32"])
def test_bounds_as_they_are_printed(reports, decode, clip_row, name, rate, printed):
    for first in range(0, 110, 10):
        bounds = [first / rate, (first + 10) / rate]
        start, end = (float(np.float32(b)) if printed == "float32" else float(printed.format(b)) for b in bounds)
        clip = clip_row(reports / "r" / name, start_s=start, end_s=end)
        assert decode(clip).frames == list(range(first, first + 10))


def _clips(folder, **sources):
    config = Config.model_validate({"sources": sources})
    return read_corpus(str(folder / "info.json"), config).clips.to_pylist()


@pytest.mark.parametrize(
    ("folder", "frames"),
    [
        ("plain", [range(13, 38), range(50, 75)]),
        ("two_people_one_scene", [range(13, 38)]),
        ("past_the_end", [range(88, 100), []]),
        ("celebvtext_pixels", [range(41)]),
        ("celebvtext_readme", [range(41), range(8, 47)]),
        ("one_end_equal", [range(13, 38), None]),
        ("sound_beside_video", [range(13, 38), range(50, 75)]),
        ("wav_of_cut_clip", [range(13, 38), range(50, 75)]),
    ],
)
def test_celebv(reports, decode, folder, frames):
    clips = _clips(reports / "celebv" / folder)
    assert len(clips) == len(frames)
    for clip, expected in zip(clips, frames, strict=True):
        ours = decode(clip)
        if expected is None:
            assert ours.error["error_class"] == "bad_range"
            assert "info.json, line 1, clip 'AAA_1'" in ours.error["message"]
        else:
            assert (ours.error, ours.frames) == (None, list(expected))
    if folder == "past_the_end":
        assert no_frame(ours.video["length"]).endswith("it is 4.00 s long")


def test_manifests(reports, decode):
    config = Config()
    with pytest.raises(ManifestError, match=r"column 'start'.*'start_s'"):
        read_corpus(str(reports / "m/header_other.csv"), config)
    with pytest.raises(ManifestError, match=r"line 2, column 'start_s'"):
        read_corpus(str(reports / "m/hhmmss.csv"), config)
    clips = read_corpus(str(reports / "m/overlap.csv"), config).clips.to_pylist()
    assert [decode(clip).video["start_time"] for clip in clips] == [0.0, 1.0]
