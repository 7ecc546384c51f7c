"""Sources: every file is a clip or is reported, with a name that lasts and an address that can be read."""

import io
import json
import os
import tarfile
import uuid
from pathlib import Path

import fsspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config.models import Config
from pipeline.corpus import tar_index
from pipeline.corpus.discover import read_corpus
from pipeline.errors import ClipError, ConfigError
from pipeline.schema import CLIP
from pipeline.storage import fs as files

CONFIG = Config()


def rows(corpus, config=CONFIG):
    return read_corpus(str(corpus), config).clips.to_pylist()


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def write_tar(path, members, extra=()):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


@pytest.fixture
def memory():
    """An empty folder on a remote-like file system: (file system, URI)."""
    folder = f"/sources-{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    fs.mkdir(folder)
    yield fs, folder, f"memory:/{folder}"
    fs.rm(folder, recursive=True)


# -- folders, files, globs --------------------------------------------------------------------------------------------


def test_files_are_clips_by_their_names_whatever_they_hold(tmp_path):
    kinds = ["3gp", "asf", "avi", "flv", "h264", "h265", "m2ts", "m4v", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg"]
    kinds += ["mts", "mxf", "ogv", "ts", "vob", "webm", "wmv"]
    folder = fill(tmp_path, *(f"a-{kind}_1.5s.{kind}" for kind in kinds), "sound.mp4.audio.mp3", "UPPER.MP4")
    (folder / "zero.mp4").touch()
    corpus = read_corpus(str(folder), CONFIG)
    count = len(kinds) + 3
    assert corpus.clips.num_rows == count
    assert corpus.ignored == []
    assert corpus.clips.schema.equals(CLIP, check_metadata=True)
    assert len(set(corpus.clips["clip_id"].to_pylist())) == count
    assert len(set(corpus.clips["shard"].to_pylist())) == 1


def test_folder_is_read_recursively_and_the_rest_is_reported(tmp_path):
    fill(tmp_path, "b.MP4", "a/x.webm", "a/c/y.h265", "a/sound.mp3")
    fill(tmp_path, "p.jpg", "a/t.txt", "noext", ".hidden.mp4", ".cache/z.mp4", "__MACOSX/._b.mp4")
    corpus = read_corpus(str(tmp_path), CONFIG)
    clips = corpus.clips.to_pylist()
    assert [clip["key"] for clip in clips] == ["a/c/y", "a/sound", "a/x", "b"]
    assert [clip["uri"] for clip in clips][-1] == f"file://{tmp_path}/b.MP4"
    assert [clip["size"] for clip in clips] == [10, 11, 8, 5]
    shards = [clip["shard"] for clip in clips]
    assert shards[1] == shards[2]
    assert len(set(shards)) == 3
    assert [shard[:-7] for shard in shards] == ["a_c", "a", "a", tmp_path.name]
    ignored = {name.removeprefix(f"file://{tmp_path}/") for name in corpus.ignored}
    assert ignored == {"p.jpg", "a/t.txt", "noext", ".hidden.mp4", ".cache/z.mp4", "__MACOSX/._b.mp4"}


def test_path_relative_path_and_uri_are_one_clip(tmp_path, monkeypatch):
    fill(tmp_path, "v/a.mp4")
    monkeypatch.chdir(tmp_path)
    names = [
        "v/a.mp4",
        "./v/../v/a.mp4",
        str(tmp_path / "v/a.mp4"),
        f"file://{tmp_path}/v/a.mp4",
        "v",
        f"file://{tmp_path}/v/",
    ]
    clips = [rows(name) for name in names]
    assert all(clip == clips[0] for clip in clips)
    assert clips[0][0]["key"] == "a"


def test_folder_named_with_wildcards_and_hidden_parents_is_a_folder(tmp_path):
    folder = fill(tmp_path / ".data" / "take [1]*", "a.mp4", "b::c.mp4", "100%25.mp4")
    assert [clip["key"] for clip in rows(folder)] == ["100%25", "a", "b::c"]
    for clip in rows(folder):
        with files.open_clip(clip) as file:
            assert file.read().decode() == clip["key"] + ".mp4"


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("*.mp4", ["a", "b"]),
        ("**/*.mp4", ["a", "b", "d/c"]),
        ("d/*", ["c"]),
        ("[ab].mp4", ["a", "b"]),
        ("?.webm", ["e"]),
    ],
)
def test_glob(tmp_path, memory, pattern, keys):
    fill(tmp_path, "a.mp4", "b.mp4", "d/c.mp4", "e.webm", "d/t.txt")
    fs, folder, uri = memory
    fs.put(str(tmp_path) + "/", folder + "/", recursive=True)
    for root in (tmp_path, uri):
        assert [clip["key"] for clip in rows(f"{root}/{pattern}")] == keys


