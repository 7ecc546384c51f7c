import json
import subprocess
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

import pipeline
from pipeline import schema
from pipeline.errors import OutputError
from pipeline.storage.output import Output, open_output
from pipeline.tables import parquet


@pytest.fixture(params=["path", "file", "memory"])
def out(request, tmp_path):
    yield {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": "memory://store-test"}[request.param]
    fsspec.filesystem("memory").store.clear()


def chunk(clip, first=0, count=2, faces=1):
    entry = {"clip_id": clip, "fingerprint": "x", "first": first, "count": count, "faces": faces, "last": False}
    return pa.Table.from_pylist([entry], schema=parquet.LEDGER)


def face(clip, frame=0):
    key = {"clip_id": clip, "frame": frame, "face": 0, "time": 0.5, "points5": None, "sharpness": None}
    return {**key, "box_x1": 1.0, "box_y1": 2.0, "box_x2": 3.0, "box_y2": 4.0, "score": 0.9}


def write(output, *clips, shard="s", version="v1"):
    rows = pa.Table.from_pylist([face(clip) for clip in clips], schema=schema.slot_schema("face"))
    return parquet.write_chunk_file(output, "faces", version, shard, rows, pa.concat_tables([chunk(c) for c in clips]))


def test_written_chunks_are_read_back_with_their_shard_and_units(out):
    output = open_output(out)
    write(output, "a", "b")
    write(output, "c", shard="t")
    parquet.promote(output, {"faces": "v1"})
    table = pipeline.read_table(out, "faces")
    assert sorted(zip(table["clip_id"].to_pylist(), table["shard"].to_pylist(), strict=True)) == [
        ("a", "s"),
        ("b", "s"),
        ("c", "t"),
    ]
    assert table.schema.field("box_x1").metadata[b"unit"] == b"px"
    assert pipeline.read_table(out, "faces", ["clip_id"]).column_names == ["clip_id"]


def test_the_name_follows_from_the_chunks_in_any_order(out):
    output = open_output(out)
    assert write(output, "a", "b") == write(output, "b", "a")
    assert len(parquet.list_parquet(output, "faces")) == 1


def test_vectors_take_no_more_space_than_their_numbers(tmp_path):
    output = open_output(str(tmp_path))
    values = np.random.default_rng(0).standard_normal((200, 512), np.float32)
    rows = pa.Table.from_pylist(
        [{"clip_id": "a", "frame": i, "face": 0, "embedding": row.tolist()} for i, row in enumerate(values)],
        schema=schema.slot_schema("embeddings"),
    )
    path = parquet.write_chunk_file(output, "embeddings", "v1", "s", rows, chunk("a", count=200, faces=200))
    assert (tmp_path / path).stat().st_size < values.nbytes
    group = pq.read_metadata(tmp_path / path).row_group(0)
    dictionaries = {group.column(i).path_in_schema: group.column(i).has_dictionary_page for i in range(4)}
    assert dictionaries == {"clip_id": True, "frame": False, "face": False, "embedding.list.element": False}


def test_the_footer_is_the_ledger(out):
    output = open_output(out)
    path = write(output, "a", "b")
    ledger = parquet.read_ledger(output, "faces", "v1", "s")
    assert ledger["clip_id"].to_pylist() == ["a", "b"]
    assert set(ledger["path"].to_pylist()) == {path}


def test_dropping_a_clip_keeps_its_neighbours(out):
    output = open_output(out)
    write(output, "a", "b")
    parquet.drop_clips(output, "faces", "v1", "s", ["a"])
    assert parquet.read_ledger(output, "faces", "v1", "s")["clip_id"].to_pylist() == ["b"]
    assert parquet.read_version(output, "faces", "v1")["clip_id"].to_pylist() == ["b"]


def test_a_new_version_is_not_read_before_it_is_in_force(out):
    output = open_output(out)
    write(output, "a")
    parquet.promote(output, {"faces": "v1"})
    write(output, "b", version="v2")
    assert pipeline.read_table(out, "faces")["clip_id"].to_pylist() == ["a"]
    parquet.promote(output, {"faces": "v2"})
    assert pipeline.read_table(out, "faces")["clip_id"].to_pylist() == ["b"]


READ_AND_END = """
import sys, fsspec
from fsspec.implementations.dirfs import DirFileSystem
from pipeline.tables import parquet
fs = fsspec.filesystem("file")
output = parquet.Output(DirFileSystem("/", fs) if sys.argv[2] == "remote" else fs, sys.argv[1])
parquet.read_file(output, parquet.list_parquet(output, "faces")[0])
parquet.read_version(output, "faces", "v1", ["face"])
"""


@pytest.mark.parametrize("storage", ["local", "remote"])
def test_a_process_that_reads_and_ends_at_once_ends_well(tmp_path, storage):
    # Arrow's threads used to let go of Python's buffers while the interpreter was ending: abort, in half of all cases
    output = open_output(str(tmp_path))
    for shard in range(8):
        write(output, *[f"{shard}-{clip}" for clip in range(50)], shard=str(shard))
    command = [sys.executable, "-c", READ_AND_END, str(tmp_path), storage]
    ended = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(6)]
    assert [(done.returncode, done.stderr) for done in ended] == [(0, "")] * 6


