"""How versions differ, in numbers that are known beforehand."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.errors import ConfigError
from pipeline.maintenance import version_diff
from pipeline.runs.history import recorded_revisions
from pipeline.storage.output import open_output, write_bytes
from pipeline.tables import parquet
from pipeline.tables.shard_file import write_shard


@pytest.fixture
def output(tmp_path):
    return open_output(str(tmp_path))


def write(output, slot, version, rows):
    """rows: values of the slot's columns, one face per frame of one clip."""
    names = [column.name for column in schema.SLOT_COLUMNS[slot]]
    full = [
        {**dict.fromkeys(names), "clip_id": "a", "frame": i, "face": 0, **dict(zip(names, row, strict=False))}
        for i, row in enumerate(rows)
    ]
    ledger = [{"clip_id": "a", "fingerprint": "x", "first": 0, "count": len(rows), "faces": len(rows), "last": False}]
    table = pa.Table.from_pylist(full, schema=schema.slot_schema(slot))
    chunks = pa.Table.from_pylist(ledger, schema=parquet.LEDGER)
    parquet.write_chunk_file(output, schema.TABLE_OF_SLOT[slot], version, "s", table, chunks)


def values(metrics):
    return {metric.name: metric.value for metric in metrics}


def test_boxes_are_compared_by_overlap_and_count(output):
    write(output, "face", "v1", [(0.0, 0, 0, 10, 10), (0.0, 0, 0, 10, 10), (0.0, 0, 0, 10, 10)])
    write(output, "face", "v2", [(0.0, 0, 0, 10, 10), (0.0, 0, 0, 10, 8)])
    found = values(version_diff.diff_versions(output, "faces", "v1", "v2"))
    assert (found["rows_old"], found["rows_new"], found["only_old"], found["only_new"]) == (3, 2, 1, 0)
    assert found["mean_iou"] == pytest.approx(0.9)
    assert found["min_iou"] == pytest.approx(0.8)
    assert found["changed_share"] == pytest.approx(0.2)


def test_landmarks_are_compared_in_pixels_and_embeddings_by_cosine(output):
    write(output, "landmarks", "v1", [(np.zeros(136),), (np.zeros(136),)])
    write(output, "landmarks", "v2", [(np.tile([3.0, 4.0], 68),), (np.zeros(136),)])
    found = values(version_diff.diff_versions(output, "landmarks", "v1", "v2"))
    assert (found["mean_distance"], found["max_distance"]) == pytest.approx((2.5, 5.0))
    one, two = np.eye(512, dtype=np.float32)[:2]
    write(output, "embeddings", "v1", [(one,), (one,)])
    write(output, "embeddings", "v2", [(one,), (two,)])
    found = values(version_diff.diff_versions(output, "embeddings", "v1", "v2"))
    assert (found["mean_cosine"], found["min_cosine"]) == pytest.approx((0.5, 0.0))


def test_emotions_are_compared_one_by_one_and_by_the_strongest(output):
    write(output, "emotions", "v1", [(0.6, 0.4, 0, 0, 0, 0, 0), (1.0, 0, 0, 0, 0, 0, 0)])
    write(output, "emotions", "v2", [(0.4, 0.6, 0, 0, 0, 0, 0), (1.0, 0, 0, 0, 0, 0, 0)])
    found = values(version_diff.diff_versions(output, "emotions", "v1", "v2"))
    assert found["mean_anger"] == pytest.approx(0.1)
    assert found["max_anger"] == pytest.approx(0.2)
    assert found["max_fear"] == 0
    assert found["mean_other_emotion"] == pytest.approx(0.5)


def test_identities_merge_and_split(output):
    for version, people in (("t1", ["x", "y", "z", "z", None]), ("t2", ["x", "x", "z", "w", None])):
        rows = [
            {
                **dict.fromkeys(schema.TRACKS.names),
                "track_id": str(i),
                "clip_id": "a",
                "shard": "s",
                "identity_id": person,
                "first_frame": 0,
                "last_frame": 1,
                "faces": 2,
            }
            for i, person in enumerate(people)
        ]
        write_shard(output, "tracks", version, "s", pa.Table.from_pylist(rows, schema=schema.TRACKS))
    write_bytes(output, "identities/version=t1/.keep", b"")
    found = values(version_diff.diff_versions(output, "tracks", "t1", "t2"))
    assert (found["merges"], found["splits"], found["lost_identity"]) == (1, 1, 0)


def test_limits_are_least_or_most_and_what_cannot_be_measured_breaks_them(output):
    write(output, "face", "v1", [(0.0, 0, 0, 10, 10)])
    write(output, "face", "v2", [(0.0, 0, 0, 10, 8)])
    write(output, "face", "v3", [(0.0, 50, 50, 60, 60)])
    metrics = version_diff.diff_versions(output, "faces", "v1", "v2")
    assert not version_diff.exceeded(metrics, {"mean_iou": 0.7, "only_new": 0})
    assert [metric.name for metric in version_diff.exceeded(metrics, {"mean_iou": 0.9})] == ["mean_iou"]
    apart = version_diff.diff_versions(output, "faces", "v1", "v3")
    assert [metric.name for metric in version_diff.exceeded(apart, {"mean_iou": 0.1, "only_old": 0})] == [
        "mean_iou",
        "only_old",
    ]
    with pytest.raises(ConfigError, match="mean_iou"):
        version_diff.exceeded(metrics, {"iou": 0.5})
    with pytest.raises(ConfigError, match="v1, v2, v3"):
        version_diff.diff_versions(output, "faces", "v1", "v4")


def test_the_revisions_of_the_latest_run_are_kept(output):
    def record(run, commit):
        files = {"weights": {"place": f"hub:owner/net@{commit}" if commit else "/some/file"}}
        write_bytes(output, f"runs/{run}.json", json.dumps({"models": {"face": {"files": files}}}).encode())

    assert recorded_revisions(output) == {}
    record("20260101", "old")
    record("20260102", "new")
    record("20260103", None)
    assert recorded_revisions(output) == {"owner/net": "new"}
