"""Snapshots on Ray: partitions have no effect, a dead worker neither; ids last, and overrides are applied."""

import json
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
from ray.util.placement_group import placement_group, remove_placement_group
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.config.models import load_config
from pipeline.identity import snapshot as snapshots
from pipeline.identity.knn import find_neighbors, to_grid
from pipeline.identity.knn_tasks import search_by_tasks
from pipeline.identity.overrides import Override, add_override, read_overrides
from pipeline.identity.version import aggregate_version
from pipeline.planning.versions import tables_of
from pipeline.runs.context import RunContext
from pipeline.schema import CLIPS, slot_schema
from pipeline.storage.output import open_output
from pipeline.tables import parquet
from pipeline.tables.shard_file import write_shard

PEOPLE = np.linalg.qr(np.random.default_rng(3).standard_normal((512, 8)))[0].T.astype(np.float32)
SLOTS = {"face": "f1"}
COSINE = 0.3


def write_corpus(out, people, first=0, embeddings="e1", shard=None):
    """One clip per item, ten frames with a face for each of its letters; another `embeddings` sees other vectors."""
    output = open_output(str(out))
    random = np.random.default_rng(first)
    basis = PEOPLE if embeddings == "e1" else PEOPLE[::-1, ::-1]
    clips = {}
    for i, persons in enumerate(people, first):
        clip_id, place = f"{i:016x}", shard or f"s{i}"
        keys = [
            {"clip_id": clip_id, "frame": frame, "face": face} for frame in range(10) for face in range(len(persons))
        ]
        corner = [10.0 + 300 * key["face"] for key in keys]
        box = {"box_y1": 10.0, "box_y2": 200.0, "score": 0.99, "time": 0.0}
        boxes = [key | box | {"box_x1": x, "box_x2": x + 190} for key, x in zip(keys, corner, strict=True)]
        noise = 0.02 * random.standard_normal((len(keys), 512)).astype(np.float32)
        looks = [basis["abcdefgh".index(persons[key["face"]])] + noise[k] for k, key in enumerate(keys)]
        vectors = [key | {"embedding": look} for key, look in zip(keys, looks, strict=True)]
        for name, version, rows in (
            ("faces", "f1", pa.Table.from_pylist(boxes, schema=slot_schema("face"))),
            ("embeddings", embeddings, pa.Table.from_pylist(vectors, schema=slot_schema("embeddings"))),
        ):
            chunk = {"clip_id": clip_id, "first": 0, "count": 10, "faces": len(keys), "last": True, "fingerprint": "x"}
            parquet.write_chunk_file(
                output, name, version, place, rows, pa.Table.from_pylist([chunk], schema=parquet.LEDGER)
            )
        row = {field.name: None for field in CLIPS} | {"clip_id": clip_id, "status": "done", "fingerprint": "x"}
        row |= {"uri": "memory://x", "shard": place, "key": clip_id, "frames": 10, "sampled": 10, "faces": len(keys)}
        clips.setdefault(place, []).append(row)
    for place, rows in clips.items():
        write_shard(output, "clips", "c1", place, pa.Table.from_pylist(rows, schema=CLIPS))
    return output


def snapshot(output, *assignments, embeddings="e1"):
    """Aggregate as an annotate run does; identity of each clip (of its last track by id, where it has several)."""
    config = load_config(None, list(assignments), {})
    slots = SLOTS | {"embeddings": embeddings}
    context = RunContext(output.root, config, slots, tables_of(slots, "c1"))
    version = aggregate_version(context, COSINE)
    snapshots.aggregate(context, version, COSINE, lambda: None)
    parquet.promote(output, {"faces": "f1", "embeddings": embeddings, **dict.fromkeys(snapshots.TABLES, version)})
    tracks = parquet.read_table(output.root, "tracks").to_pylist()
    tracks.sort(key=lambda row: (row["clip_id"], row["track_id"]))
    return {row["clip_id"]: row["identity_id"] for row in tracks}


def faceatlas(*command):
    """Exit code and output of `faceatlas identities ...`."""
    done = CliRunner().invoke(app, ["identities", *map(str, command)])
    return done.exit_code, done.output