def test_links_to_files_are_followed_for_size_and_change(tmp_path):
    fill(tmp_path, "real/a.bin")
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").symlink_to(tmp_path / "real" / "a.bin")
    (tmp_path / "v" / "gone.mp4").symlink_to(tmp_path / "nowhere")
    one, gone = rows(tmp_path / "v")
    os.utime(tmp_path / "real" / "a.bin", (1, 1))
    assert rows(tmp_path / "v")[0]["fingerprint"] == f"{one['size']}-1.0"
    assert gone["fingerprint"] is None


def test_name_that_is_not_utf8_is_reported(tmp_path):
    fill(tmp_path, "a.mp4")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system refuses such names")
    corpus = read_corpus(str(tmp_path), CONFIG)
    assert corpus.clips.num_rows == 1
    assert corpus.ignored == [f"file://{tmp_path}/\\udcff.mp4"]


def test_remote_folder_tar_and_single_file(memory, tmp_path):
    fs, folder, uri = memory
    content = write_tar(tmp_path / "s.tar", [("x.mp4", b"abc"), ("x.json", b"{}")]).read_bytes()
    fs.pipe({f"{folder}/d/a.mp4": b"12345", f"{folder}/s.tar": content})
    corpus = read_corpus(uri, CONFIG)
    clips = corpus.clips.to_pylist()
    assert [(clip["uri"], clip["member"], clip["size"]) for clip in clips] == [
        (f"{uri}/d/a.mp4", None, 5),
        (f"{uri}/s.tar", "x.mp4", 3),
    ]
    assert corpus.ignored == [f"{uri}/s.tar!x.json"]
    assert rows(f"{uri}/d/a.mp4")[0]["clip_id"] == clips[0]["clip_id"]
    with files.open_clip(clips[1]) as file:
        assert file.read() == b"abc"


def test_changed_bytes_change_the_fingerprint_and_not_the_id(tmp_path):
    path = fill(tmp_path, "a.mp4") / "a.mp4"
    before = rows(tmp_path)[0]
    path.write_bytes(b"longer than it was")
    after = rows(tmp_path)[0]
    assert before["clip_id"] == after["clip_id"]
    assert before["fingerprint"] != after["fingerprint"]
    assert files.fingerprint({"size": 3, "ETag": '"abc"', "LastModified": 7}) == "3-abc"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "found no file"),
        (["a.jpg", "b.jpg", "c.txt"], "found 3 other files (2 x .jpg, 1 x .txt)"),
        (["list.csv"], "1 x .csv"),
    ],
)
def test_empty_corpus_says_what_was_found(tmp_path, names, words):
    fill(tmp_path, *names)
    with pytest.raises(ConfigError) as error:
        read_corpus(str(tmp_path), CONFIG)
    assert words in str(error.value)
    assert "A corpus is" in str(error.value)


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ("nowhere", "nowhere does not exist"),
        ("*.mp4", "found no file"),
        ("a.txt", "'.txt'"),
        ("nosuch://bucket/x", "Protocol not known"),
    ],
)
def test_corpus_that_is_none(tmp_path, monkeypatch, corpus, words):
    monkeypatch.chdir(fill(tmp_path, "a.txt"))
    with pytest.raises(ConfigError) as error:
        read_corpus(corpus, CONFIG)
    assert words in str(error.value)


