"""The tables of an MP4 give the packets that reading all of it gives, or are refused; a late range reads little."""

import itertools
import struct
import sys
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest

from pipeline.config.models import DecodeConfig
from pipeline.decode.chunking import Request
from pipeline.decode.decoder import Effort, decode_clip, decode_video
from pipeline.decode.index import NotIndexedError, scan
from pipeline.decode.mp4_index import read_tables
from pipeline.decode.open import SharedFile, open_video
from pipeline.errors import ClipError

sys.path.append(str(Path(__file__).parent))
from made_videos import FRAMES, HEIGHT, KINDS, WIDTH, encode, picture

MP4 = (".mp4", ".mov")
#: (container's suffix, options of the muxer, options of x264, with sound) beside made_videos.KINDS
MUXED = {
    "plain": ("mp4", {}, {"g": "20", "bf": "3"}, False),
    "sound": ("mp4", {}, {"g": "20", "bf": "3"}, True),
    "sound_faststart": ("mov", {"movflags": "faststart"}, {"g": "20", "bf": "3"}, True),
    "negative_offsets": ("mp4", {"movflags": "negative_cts_offsets"}, {"g": "20", "bf": "3"}, False),
    "no_edit_list": ("mp4", {"use_editlist": "0"}, {"g": "20", "bf": "3"}, False),
    "open_gop": ("mp4", {}, {"g": "20", "bf": "3", "x264-params": "open-gop=1:b-pyramid=normal"}, False),
    "open_gop_mov": ("mov", {}, {"g": "20", "bf": "3", "x264-params": "open-gop=1"}, False),
    "intra_refresh": ("mp4", {}, {"g": "20", "x264-params": "intra-refresh=1"}, False),
    "late": ("mp4", {"avoid_negative_ts": "disabled"}, {"g": "20", "bf": "2"}, False),
    "fragmented": ("mp4", {"movflags": "frag_keyframe+empty_moov"}, {"g": "20"}, False),
    "fragmented_moov": ("mp4", {"movflags": "frag_keyframe"}, {"g": "20"}, False),
}
REFUSED = {"fragmented", "fragmented_moov"}


def mux(path, kind, frames=FRAMES, scale=1, **encoder):
    suffix, container_options, options, sound = MUXED[kind]
    path = path.with_suffix(f".{suffix}")
    with av.open(str(path), "w", container_options=container_options) as out:
        stream = out.add_stream("libx264", rate=25, options={"threads": "1", **options, **encoder})
        stream.width, stream.height, stream.pix_fmt = WIDTH * scale, HEIGHT * scale, "yuv420p"
        audio = out.add_stream("aac", rate=48_000, layout="mono") if sound else None
        for index in range(frames):
            image = np.tile(picture(index), (scale, scale, 1))
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = index + (50 if kind == "late" else 0), Fraction(1, 25)
            out.mux(stream.encode(frame))
            if audio is not None:
                samples = np.random.default_rng(index).normal(0, 0.2, (1, 1920)).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
                piece.sample_rate, piece.pts, piece.time_base = 48_000, 1920 * index, Fraction(1, 48_000)
                out.mux(audio.encode(piece))
        for each in (stream, audio):
            out.mux(each.encode(None) if each is not None else [])
    return path


def _both(path, clip_row):
    """(packets that reading gives, packets that the tables give); None: refused."""
    given = []
    with closing(SharedFile(clip_row(path), None)) as shared:
        for read in (lambda video: scan(video.container, video.stream), lambda video: read_tables(shared, video)):
            with ExitStack() as stack:
                try:
                    given.append(read(open_video(clip_row(path), DecodeConfig(), shared, stack)))
                except NotIndexedError:
                    given.append(None)
    return given


def _assert_equal_or_refused(path, clip_row):
    scanned, tables = _both(path, clip_row)
    if tables is not None:
        assert scanned is not None
        for name, values in vars(scanned).items():
            assert np.array_equal(values, getattr(tables, name)), (path, name)
    return tables is not None


def test_the_tables_of_the_shared_files(data, clip_row):
    taken = 0
    for path in [path for folder in ("videos", "odd", "reports/video") for path in sorted((data / folder).rglob("*"))]:
        if path.suffix in MP4:
            try:
                taken += _assert_equal_or_refused(path, clip_row)
            except ClipError:  # cannot be opened
                continue
    assert taken > 30


@pytest.mark.parametrize("kind", [kind for kind in KINDS if f".{KINDS[kind][1]}" in MP4])
def test_the_tables_of_every_codec(kind, tmp_path, clip_row):
    path = encode(tmp_path / kind, kind)
    if path is None:
        pytest.skip("no encoder")
    assert _assert_equal_or_refused(path, clip_row)


@pytest.mark.parametrize("kind", MUXED)
def test_the_tables_of_every_way_to_write_them(kind, tmp_path, clip_row):
    assert _assert_equal_or_refused(mux(tmp_path / kind, kind), clip_row) == (kind not in REFUSED)


def _box(data, *path):
    """Where the content of a box begins, by its path in moov."""
    at = 0
    for kind in path:
        at = data.index(kind, at) + 4
    return at


def _changed(path, tmp_path, change):
    data = bytearray(path.read_bytes())
    change(data)
    changed = tmp_path / f"changed{path.suffix}"
    changed.write_bytes(data)
    return changed


def _rename(kind, new):
    def change(data):
        at = _box(data, b"moov", kind) - 4
        data[at : at + 4] = new

    return change


def _write(kind, offset, value):
    def change(data):
        struct.pack_into(">I", data, _box(data, b"moov", kind) + offset, value)

    return change


