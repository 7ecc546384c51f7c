"""Manifests: good lines become clips, a wrong line is named, a missing file is left to the decoder."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.models import Config
from pipeline.corpus.discover import read_corpus
from pipeline.errors import ConfigError, ManifestError
from pipeline.schema import CLIP
from pipeline.storage import fs as files

LINES = [
    {"uri": "v/a.mp4", "start_s": 1.5, "end_s": 3.0, "key": "first", "note": "left out"},
    {"uri": "v/a.mp4", "start_s": None, "end_s": 2.0, "key": None, "note": None},
    {"uri": "s.tar", "member": "m/x.mp4", "key": "in tar"},
    {"uri": "gone.mp4"},
    {"uri": "memory://nowhere/b.mp4", "end_s": 1.0},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"video")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("m/x.mp4")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return tmp_path


def write(path, lines):
    """Write dicts as a manifest of the path's kind."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{name: line.get(name) for name in names} for line in lines]), path)
    elif path.suffix == ".csv":
        cells = [["" if line.get(name) is None else str(line[name]) for name in names] for line in lines]
        path.write_text("\n".join(",".join(row) for row in [names, *cells]) + "\n")
    else:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rows(path, **settings):
    return read_corpus(str(path), Config.model_validate({"sources": settings})).clips.to_pylist()


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "ndjson"])
def test_all_kinds_give_the_same_clips(folder, suffix):
    path = write(folder / f"list.{suffix}", LINES)
    corpus = read_corpus(str(path), Config())
    assert corpus.clips.schema.equals(CLIP, check_metadata=True)
    assert corpus.ignored == []
    clips = corpus.clips.to_pylist()
    assert [clip["key"] for clip in clips] == ["first", "a", "in tar", "gone", "b"]
    assert clips[0]["uri"] == f"file://{folder}/v/a.mp4"
    assert [(clip["start_s"], clip["end_s"]) for clip in clips[:3]] == [(1.5, 3.0), (None, 2.0), (None, None)]
    assert clips[0]["clip_id"] == files.clip_id(clips[0]["uri"], None, 1.5, 3.0)
    assert (clips[2]["member"], clips[2]["size"]) == ("m/x.mp4", 3)
    with files.open_clip(clips[2]) as file:
        assert file.read() == b"abc"
    assert [clip["fingerprint"] is None for clip in clips] == [False, False, False, True, True]
    assert clips[0]["fingerprint"] == clips[1]["fingerprint"]
    assert len({clip["shard"] for clip in clips}) == 1


def test_missing_file_is_quarantined_by_the_decoder(folder, decode):
    path = write(folder / "list.csv", [{"uri": "gone.mp4", "member": ""}, {"uri": "gone.tar", "member": "a.mp4"}])
    for clip in rows(path):
        assert decode(clip).error["error_class"] == "missing_file"


def test_file_and_folder_listing_agree(folder):
    path = write(folder / "list.csv", [{"uri": str(folder / "v" / "a.mp4")}])
    listed, found = rows(path)[0], rows(folder / "v")[0]
    assert {**listed, "shard": None} == {**found, "shard": None}


def test_shards_are_slices_unless_given(folder):
    lines = [{"uri": f"{i}.mp4"} for i in range(5)]
    shards = [clip["shard"] for clip in rows(write(folder / "my list.csv", lines), clips_per_shard=2)]
    assert [shard[-5:] for shard in shards] == ["00000", "00000", "00001", "00001", "00002"]
    assert all(shard.startswith("my_list-") for shard in shards)
    for line, shard in zip(lines, ("day-1", "day/2", "day 2", None, 7), strict=True):
        line["shard"] = shard
    given = [clip["shard"] for clip in rows(write(folder / "given.jsonl", lines), clips_per_shard=2)]
    assert (given[0], given[4]) == ("day-1", "7")
    assert given[1].startswith("day_2-")
    assert given[1] != given[2]
    assert given[3].endswith("-00001")