# -- tars -------------------------------------------------------------------------------------------------------------


def test_tar_members_become_clips(tmp_path):
    long = "deep/" * 30 + "v.mp4"  # more than the 100 bytes of a plain tar name
    tar = write_tar(
        tmp_path / "shard-0.tar",
        [("./a.mp4", b"aa"), ("a.json", b"{}"), ("b.cls", b"1"), (long, b"deep"), ("c.wav", b"w"), (".x.mp4", b"")],
    )
    fill(tmp_path, "plain.mp4")
    corpus = read_corpus(str(tmp_path), CONFIG)
    clips = corpus.clips.to_pylist()
    assert [clip["key"] for clip in clips] == ["plain", "a", long[:-4], "c"]
    assert clips[1]["member"] == "./a.mp4"
    for clip, content in zip(clips[1:], (b"aa", b"deep", b"w"), strict=True):
        with files.open_clip(clip) as file:
            assert file.read() == content
        assert clip["shard"].startswith("shard-0-")
        assert clip["uri"] == f"file://{tar}"
    assert len({clip["fingerprint"] for clip in clips[1:]}) == 1
    assert corpus.ignored == [f"file://{tar}!{name}" for name in ("a.json", "b.cls", ".x.mp4")]
    assert rows(tar) == clips[1:]


def test_links_folders_and_ways_out_of_a_tar_are_ignored(tmp_path):
    link, folder = tarfile.TarInfo("link.mp4"), tarfile.TarInfo("dir.mp4")
    link.type, link.linkname, folder.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.DIRTYPE
    tar = write_tar(tmp_path / "t.tar", [("../up.mp4", b"x"), ("/abs.mp4", b"x"), ("ok.mp4", b"x")], [link, folder])
    corpus = read_corpus(str(tar), CONFIG)
    assert corpus.clips["member"].to_pylist() == ["ok.mp4"]
    assert sorted(corpus.ignored) == [f"file://{tar}!{n}" for n in ("../up.mp4", "/abs.mp4", "dir.mp4", "link.mp4")]


def test_of_two_members_with_one_name_the_later_counts(tmp_path):
    tar = write_tar(tmp_path / "t.tar", [("a.mp4", b"old"), ("a.mp4", b"newer")])
    corpus = read_corpus(str(tar), CONFIG)
    assert corpus.clips["size"].to_pylist() == [5]
    assert corpus.ignored == [f"file://{tar}!a.mp4"]


@pytest.mark.parametrize("damage", ["cut in a header", "cut in a member", "header overwritten", "not a tar", "empty"])
def test_damaged_tar_keeps_its_readable_members_and_a_row_that_explains(tmp_path, decode, damage):
    tar = write_tar(tmp_path / "t.tar", [("a.mp4", b"a" * 1000), ("b.mp4", b"b" * 1000)])
    content = tar.read_bytes()
    tar.write_bytes(
        {
            "cut in a header": content[:1700],
            "cut in a member": content[:2500],
            "header overwritten": content[:1536] + b"#" * 512 + content[2048:],
            "not a tar": b"hello" * 1000,
            "empty": b"",
        }[damage]
    )
    clips = rows(tar)
    assert [clip["member"] for clip in clips][-1] is None
    assert clips[-1]["key"] == "t"
    error = decode(clips[-1]).error
    assert error["error_class"] == ("empty_file" if damage == "empty" else "truncated")
    if damage == "cut in a member":
        assert decode(clips[1]).error["error_class"] == "truncated"
    assert len(clips) == {"cut in a header": 2, "cut in a member": 3, "header overwritten": 2}.get(damage, 1)


def test_listing_a_tar_does_not_read_its_contents(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "big.tar", [(f"{i}.mp4", bytes(1 << 20)) for i in range(20)])
    read = []

    class Counting(io.FileIO):
        def readinto(self, buffer):
            read.append(count := super().readinto(buffer))
            return count

    monkeypatch.setattr(tar_index, "open_bytes", lambda *_: Counting(tar))
    assert len(tar_index.list_members(f"file://{tar}").members) == 20
    assert sum(read) < 100_000


