"""What must not change a value: how the corpus is given, and how the work is cut and dealt out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipeline

NAMES = ["small.mpg", "two_people.mp4", "comes_and_goes.mov", "nobody.mp4"]  # two frame sizes and nobody


@pytest.fixture(scope="session")
def few(known_clips, tmp_path_factory):
    """A folder with a few of the clips: two people, each in two of them."""
    folder = tmp_path_factory.mktemp("few") / "clips"
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to(known_clips / name)
    return folder


def rows(out):
    """All values of the tables, by the clip's key instead of its id, which follows from the uri."""
    clips = pipeline.read_table(out, "clips").to_pandas()
    key_of = dict(zip(clips["clip_id"], [Path(key).name for key in clips["key"]], strict=True))
    result = {}
    for name in ("faces", "landmarks", "embeddings"):
        table = pipeline.read_table(out, name).to_pandas().drop(columns="shard")
        table["clip_id"] = table["clip_id"].map(key_of)
        result[name] = table.sort_values(["clip_id", "frame", "face"], ignore_index=True)
    facts = clips.assign(clip_id=clips["clip_id"].map(key_of)).set_index("clip_id").sort_index()
    result["clips"] = facts[["status", "frames", "sampled", "faces", "fps", "width", "height", "codec"]].reset_index()
    tracks = pipeline.read_table(out, "tracks").to_pandas()
    tracks["clip_id"] = tracks["clip_id"].map(key_of)
    tracks = tracks.sort_values(["clip_id", "first_frame", "mean_size"], ignore_index=True)
    # identities are named after tracks, and these after clips: what must be the same is who goes with whom
    tracks["identity_id"] = pd.factorize(tracks["identity_id"])[0]
    result["tracks"] = tracks[["clip_id", "identity_id", "first_frame", "last_frame", "faces"]]
    return result


def assert_same(one, other):
    for name, table in one.items():
        assert list(table.columns) == list(other[name].columns)
        assert len(table) == len(other[name]), name
        for column in table:
            a, b = table[column], other[name][column]
            if a.dtype == object and len(a) and isinstance(a.iloc[0], np.ndarray):
                np.testing.assert_allclose(np.stack(a), np.stack(b), rtol=1e-3, atol=2e-3, err_msg=f"{name}.{column}")
            elif a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3, err_msg=f"{name}.{column}")
            else:
                pd.testing.assert_series_equal(a, b)


@pytest.fixture(scope="session")
def plain(annotate, few, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("plain") / "out")
    assert annotate(few, out, "tiny", "decode.every=3").complete
    return out


def as_tars(few, folder):
    for number, names in enumerate((NAMES[:2], NAMES[2:])):
        with tarfile.open(folder / f"shard-{number:05d}.tar", "w") as tar:
            for name in names:
                tar.add((few / name).resolve(), name)
                (folder / "note.txt").write_text("no video")
                tar.add(folder / "note.txt", f"{name}.txt")
    return folder


def as_uri(few, folder):
    return f"file://{few}"


def as_manifest(few, folder):
    lines = [json.dumps({"uri": str(few / name), "key": name.split(".")[0]}) for name in NAMES]
    (folder / "list.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "list.jsonl"


@pytest.mark.parametrize("form", [as_tars, as_uri, as_manifest])
def test_the_form_of_the_corpus_changes_nothing(form, annotate, few, plain, tmp_path):
    out = str(tmp_path / "out")
    assert annotate(form(few, tmp_path), out, "tiny", "decode.every=3").complete
    assert_same(rows(plain), rows(out))


def test_a_path_and_its_file_uri_are_the_same_clips(annotate, few, plain):
    report = annotate(f"file://{few}", plain, "tiny", "decode.every=3")
    assert (report.complete, report.frames) == (True, 0)


@pytest.mark.parametrize(
    "settings",
    [
        ("decode.chunk_frames=3", "actors.batch_chunks=5", "actors.batch_frames=3", "actors.batch_faces=5"),
        ("actors.size=2", "actors.batch_chunks=1", "store.chunks_per_file=2"),
    ],
    ids=["small_batches", "two_actors"],
)
def test_batches_chunks_and_pools_change_nothing(settings, annotate, few, plain, tmp_path):
    out = str(tmp_path / "out")
    assert annotate(few, out, "tiny", "decode.every=3", *settings).complete
    assert_same(rows(plain), rows(out))


def test_the_order_of_clips_changes_nothing(annotate, few, plain, tmp_path):
    lines = ["uri,key", *(f"{few / name},{name.split('.')[0]}" for name in reversed(NAMES))]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    out = str(tmp_path / "out")
    assert annotate(tmp_path / "list.csv", out, "tiny", "decode.every=3").complete
    assert_same(rows(plain), rows(out))


def test_detection_in_one_pool_and_the_rest_in_another_changes_nothing(annotate, few, plain, tmp_path):
    detection = "{slots: [face], size: 1, gpus: 0.5, cpus: 0.5}"
    pools = f"actors.pools=[{detection}, {{min_size: 1, max_size: 2, gpus: 0.25, cpus: 0.5}}]"
    out = str(tmp_path / "out")
    assert annotate(few, out, "tiny", "decode.every=3", pools).complete
    assert_same(rows(plain), rows(out))


def test_a_lost_table_file_is_computed_again_from_the_stored_boxes(annotate, plain, few, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(plain, out)
    before = pipeline.read_table(str(out), "landmarks").sort_by([("clip_id", "ascending"), ("frame", "ascending")])
    faces = {path: path.read_bytes() for path in (out / "faces").rglob("*.parquet")}
    for path in [*(out / "landmarks").rglob("*.parquet"), *(out / "clips").rglob("*.parquet")]:
        path.unlink()
    assert annotate(few, out, "tiny", "decode.every=3").complete
    after = pipeline.read_table(str(out), "landmarks").sort_by([("clip_id", "ascending"), ("frame", "ascending")])
    assert after["frame"].equals(before["frame"])
    difference = (
        after["landmarks"].combine_chunks().flatten().to_numpy()
        - before["landmarks"].combine_chunks().flatten().to_numpy()
    )
    assert abs(difference).max() < 0.01
    assert {path: path.read_bytes() for path in (out / "faces").rglob("*.parquet")} == faces


def test_a_killed_run_is_finished_by_the_next_without_loss_or_double(annotate, few, plain, tmp_path):
    out = tmp_path / "out"
    settings = ["--set", "decode.every=3", "--set", "store.chunks_per_file=1", "--set", "decode.chunk_frames=2"]
    command = [Path(sys.executable).parent / "faceatlas", "annotate", few, out, "--bundle", "tiny", *settings]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    run = subprocess.Popen([str(part) for part in command], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(out.glob("embeddings/**/*.parquet"))) < 3 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    written = len(list(out.glob("faces/**/*.parquet")))
    report = annotate(few, out, "tiny", "decode.every=3", "store.chunks_per_file=1", "decode.chunk_frames=2")
    assert report.complete
    assert 0 < written < len(list(out.glob("faces/**/*.parquet")))
    assert_same(rows(plain), rows(str(out)))