WRONG = [  # lines, line or row number of the wrong one in the file without a header, column, words
    ([{"url": "a.mp4"}], None, "uri", "did you mean 'url'"),
    ([{"uri": "a.mp4"}, {"uri": "", "key": "x"}], 2, "uri", "empty"),
    ([{"uri": "a.mp4", "start_s": "soon"}], 1, "start_s", "'soon'"),
    ([{"uri": "a.mp4", "start_s": "-1"}], 1, "start_s", "'-1'"),
    ([{"uri": "a.mp4", "end_s": "nan"}], 1, "end_s", "'nan'"),
    ([{"uri": "a.mp4", "end_s": "inf"}], 1, "end_s", "'inf'"),
    ([{"uri": "b.mp4"}, {"uri": "a.mp4", "start_s": "2", "end_s": "2"}], 2, "end_s", "not after"),
    ([{"uri": "a.mp4", "end_s": "0"}], 1, "end_s", "not after"),
    ([{"uri": "a.mp4", "member": "x.mp4"}], 1, "member", ".tar"),
    ([{"uri": "s.tar"}], 1, "member", "empty"),
    ([{"uri": "s.tar", "member": "y.mp4"}], 1, "member", "no member 'y.mp4'"),
    (
        [{"uri": "v/a.mp4", "end_s": "1"}, {"uri": "x.mp4"}, {"uri": "./v/a.mp4", "end_s": "1.0"}],
        3,
        "uri",
        "the same clip",
    ),
    ([{"uri": "nosuch://a/b.mp4"}], 1, "uri", "Protocol not known"),
]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(("lines", "number", "column", "words"), WRONG)
def test_wrong_line_is_named(folder, suffix, lines, number, column, words):
    path = write(folder / f"list.{suffix}", lines)
    with pytest.raises(ManifestError) as error:
        rows(path)
    message = str(error.value)
    assert f"list.{suffix}" in message
    assert f"column '{column}'" in message
    assert words in message
    if number is not None:
        place = {"parquet": f"row {number}", "csv": f"line {number + 1}", "jsonl": f"line {number}"}[suffix]
        assert f", {place}," in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "first line must name the columns"),
        ("a.csv", b"uri,key\na.mp4,x\nb.mp4\n", "line 3: 1 values, but the header names 2 columns"),
        ("a.csv", b"uri,uri\na.mp4,x\n", "line 1, column 'uri': named twice"),
        ("a.csv", b'uri\n"a.mp4\n', "not CSV"),
        ("a.csv", b"uri\n\xff.mp4\n", "not UTF-8"),
        ("a.csv", b"uri\n", "names no clip"),
        ("a.csv", b'uri,key\na.mp4,"two\nlines"\n,x\n', "line 4, column 'uri': empty"),
        ("a.jsonl", b'{"uri": "a.mp4"}\n\n{"uri"\n', "line 3: not JSON"),
        ("a.jsonl", b'["a.mp4"]\n', "line 1: must be an object"),
        ("a.jsonl", b'{"uri": 7}\n', "line 1, column 'uri': not a path: 7"),
        ("a.jsonl", b'{"uri": "a.mp4", "start_s": true}\n', "line 1, column 'start_s'"),
        ("a.jsonl", b'{"uri": "a.mp4", "start_s": [1]}\n', "line 1, column 'start_s'"),
        ("a.parquet", b"no parquet", "cannot be read as Parquet"),
    ],
)
def test_malformed_file(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        rows(tmp_path / name)
    assert words in str(error.value)


def test_csv_of_a_spreadsheet(folder):
    (folder / "list.csv").write_bytes(b'\xef\xbb\xbfuri, start_s ,key\r\n"v/a.mp4", 1 ,"x, y"\r\n\r\nv/a.mp4,2,z\r\n')
    assert [(clip["key"], clip["start_s"]) for clip in rows(folder / "list.csv")] == [("x, y", 1.0), ("z", 2.0)]


def test_remote_manifest_is_relative_to_its_folder():
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe({"/lists/one.csv": b"uri\n../v/a.mp4\n", "/v/a.mp4": b"12345"})
    [clip] = read_corpus("memory://lists/one.csv", Config()).clips.to_pylist()
    assert clip["uri"] == "memory://v/a.mp4"
    assert clip["size"] == 5


# -- CelebV -----------------------------------------------------------------------------------------------------------


def celebv(folder, **clips):
    path = folder / "celebv.json"
    path.write_text(json.dumps({"meta_info": {}, "clips": clips}))
    return path


def entry(ytb_id="yt1", start=10.0, end=12.5, **more):
    box = {"top": 0.1, "bottom": 0.6, "left": 0.25, "right": 0.5}
    return {"ytb_id": ytb_id, "duration": {"start_sec": start, "end_sec": end}, "bbox": box, "version": "v0.1", **more}


def test_celebv_finds_cut_clips_full_videos_and_neither(tmp_path, decode):
    for name in ("yt1.webm", "sub/yt1_1.mp4", "yt1.jpg", ".yt9.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(b"x")
    path = celebv(tmp_path, yt1_0=entry(), yt1_1=entry(), yt9_0=entry("yt9", attributes={"appearance": []}))
    full, cut, missing = rows(path, videos=str(tmp_path / "videos"))
    assert [clip["key"] for clip in (full, cut, missing)] == ["yt1_0", "yt1_1", "yt9_0"]
    assert full["uri"] == f"file://{tmp_path}/videos/yt1.webm"
    assert (full["start_s"], full["end_s"]) == (10.0, 12.5)
    assert full["bbox"] == pytest.approx([0.25, 0.1, 0.5, 0.6])
    assert cut["uri"] == f"file://{tmp_path}/videos/sub/yt1_1.mp4"
    assert (cut["start_s"], cut["end_s"], cut["bbox"]) == (None, None, None)
    assert missing["uri"] == f"file://{tmp_path}/videos/yt9.mp4"
    assert missing["fingerprint"] is None
    assert decode(missing).error["error_class"] == "missing_file"
    assert len({clip["clip_id"] for clip in (full, cut, missing)}) == 3


def test_celebv_clips_of_the_same_frames_are_one(tmp_path):
    (tmp_path / "yt1.mp4").write_bytes(b"x")
    path = celebv(tmp_path, left=entry(), right=entry(bbox=None), later=entry(start=11.0))
    corpus = read_corpus(str(path), Config())
    assert corpus.clips["key"].to_pylist() == ["left", "later"]
    assert corpus.ignored == [f"file://{path}!right"]


def test_celebv_looks_beside_the_json_and_is_sliced(tmp_path):
    (tmp_path / "yt1.mp4").write_bytes(b"x")
    clips = rows(celebv(tmp_path, **{f"c{i}": entry(start=i, end=i + 1) for i in range(3)}), clips_per_shard=2)
    assert [clip["shard"][-5:] for clip in clips] == ["00000", "00000", "00001"]
    assert all(clip["shard"].startswith("celebv-") for clip in clips)
    assert all(clip["fingerprint"] for clip in clips)


@pytest.mark.parametrize("clip", [{"ytb_id": ""}, "text", entry("a/b")])
def test_celebv_without_the_name_of_a_video_stops_the_run(tmp_path, clip):
    with pytest.raises(ManifestError, match=r"celebv\.json, clip 'bad', column 'ytb_id'"):
        rows(celebv(tmp_path, good=entry(), bad=clip))


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (entry(duration=None), "column 'duration'"),
        (entry(end=10.0), "end_sec=10.0 is not after start_sec=10.0"),
        (entry(start=-1), "column 'duration.start_sec'"),
        (entry(bbox={"top": 0}), "column 'bbox'"),
    ],
)
def test_a_bad_clip_of_celebv_is_set_aside_with_its_line(tmp_path, clip, words, decode):
    path = celebv(tmp_path, good=entry(), bad=clip, other=entry(start=20.0, end=30.0))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    good, bad, other = rows(path)
    assert (good["problem"], other["problem"]) == (None, None)
    line = path.read_text().splitlines().index('  "bad": {') + 1
    assert f"celebv.json, line {line}, clip 'bad', column" in bad["problem"]
    assert words in bad["problem"]
    assert len({clip["clip_id"] for clip in (good, bad, other)}) == 3
    error = decode(bad).error
    assert (error["error_class"], error["message"], error["stage"]) == ("bad_range", bad["problem"], "open")