# -- names ------------------------------------------------------------------------------------------------------------

times = st.none() | st.floats(0, 1e6, allow_nan=False)
identities = st.tuples(st.text(), st.none() | st.text(), times, times)


@settings(deadline=None)
@given(one=identities, two=identities)
@example(one=("a", None, None, None), two=("a", "None", None, None))
@example(one=('a","b', None, None, None), two=("a", "b", None, None))
@example(one=("a", None, 1.0, None), two=("a", None, None, 1.0))
def test_clip_ids_differ_where_clips_do(one, two):
    assert (files.clip_id(*one) == files.clip_id(*two)) == (json.dumps(one) == json.dumps(two))
    assert len(files.clip_id(*one)) == 16


def test_clip_id_stays_what_it_is():
    assert files.clip_id("s3://bucket/a.mp4", None, 1, 2.5) == files.clip_id("s3://bucket/a.mp4", None, 1.0, 2.5)
    assert (
        files.clip_id("file:///v/a.mp4", None, None, None) == "c96b1c3f3139289a"
    )  # a change here makes every corpus stale


@settings(deadline=None)
@given(st.text(), st.text())
def test_shard_names_are_safe(label, uri):
    assert files.explicit_shard_name(files.shard_name(label, uri)) == files.shard_name(label, uri)


@pytest.mark.parametrize(
    ("value", "kept"), [("part-01.A_b", True), ("a/b", False), ("..", False), ("", False), ("ä", False)]
)
def test_explicit_shard_names_are_kept_when_safe(value, kept):
    assert (files.explicit_shard_name(value) == value) == kept
    assert files.explicit_shard_name("a/b") != files.explicit_shard_name("a b")


@pytest.mark.parametrize(
    ("folder", "relative", "uri"),
    [
        ("file:///d", "a.mp4", "file:///d/a.mp4"),
        ("file:///d/e", "../a.mp4", "file:///d/a.mp4"),
        ("s3://b/lists", "../v/a.mp4", "s3://b/v/a.mp4"),
        ("s3://b/lists", "s3://c/a.mp4", "s3://c/a.mp4"),
        ("s3://b/lists", "/abs/a.mp4", "file:///abs/a.mp4"),
        ("memory:///m", "v/a.mp4", "memory:///m/v/a.mp4"),
    ],
)
def test_join_uri(folder, relative, uri):
    assert files.join_uri(folder, relative) == uri


# -- reading ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, 45), st.integers(0, 45), st.lists(st.integers(0, 60), max_size=6))
def test_window_reads_like_the_slice(content, offset, size, seeks):
    window, slice_ = files.Window(io.BytesIO(content), offset, size), io.BytesIO(content[offset : offset + size])
    assert window.read() == slice_.read()
    for seek in seeks:
        assert window.seek(seek) == slice_.seek(seek)
        assert window.read(7) == slice_.read(7)
    assert window.seek(0, io.SEEK_END) == size
    window.close()


def test_closing_a_window_closes_its_file():
    file = io.BytesIO(b"abc")
    files.Window(file, 0, 2).close()
    assert file.closed


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({}, "missing_file"),
        ({"uri": "tar", "member": "x.mp4"}, "missing_file"),
        ({"uri": "empty"}, "empty_file"),
        ({"uri": "folder"}, "unreadable"),
        ({"uri": "tar", "member": "x.mp4", "offset": 512, "size": 10**6}, "truncated"),
    ],
)
def test_clip_that_cannot_be_opened(tmp_path, clip_row, columns, kind):
    write_tar(tmp_path / "tar", [("y.mp4", b"y")])
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    clip = clip_row(tmp_path / columns.pop("uri", "gone"), **columns)
    with pytest.raises(ClipError) as error:
        files.open_clip(clip)
    assert error.value.error_class == kind
    assert "Errno" not in str(error.value)
