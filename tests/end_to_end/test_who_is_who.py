"""Snapshots on Ray: partitions have no effect, a dead worker neither; ids last, and a user is obeyed."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

from pipeline import aggregate, store
from pipeline.config import load_config
from pipeline.decisions import Decision, add_decision
from pipeline.neighbour_tasks import search_by_tasks
from pipeline.neighbours import exact_neighbours, to_grid
from pipeline.schema import CLIPS, slot_schema
from pipeline.versions import aggregate_version

PEOPLE = np.linalg.qr(np.random.default_rng(3).standard_normal((512, 8)))[0].T.astype(np.float32)
SLOTS = {"face": "f1", "embeddings": "e1", "clips": "c1"}
COSINE = 0.3


def write_corpus(out, people, first=0):
    """One clip per letter, ten frames with one face each."""
    output = store.open_output(str(out))
    random = np.random.default_rng(first)
    for i, person in enumerate(people, first):
        clip_id, shard = f"{i:016x}", f"s{i}"
        keys = [{"clip_id": clip_id, "frame": frame, "face": 0} for frame in range(10)]
        box = {"box_x1": 10.0, "box_y1": 10.0, "box_x2": 200.0, "box_y2": 200.0, "score": 0.99, "time": 0.0}
        looks = PEOPLE["abcdefgh".index(person)] + 0.02 * random.standard_normal((10, 512)).astype(np.float32)
        faces = pa.Table.from_pylist([key | box for key in keys], schema=slot_schema("face"))
        vectors = [key | {"embedding": look} for key, look in zip(keys, looks, strict=True)]
        for name, version, rows in (
            ("faces", "f1", faces),
            ("embeddings", "e1", pa.Table.from_pylist(vectors, schema=slot_schema("embeddings"))),
        ):
            chunk = {"clip_id": clip_id, "first": 0, "count": 10, "faces": 10, "last": True, "fingerprint": "x"}
            store.write_chunks(output, name, version, shard, rows, pa.Table.from_pylist([chunk], schema=store.LEDGER))
        row = {field.name: None for field in CLIPS} | {"clip_id": clip_id, "status": "done", "fingerprint": "x"}
        row |= {"uri": "memory://x", "shard": shard, "key": clip_id, "frames": 10, "sampled": 10, "faces": 10}
        store.write_shard(output, "clips", "c1", shard, pa.Table.from_pylist([row], schema=CLIPS))
    return output


def snapshot(output, *assignments):
    """Aggregate as an annotate run does; identity of each clip."""
    config = load_config(None, list(assignments), {})
    version = aggregate_version(output, SLOTS, config, COSINE)
    versions = SLOTS | dict.fromkeys(aggregate.TABLES, version)
    aggregate.aggregate(output.root, versions, config, COSINE, lambda: None)
    store.switch_current(output, {"faces": "f1", **dict.fromkeys(aggregate.TABLES, version)})
    tracks = store.read_table(output.root, "tracks").to_pylist()
    return {row["clip_id"]: row["identity_id"] for row in tracks}


def test_ids_last_and_a_user_is_obeyed(local_ray, tmp_path):
    output = write_corpus(tmp_path / "out", "aabb")
    first = snapshot(output)
    ids = list(first.values())
    assert ids[0] == ids[1] != ids[2] == ids[3]

    write_corpus(tmp_path / "out", "abc", first=4)
    second = snapshot(output)
    assert list(second.values())[:4] == ids
    assert list(second.values())[4:6] == [ids[0], ids[2]]
    added = snapshot(output, "identities.afresh_up_to=0", "identities.afresh_growth=9")
    assert added == second

    tracks = store.read_table(output.root, "tracks", ["track_id", "clip_id"]).to_pylist()
    track_of = {row["clip_id"]: row["track_id"] for row in tracks}
    clips = sorted(second)
    add_decision(output, Decision(kind="merge", tracks=(track_of[clips[0]], track_of[clips[2]])))
    add_decision(output, Decision(kind="name", tracks=(track_of[clips[0]],), name="the host"))
    third = snapshot(output)
    assert len({third[clip] for clip in clips[:6]}) == 1
    rows = store.read_table(output.root, "identities", ["identity_id", "name"]).to_pylist()
    assert {row["name"] for row in rows if row["identity_id"] == third[clips[0]]} == {"the host"}
    (event,) = store.read_table(output.root, "lineage").to_pylist()
    assert (event["event"], event["cause"], event["to_id"]) == ("merge", "decision", third[clips[0]])

    add_decision(output, Decision(kind="split", tracks=(track_of[clips[1]],), others=(track_of[clips[0]],)))
    assert snapshot(output)[clips[1]] != third[clips[0]]


def test_tracks_are_not_linked_again_unless_the_faces_of_their_shard_change(local_ray, tmp_path):
    output = write_corpus(tmp_path / "out", "aab")
    first = snapshot(output)
    vectors = [Path(output.path(path)) for path in store.list_files(output, "embeddings")]
    for path in vectors:
        path.write_bytes(bytes(path.stat().st_size))  # nobody can read them any more
    write_corpus(tmp_path / "out", "b", first=3)
    second = snapshot(output)
    assert [second[clip] for clip in first] == list(first.values())
    assert second[f"{3:016x}"] == first[f"{2:016x}"]
    tables = [
        store.read_version(output, "tracks", v).sort_by("track_id") for v in store.table_versions(output, "tracks")
    ]
    kept, grown = sorted(tables, key=len)
    assert grown.filter(pc.is_in(grown["clip_id"], pa.array(list(first)))).equals(kept)
    vectors[0].write_bytes(vectors[0].read_bytes() + b"0")  # now its shard has to be read
    with pytest.raises(ray.exceptions.RayTaskError, match="Parquet"):
        snapshot(output, "identities.min_quality=0.1")


@pytest.fixture(scope="module")
def many():
    random = np.random.default_rng(0)
    value = random.standard_normal((300, 128))[random.integers(0, 300, 6000)] + random.standard_normal((6000, 128))
    return to_grid((value / np.linalg.norm(value, axis=1, keepdims=True)).astype(np.float32))


@pytest.mark.parametrize("block_rows", [999, 2500])
def test_partitions_on_ray_have_no_effect(local_ray, many, block_rows, monkeypatch):
    monkeypatch.setattr("pipeline.neighbour_tasks.BLOCK_ROWS", block_rows)
    fresh = np.ones(len(many), bool)
    found = search_by_tasks(many, fresh, 16, 0.2, exact_up_to=10**9, local_up_to=0)
    np.testing.assert_array_equal(found.row, exact_neighbours(many, 16, 0.2).row)


def test_a_worker_that_dies_changes_nothing(local_ray, many, monkeypatch):
    monkeypatch.setattr("pipeline.neighbour_tasks.BLOCK_ROWS", 400)
    killed = []

    def kill():
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            for process in psutil.Process().children(recursive=True):
                if "search_sides" in process.name() or "search_sides" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    found = search_by_tasks(many, np.ones(len(many), bool), 16, 0.2, exact_up_to=10**9, local_up_to=0)
    thread.join()
    assert killed, "no worker was seen at work"
    np.testing.assert_array_equal(found.row, exact_neighbours(many, 16, 0.2).row)