def test_celebv_ranges_by_other_keys(tmp_path):
    seconds = entry(duration={"start_frame": 0.29, "end_frame": 1.88})
    frames = entry(duration={"start_frame": 25, "end_frame": 50})
    first, second = rows(celebv(tmp_path, a=seconds, b=frames))
    assert (first["start_s"], first["end_s"], first["start_frame"]) == (0.29, 1.88, None)
    assert (second["start_s"], second["start_frame"], second["end_frame"]) == (None, 25, 50)


def test_celebv_prefers_a_video_to_sound_of_its_name(tmp_path):
    for name in ("yt1.m4a", "yt1.mp4", "yt2.mp4", "yt2.wav", "c_0.wav", "only.m4a"):
        (tmp_path / name).write_bytes(b"x")
    clips = rows(celebv(tmp_path, a_0=entry("yt1"), b_0=entry("yt2"), c_0=entry("yt2", start=11.0), d_0=entry("only")))
    assert [clip["uri"].rsplit("/", 1)[1] for clip in clips] == ["yt1.mp4", "yt2.mp4", "yt2.mp4", "only.m4a"]
    assert clips[2]["start_s"] == 11.0


@pytest.mark.parametrize(("column", "meant"), [("start", "start_s"), ("begin", "start_s"), ("end", "end_s")])
def test_columns_that_look_like_a_range_are_an_error(tmp_path, column, meant):
    path = tmp_path / "list.csv"
    path.write_text(f"uri,{column}\na.mp4,1\n")
    with pytest.raises(ManifestError, match=f"column '{column}'.*rename it to '{meant}'"):
        rows(path)