def test_ids_last_and_overrides_are_applied(local_ray, tmp_path):
    output = write_corpus(tmp_path / "out", "aabb")
    first = snapshot(output)
    ids = list(first.values())
    assert ids[0] == ids[1] != ids[2] == ids[3]

    write_corpus(tmp_path / "out", "abc", first=4)
    second = snapshot(output)
    assert list(second.values())[:4] == ids
    assert list(second.values())[4:6] == [ids[0], ids[2]]
    added = snapshot(output, "identities.recluster_up_to=0", "identities.recluster_growth=9")
    assert added == second

    tracks = parquet.read_table(output.root, "tracks", ["track_id", "clip_id"]).to_pylist()
    track_of = {row["clip_id"]: row["track_id"] for row in tracks}
    clips = sorted(second)
    add_override(output, Override(kind="merge", tracks=(track_of[clips[0]], track_of[clips[2]])))
    add_override(output, Override(kind="name", tracks=(track_of[clips[0]],), name="the host"))
    third = snapshot(output)
    assert len({third[clip] for clip in clips[:6]}) == 1
    rows = parquet.read_table(output.root, "identities", ["identity_id", "name"]).to_pylist()
    assert {row["name"] for row in rows if row["identity_id"] == third[clips[0]]} == {"the host"}
    (event,) = parquet.read_table(output.root, "lineage").to_pylist()
    assert (event["event"], event["cause"], event["to_id"]) == ("merge", "decision", third[clips[0]])

    add_override(output, Override(kind="split", tracks=(track_of[clips[1]],), others=(track_of[clips[0]],)))
    assert snapshot(output)[clips[1]] != third[clips[0]]


def test_shards_tasks_and_the_order_of_writing_have_no_effect(local_ray, tmp_path):
    people = ["a", "ab", "b", "ca", "d", "dc"] * 3  # enough clips for tasks
    whole = write_corpus(tmp_path / "whole", people)
    parts = write_corpus(tmp_path / "parts", people, shard="all")
    first, second = snapshot(whole), snapshot(parts, "identities.local_up_to=0")
    assert {clip: first[clip] for clip in sorted(first)} == {clip: second[clip] for clip in sorted(second)}
    tables = [parquet.read_table(output.root, "identities") for output in (whole, parts)]
    assert tables[0].equals(tables[1])
    assert len(tables[0]) == 4


def test_another_embedding_model_keeps_the_ids_of_the_tracks_that_stay_together(local_ray, tmp_path):
    output = write_corpus(tmp_path / "out", "aabbbc")
    first = list(snapshot(output).values())
    write_corpus(tmp_path / "out", "aabbdc", embeddings="e2")  # it tells one of the three apart
    second = list(snapshot(output, embeddings="e2").values())
    assert [now == before for now, before in zip(second, first, strict=True)] == [True] * 4 + [False, True]
    assert second[4] not in first
    (event,) = parquet.read_table(output.root, "lineage").to_pylist()
    assert {name: event[name] for name in ("event", "from_id", "to_id", "tracks", "cause")} == {
        "event": "split",
        "from_id": first[2],
        "to_id": second[4],
        "tracks": 1,
        "cause": "model",
    }


