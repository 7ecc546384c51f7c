"""Upgrading a model, running twice, two runs at once, and reading beside a run."""

import json
import os
import threading
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import yaml

import pipeline
from pipeline.config.models import LeaseConfig
from pipeline.storage import lease
from pipeline.storage.output import open_output
from pipeline.tables import parquet as tables

FACTORY = '''
"""An emotion model that costs nothing: mean colours of the crop, scaled."""
import torch
from torch import nn


class Means(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, crops_NCHW):
        means_N3 = crops_NCHW.float().mean((2, 3)) * self.scale
        return torch.cat([means_N3, means_N3, means_N3[:, :1]], 1)


def means(weights, scale):
    return Means(scale)
'''


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """bundle(scale): three models that ship with Faceatlas and one of emotions; another scale is another version."""
    folder = tmp_path_factory.mktemp("emotional")
    (folder / "means.py").write_text(FACTORY)

    def make(scale):
        emotions = {"factory": "means:means", "input": "crops112", "parameters": {"scale": scale}}
        models = {"face": "tiny", "landmarks": "tiny", "embeddings": "tiny", "emotions": emotions}
        path = folder / f"scale{scale}.yaml"
        path.write_text(yaml.safe_dump({"name": "emotional", "models": models}))
        return str(path)

    return make


@pytest.fixture(scope="module")
def few(known_clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    for name in ("hopper_zoom.mp4", "comes_and_goes.mov", "nobody.mp4"):
        (folder / name).symlink_to(known_clips / name)
    return folder


SETTINGS = ("decode.every=2", "decode.chunk_frames=5", "store.chunks_per_file=2")


@pytest.fixture(scope="module")
def annotated(annotate, bundle, few, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("converge") / "out")
    assert annotate(few, out, bundle(1.0), *SETTINGS).complete
    return out


def parquet(out, *, without=()):
    files = Path(out).rglob("*.parquet")
    return {path: path.read_bytes() for path in files if path.relative_to(out).parts[0] not in without}


def test_an_upgrade_of_one_model_leaves_all_other_tables_as_they_are(annotate, bundle, few, annotated):
    before, old = parquet(annotated), tables.read_current(open_output(annotated))["emotions"]
    report = annotate(few, annotated, bundle(2.0), *SETTINGS)
    assert (report.complete, report.frames) == (True, 0), "frames of the face slot: none is detected again"
    after = parquet(annotated, without=("clips", "quarantine"))
    added = set(after) - set(before)
    assert {path.relative_to(annotated).parts[0] for path in added} == {"emotions"}
    assert all(after[path] == data for path, data in before.items() if path in after)
    assert not [path for path in set(before) - set(after) if path.parts[-4] not in ("clips", "quarantine")]

    new = tables.read_current(open_output(annotated))["emotions"]
    assert new != old
    output = open_output(annotated)
    keys = ["clip_id", "frame", "face"]
    one = tables.read_version(output, "emotions", old).sort_by([(key, "ascending") for key in keys])
    two = pipeline.read_table(annotated, "emotions").sort_by([(key, "ascending") for key in keys])
    assert one.select(keys).equals(two.select(keys))
    assert one.num_rows > 0
    ratio = pc.divide(two["anger"], one["anger"])
    assert pc.all(pc.less(pc.abs(pc.subtract(ratio, 2.0)), 0.01)).as_py()


def test_the_chunks_of_an_upgrade_span_frames_without_faces_too(annotated, annotate, bundle, few):
    output = open_output(annotated)
    current = tables.read_current(output)
    clips = pipeline.read_table(annotated, "clips").to_pylist()
    shard = clips[0]["shard"]
    for table in ("faces", "emotions"):
        ledger = tables.read_ledger(output, table, current[table], shard)
        for clip in clips:
            mine = ledger.filter(pc.equal(ledger["clip_id"], clip["clip_id"]))
            assert pc.sum(mine["count"]).as_py() == clip["sampled"], (table, clip["key"])
    report = annotate(few, annotated, bundle(2.0), *SETTINGS)
    assert (report.complete, report.frames) == (True, 0)


def options(bundle_file):
    return ["--bundle", bundle_file, *(part for setting in SETTINGS for part in ("--set", setting))]


def test_a_second_run_loads_neither_ray_nor_torch(command, annotated, bundle, few):
    code, text, seconds = command("annotate", few, annotated, *options(bundle(2.0)))
    assert code == 0, text
    assert "LOADED []" in text
    assert seconds < 10


def test_a_second_run_at_the_same_time_is_refused_with_exit_code_2(command, annotated, bundle, few):
    with lease.hold(open_output(annotated), "run of the test", LeaseConfig()):
        code, text, _ = command("annotate", few, annotated, *options(bundle(2.0)))
    assert code == 2, text
    assert f"in use by run of the test on {os.uname().nodename} (process {os.getpid()}) since" in text


def test_a_reader_beside_a_run_sees_only_whole_chunks(annotate, bundle, few, tmp_path):
    out = tmp_path / "out"
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            current = out / "current.json"
            if current.exists() and any((out / "faces").rglob("*.parquet")):  # before, there is nothing to read
                version = json.loads(current.read_text())["tables"]["faces"]
                table = ds.dataset(out / "faces", partitioning="hive").to_table(filter=ds.field("version") == version)
                seen.append(table.select(["clip_id", "frame", "face"]))
            time.sleep(0.02)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        settings = (
            "decode.chunk_frames=2",
            "store.chunks_per_file=1",
        )  # many small files, so that it grows in many steps
        assert annotate(few, out, bundle(1.0), *settings).complete
    finally:
        done.set()
        reader.join()
    output = open_output(str(out))
    clips = pipeline.read_table(str(out), "clips").to_pylist()
    ledger = tables.read_ledger(output, "faces", tables.read_current(output)["faces"], clips[0]["shard"]).to_pylist()
    chunk_of = {(e["clip_id"], e["first"] + i): (e["clip_id"], e["first"]) for e in ledger for i in range(e["count"])}
    faces_in = {(e["clip_id"], e["first"]): e["faces"] for e in ledger}
    assert len({table.num_rows for table in seen}) > 3, "the reader was there while the table grew"
    for table in seen:
        counts = {}
        rows = table.to_pylist()
        assert len({tuple(row.values()) for row in rows}) == len(rows)
        for row in rows:
            chunk = chunk_of[row["clip_id"], row["frame"]]
            counts[chunk] = counts.get(chunk, 0) + 1
        assert all(count == faces_in[chunk] for chunk, count in counts.items())


def test_a_version_that_a_part_of_the_clips_has_comes_into_force_only_on_demand(
    annotate, bundle, few, annotated, capsys
):
    before = tables.read_current(open_output(annotated))
    report = annotate(few / "nobody.mp4", annotated, bundle(3.0), *SETTINGS)
    assert (report.complete, report.pending) == (True, 2)
    assert tables.read_current(open_output(annotated)) == before
    assert "NOT PROMOTED: 2 clips" in capsys.readouterr().out
    report = annotate(few / "nobody.mp4", annotated, bundle(3.0), *SETTINGS, "store.promote_early=true")
    assert (report.complete, report.pending) == (True, 0)
    assert tables.read_current(open_output(annotated))["emotions"] != before["emotions"]