def test_a_range_by_frames(tmp_path, make_video, decode):
    video = make_video(tmp_path / "a.mp4", count=20)
    path = tmp_path / "list.csv"
    path.write_text("uri,start_frame,end_frame\na.mp4,5,8\na.mp4,15,\n")
    clips = rows(path)
    assert [decode({**clip, "uri": video.as_uri()}).frames for clip in clips] == [[5, 6, 7], [15, 16, 17, 18, 19]]
    assert clips[0]["clip_id"] != clips[1]["clip_id"]
    path.write_text("uri,start_frame,end_frame\na.mp4,5,5\n")
    with pytest.raises(ManifestError, match="line 2, column 'end_frame'"):
        rows(path)
    path.write_text("uri,start_frame,end_frame\na.mp4,1.5,5\n")
    with pytest.raises(ManifestError, match="line 2, column 'start_frame'"):
        rows(path)


def test_other_json_and_missing_folder(tmp_path):
    (tmp_path / "a.json").write_text('[{"uri": "a.mp4"}]')
    with pytest.raises(ManifestError, match=r"not a CelebV JSON.*\.jsonl"):
        rows(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"set sources\.videos"):
        rows(celebv(tmp_path, a=entry()), videos=str(tmp_path / "nowhere"))


# -- VoxCeleb ---------------------------------------------------------------------------------------------------------

VOXCELEB = """Identity  : \tid00012
Reference : \t21Uxsk56VDQ
Offset    : \t-4
FV Conf   : \t7.241\t(1)
ASD Conf  : \t4.482

FRAME \tX \tY \tW \tH
000050 \t0.392 \t0.143 \t0.250 \t0.250
000051 \t0.400 \t0.140 \t0.250 \t0.250

"""


def test_voxceleb_is_the_time_of_its_frames_at_25_per_second(tmp_path, make_video, decode):
    make_video(tmp_path / "21Uxsk56VDQ.mp4", count=80)
    path = tmp_path / "00001.txt"
    path.write_text(VOXCELEB + VOXCELEB.replace("00005", "00006"))
    first, second = read_corpus(str(path), Config()).clips.to_pylist()
    assert (first["start_s"], first["end_s"], first["key"]) == (2.0, 2.08, "id00012/21Uxsk56VDQ/00000")
    assert first["bbox"] == pytest.approx([0.392, 0.14, 0.65, 0.393])
    assert decode(first).frames == [50, 51]
    assert decode(second).frames == [60, 61]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (VOXCELEB.replace("0.143", "x"), "line 8: must be FRAME X Y W H"),
        (VOXCELEB.replace("21Uxsk56VDQ", "../a"), "line 1: 'Reference'"),
        ("Identity : a\n", "line 1: not a list of VoxCeleb"),
    ],
)
def test_a_wrong_line_of_voxceleb_is_named(tmp_path, text, words):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ManifestError, match=words):
        read_corpus(str(tmp_path / "list.txt"), Config())