def test_a_storage_of_any_kind_is_read_alike(tmp_path):
    local = open_output(str(tmp_path))
    write(local, "a", "b")
    remote = Output(DirFileSystem("/", LocalFileSystem()), local.root)
    assert parquet.read_version(remote, "faces", "v1").equals(parquet.read_version(local, "faces", "v1"))


def test_tables_of_other_faces_go_out_of_force(out):
    output = open_output(out)
    parquet.promote(output, {"faces": "v1", "gaze": "g1"})
    parquet.promote(output, {"gaze": "g2"})
    assert parquet.read_current(output) == {"faces": "v1", "gaze": "g2"}
    parquet.promote(output, {"faces": "v2"})
    assert parquet.read_current(output) == {"faces": "v2"}


def test_the_output_of_an_earlier_release_is_read_and_gets_the_new_format(out):
    output = open_output(out)
    file = output.path("current.json")
    output.fs.pipe_file(file, json.dumps({"faces": "v1", "gaze": "g1"}).encode())
    assert parquet.read_current(output) == {"faces": "v1", "gaze": "g1"}
    parquet.promote(output, {"faces": "v1"})
    assert json.loads(output.fs.cat_file(file)) == {"format": 2, "tables": {"faces": "v1", "gaze": "g1"}}
    assert parquet.read_current(output) == {"faces": "v1", "gaze": "g1"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"format": 3, "tables": {"faces": "v1"}}', "newer Faceatlas.*format 3.*reads up to 2; upgrade"),
        ('{"format": "two", "tables": {}}', "damaged"),
        ('{"format": 2}', "damaged"),
        ('{"faces": ', "damaged"),
        ("[]", "damaged"),
    ],
)
def test_an_output_that_cannot_be_read_is_refused_with_the_remedy(out, content, words):
    output = open_output(out)
    output.fs.pipe_file(output.path("current.json"), content.encode())
    with pytest.raises(OutputError, match=words):
        pipeline.read_table(out, "faces")
    with pytest.raises(OutputError, match=words):
        parquet.promote(output, {"faces": "v2"})


def test_a_table_that_was_never_written_is_empty(out):
    parquet.promote(open_output(out), {"faces": "v1"})
    assert pipeline.read_table(out, "gaze").num_rows == 0
    assert "gaze_yaw" in pipeline.read_table(out, "gaze").column_names


def test_wrong_names_are_answered_with_the_right_ones(out):
    parquet.promote(open_output(out), {"faces": "v1"})
    with pytest.raises(KeyError, match="landmarks"):
        pipeline.read_table(out, "face")
    with pytest.raises(KeyError, match="box_x1"):
        pipeline.read_table(out, "faces", ["box"])


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"current\.json"):
        pipeline.read_table(str(tmp_path), "faces")


def test_plain_readers_see_partitions_and_no_unfinished_file(tmp_path):
    output = open_output(str(tmp_path))
    path = write(output, "a")
    unfinished = (tmp_path / path).with_name(".left-behind.parquet.1234.tmp")
    unfinished.write_bytes(b"half a file")
    table = ds.dataset(tmp_path / "faces", partitioning="hive").to_table()
    assert table["shard"].to_pylist() == ["s"]
    assert "shard" not in pq.read_schema(tmp_path / path).names
    assert parquet.list_parquet(output, "faces") == [path]