def test_overrides_through_the_command_line(local_ray, tmp_path):
    output = write_corpus(tmp_path / "out", "aabb")
    ids = list(snapshot(output).values())
    code, said = faceatlas("merge", output.root, ids[0], ids[2])
    assert (code, "2 identities will be merged" in said) == (0, True)
    merged = list(snapshot(output).values())
    assert len(set(merged)) == 1

    (gone,) = {ids[0], ids[2]} - set(merged)
    assert faceatlas("name", output.root, gone, "the host")[0] == 0  # the old id still leads there
    snapshot(output)
    assert parquet.read_table(output.root, "identities")["name"].to_pylist() == ["the host"]
    code, said = faceatlas("list", output.root)
    assert (code, f"{merged[0]} the host: " in said, "1 identities" in said) == (0, True, True)

    tracks = (
        parquet.read_table(output.root, "tracks", ["track_id", "clip_id"]).sort_by("clip_id")["track_id"].to_pylist()
    )
    assert faceatlas("split", output.root, merged[0], *tracks[2:])[0] == 0
    parted = list(snapshot(output).values())
    assert parted[0] == parted[1] != parted[2] == parted[3]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["merge", "OUT", "A", "A"], "two different identities"),
        (["merge", "OUT", "A", "nobody"], "no identity nobody"),
        (["split", "OUT", "A", "strange"], "has no track strange"),
        (["split", "OUT", "A", "ALL"], "at least one must remain"),
        (["score", "OUT", "TRUTH"], "needs the columns person and track_id or clip_id"),
        (["calibrate", "OUT"], "needs 20 pairs"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(local_ray, tmp_path, command, message):
    output = write_corpus(tmp_path / "out", "a")
    (tmp_path / "truth.csv").write_text("clip,person\n")
    known = {"OUT": output.root, "A": next(iter(snapshot(output).values())), "TRUTH": tmp_path / "truth.csv"}
    known["ALL"] = parquet.read_table(output.root, "tracks")["track_id"][0].as_py()
    code, said = faceatlas(*(known.get(word, word) for word in command))
    assert code == 2
    assert message in said
    assert not read_overrides(output)


def test_identities_are_scored_against_a_truth(local_ray, tmp_path):
    output = write_corpus(tmp_path / "out", "aabb")
    snapshot(output)
    truth = tmp_path / "truth.csv"
    truth.write_text("clip_id,person\n" + "".join(f"{i:016x},{person}\n" for i, person in enumerate("xxxy")))
    code, said = faceatlas("score", output.root, truth, "--json")
    found = json.loads(said)
    assert (code, found["tracks"]) == (0, 4)
    assert (found["pairwise_precision"], found["pairwise_recall"]) == (0.5, pytest.approx(1 / 3, abs=1e-5))
    truth.write_text("clip_id,person\n" + "".join(f"{i:016x},{person}\n" for i, person in enumerate("xxyy")))
    assert "bcubed_f: 1.0" in faceatlas("score", output.root, truth)[1]


def test_a_corpus_calibrates_its_model(local_ray, tmp_path):
    output = write_corpus(tmp_path / "out", ["ab", "cd", "ef"] * 8)
    snapshot(output)
    found = json.loads(faceatlas("calibrate", output.root, "--json")[1])
    assert (found["impostors"], found["genuine"], found["accepted"]) == (24, 48, 1)
    assert found["low"] <= found["threshold"] <= found["high"] < 0.2  # these people are at right angles
    assert "24 pairs are too few to count" in found["how"]
    assert faceatlas("calibrate", output.root)[1].startswith(f"threshold {found['threshold']:.3f}")


def test_tracks_are_not_linked_again_unless_the_faces_of_their_shard_change(local_ray, tmp_path):
    output = write_corpus(tmp_path / "out", "aab" * 6)
    first = snapshot(output)
    vectors = [Path(output.path(path)) for path in parquet.list_parquet(output, "embeddings")]
    for path in vectors:
        path.write_bytes(bytes(path.stat().st_size))  # nobody can read them any more
    write_corpus(tmp_path / "out", "b", first=18)
    second = snapshot(output)
    assert [second[clip] for clip in first] == list(first.values())
    assert second[f"{18:016x}"] == first[f"{2:016x}"]
    tables = [
        parquet.read_version(output, "tracks", v).sort_by("track_id") for v in parquet.table_versions(output, "tracks")
    ]
    kept, grown = sorted(tables, key=len)
    assert grown.filter(pc.is_in(grown["clip_id"], pa.array(list(first)))).equals(kept)
    vectors[0].write_bytes(vectors[0].read_bytes() + b"0")  # now its shard has to be read
    with pytest.raises(pa.ArrowInvalid, match="Parquet"):
        snapshot(output, "identities.min_quality=0.1")


@pytest.fixture(scope="module")
def many():
    random = np.random.default_rng(0)
    value = random.standard_normal((300, 128))[random.integers(0, 300, 6000)] + random.standard_normal((6000, 128))
    return to_grid((value / np.linalg.norm(value, axis=1, keepdims=True)).astype(np.float32))


@pytest.mark.parametrize("block_rows", [999, 2500])
def test_partitions_on_ray_have_no_effect(local_ray, many, block_rows, monkeypatch):
    monkeypatch.setattr("pipeline.identity.knn_tasks.BLOCK_ROWS", block_rows)
    fresh = np.ones(len(many), bool)
    found = search_by_tasks(many, fresh, 16, 0.2, exact_up_to=10**9, local_up_to=0)
    np.testing.assert_array_equal(found.row, find_neighbors(many, np.ones(len(many), bool), 16, 0.2).row)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_has_no_effect(local_ray, many, workers, monkeypatch):
    monkeypatch.setattr("pipeline.identity.knn_tasks.BLOCK_ROWS", 1500)
    taken = placement_group([{"CPU": ray.cluster_resources()["CPU"] - workers}])
    ray.get(taken.ready())
    try:
        found = search_by_tasks(many, np.ones(len(many), bool), 16, 0.2, exact_up_to=10**9, local_up_to=0)
    finally:
        remove_placement_group(taken)
    np.testing.assert_array_equal(found.row, find_neighbors(many, np.ones(len(many), bool), 16, 0.2).row)


def test_a_worker_that_dies_changes_nothing(local_ray, many, monkeypatch):
    monkeypatch.setattr("pipeline.identity.knn_tasks.BLOCK_ROWS", 400)
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
    np.testing.assert_array_equal(found.row, find_neighbors(many, np.ones(len(many), bool), 16, 0.2).row)