CHANGES = {
    "no keyframes named": _rename(b"stss", b"free"),
    "no offsets": _rename(b"ctts", b"free"),
    "offsets of fewer samples": _write(b"ctts", 8, 0),
    "fewer sizes": _write(b"stsz", 8, 50),
    "an empty sample": _write(b"stsz", 12 + 4 * 30, 0),
    "a sample too long": _write(b"stsz", 12 + 4 * 30, 1 << 24),
    "an edit that ends early": _write(b"elst", 8, 1000),
    "an edit that begins late": _write(b"elst", 12, 15_000),
    "an edit at another rate": _write(b"elst", 16, 2 << 16),
    "a jump of decode time": _write(b"stts", 12, 0),
    "another track": _write(b"tkhd", 12, 7),
    "fragments announced": _rename(b"udta", b"mvex"),
    "a chunk behind the end": _write(b"stco", 8, 1 << 30),
}


MADE_UP_KEY = _write(b"stss", 8 + 4 * 3, 65)  # a P-picture, instead of sample 61


@pytest.mark.parametrize("change", CHANGES)
def test_tables_that_are_changed(change, tmp_path, clip_row):
    path = _changed(mux(tmp_path / "plain", "plain"), tmp_path, CHANGES[change])
    try:
        _assert_equal_or_refused(path, clip_row)
    except ClipError:
        assert change == "a chunk behind the end"


def test_a_keyframe_that_the_tables_make_up_is_found_out_and_the_packets_are_read(tmp_path, clip_row):
    path = _changed(mux(tmp_path / "plain", "plain"), tmp_path, MADE_UP_KEY)
    effort = Effort()
    items = decode_video([Request(clip_row(path, start_s=2.7, end_s=2.9))], DecodeConfig(), effort=effort)
    assert [row[1]["frames"] for row in items if type(row) is tuple] == [[68, 69, 70, 71, 72]]
    assert (effort.indexed, effort.decoded < 2 * 20 + 2 * 32 + 20) == (2, True)


@pytest.mark.parametrize("change", [None, *CHANGES, "a keyframe that is none"])
def test_ranges_are_exact_whatever_the_tables_say(change, tmp_path, clip_row):
    path = mux(tmp_path / "plain", "plain")
    if change == "a keyframe that is none":
        path = _changed(path, tmp_path, MADE_UP_KEY)
    elif change is not None:
        path = _changed(path, tmp_path, CHANGES[change])
    whole = list(decode_clip(clip_row(path), DecodeConfig()))
    planes = [plane for row in whole if row["frames"] for plane in row["planes"].reshape(len(row["frames"]), -1)]
    times = list(itertools.chain.from_iterable(row["times"] for row in whole))
    for low, high in ((2.1, 2.3), (2.5, 3.3), (2.9, 3.1)):
        rows = list(decode_clip(clip_row(path, start_s=low, end_s=high), DecodeConfig()))
        expected = [number for number, time in enumerate(times) if low - 0.01 <= time < high - 0.01]
        got = [number for row in rows for number in row["frames"]]
        if whole[-1]["error"] is None or got:
            assert got == expected or not expected
        found = [plane for row in rows if row["frames"] for plane in row["planes"].reshape(len(row["frames"]), -1)]
        assert all((plane == planes[number]).all() for number, plane in zip(got, found, strict=True))


@pytest.fixture
def counted(monkeypatch):
    """Bytes that are fetched of files in fsspec's memory, in blocks as of remote ones."""
    fetched = []

    class Remote(fsspec.spec.AbstractBufferedFile):
        def _fetch_range(self, start, end):
            fetched.append(end - start)
            return self.fs.store[self.path].getvalue()[start:end]

    memory = fsspec.get_filesystem_class("memory")
    plain = memory._open

    def open_remote(self, path, mode="rb", **settings):
        if mode != "rb":
            return plain(self, path, mode, **settings)
        return Remote(
            self, path, mode, **{name: settings[name] for name in ("block_size", "cache_type", "cache_options")}
        )

    monkeypatch.setattr(memory, "_open", open_remote)
    return fetched


def test_a_late_range_fetches_its_own_bytes(counted, tmp_path, clip_row, monkeypatch):
    block = 64 << 10
    # smaller as the video is; together they hold its head and its tables, as those in use do
    monkeypatch.setattr("pipeline.storage.fs.open_bytes.__defaults__", (None, block, 32))
    path = mux(tmp_path / "long", "sound", frames=1000, scale=4, preset="ultrafast", crf="18")
    data = path.read_bytes()
    fsspec.filesystem("memory").pipe_file("/long.mp4", data)
    low, high, size = 37.0, 39.0, len(data)
    effort = Effort()
    clip = {**clip_row(path), "uri": "memory://long.mp4", "start_s": low, "end_s": high}
    remote = [item[1] for item in decode_video([Request(clip)], DecodeConfig(), effort=effort) if type(item) is tuple]
    assert remote[-1]["error"] is None
    local = list(decode_clip(clip_row(path, start_s=low, end_s=high), DecodeConfig()))
    assert [row["frames"] for row in remote] == [row["frames"] for row in local]
    assert sum(len(row["frames"]) for row in remote) == 50
    assert all((one["planes"] == other["planes"]).all() for one, other in zip(remote, local, strict=True))

    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    # decoding begins at frame 920, a keyframe; and the first frames are decoded once, to check the tables
    its_own = packets[979][0] + packets[979][1] - packets[920][0] + packets[40][0]
    moov = int.from_bytes(data[_box(data, b"moov") - 8 :][:4], "big")
    assert size > 10_000_000
    # each of the three places begins and ends within a block
    assert sum(counted) <= its_own + moov + 6 * block
    assert sum(counted) < 0.15 * size
    # it is opened four times, and FFmpeg looks at the first frames each time; these are in memory
    assert its_own < effort.bytes_read < 0.15 * size
