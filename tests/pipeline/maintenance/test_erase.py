"""What is forgotten is nowhere in the output's bytes, and no rerun brings it back."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.config.models import Config
from pipeline.corpus.discover import Corpus
from pipeline.errors import ConfigError
from pipeline.identity.overrides import Override, add_override, read_overrides
from pipeline.maintenance import erase, quarantine
from pipeline.planning.plan import make_plan
from pipeline.planning.versions import tables_of
from pipeline.runs.accounting import RunLedger
from pipeline.runs.context import RunContext
from pipeline.stages import write
from pipeline.storage import fs
from pipeline.storage.output import open_output, write_bytes
from pipeline.tables import parquet
from pipeline.tables.shard_file import read_shard, rewrite_shard, write_shard

VERSIONS = {"face": "f1", "landmarks": "l1", "embeddings": "e1"}
TABLES = tables_of(VERSIONS, "c1")
NEWER = {"face": "f2", "landmarks": "l2", "embeddings": "e2"}
NEEDS = {"face": (), "landmarks": ("face",), "embeddings": ("face",)}
CLIPS = {"aaaa1111": 100.0, "bbbb2222": 200.0}  # two people each, at boxes from this x on


def uri(clip):
    return f"file:///videos/{clip}-film.mp4"


def corpus():
    rows = [{"clip_id": c, "uri": uri(c), "shard": "s", "fingerprint": "x"} for c in CLIPS]
    return Corpus(pa.Table.from_pylist(rows, schema=schema.CLIP), [])


def embedding(clip, person):
    return np.random.default_rng([ord(clip[0]), person]).normal(size=512).astype(np.float32)


def flow_row(clip, first):
    """Two frames with two faces each, persons 0 and 1."""
    faces = [[CLIPS[clip] + 50 * p, 10, CLIPS[clip] + 50 * p + 40, 50, 0.9, *[1] * 11] for p in (0, 1)]
    return {
        **dict.fromkeys(schema.FLOW.names),
        "clip_id": clip,
        "shard": "s",
        "fingerprint": "x",
        "slots": list(VERSIONS),
        "first": first,
        "count": 2,
        "frames": [first, first + 1],
        "times": [0.0, 0.1],
        "last": first == 2,
        "video": {"frames": 4, "sampled": 4} if first == 2 else None,
        "face_index": [0, 0, 1, 1],
        "face": [float(v) for v in faces * 2 for v in v],
        "landmarks": [float(i) for i in range(4 * 136)],
        "embeddings": np.concatenate([embedding(clip, p) for p in (0, 1)] * 2),
    }


@pytest.fixture
def output(tmp_path):
    output = open_output(str(tmp_path / "out"))
    run_ledger = RunLedger(output, make_plan(corpus(), output, VERSIONS, TABLES, NEEDS), VERSIONS, TABLES)
    rows = [flow_row(clip, first) for first in (0, 2) for clip in CLIPS]  # two files, each with chunks of both clips
    for at in (0, 2):
        table = pa.Table.from_pylist(rows[at : at + 2], schema=schema.FLOW)
        run_ledger.add(write.commit_chunks(table, RunContext.of(output.root, Config(), VERSIONS)))
    tracks = [
        {
            **dict.fromkeys(schema.TRACKS.names),
            "track_id": f"{clip}-track{p}",
            "clip_id": clip,
            "shard": "s",
            "identity_id": f"person{p}",
            "first_frame": 0,
            "last_frame": 3,
            "faces": 4,
            "quality": 1.0,
            "frames": [0, 1, 2, 3],
            "members": [p] * 4,
            "embedding": embedding(clip, p) / np.linalg.norm(embedding(clip, p)),
            "representative_frame": 1,
            "representative_face": p,
        }
        for clip in CLIPS
        for p in (0, 1)
    ]
    identities = [
        {
            "identity_id": f"person{p}",
            "tracks": 2,
            "clips": 2,
            "faces": 8,
            "cohesion": 0.9,
            "next_identity_id": f"person{1 - p}",
            "next_cosine": 0.2,
            "margin": 0.7,
            "embedding": embedding("aaaa1111", p),
            "members": [f"{clip}-track{p}" for clip in CLIPS],
            "representative_clip_id": "aaaa1111",
            "representative_frame": 1,
            "representative_face": p,
        }
        for p in (0, 1)
    ]
    write_shard(output, "tracks", "t1", "s", pa.Table.from_pylist(tracks, schema=schema.TRACKS))
    table = pa.Table.from_pylist(identities, schema=schema.IDENTITIES)
    parquet.write_parquet(output, "identities/version=t1/identities.parquet", table)
    pair = {"identity_a": "person0", "identity_b": "person1", "score": 0.2, "threshold": 0.22}
    pair |= {"seen_together": 2, "reason": "close", "tracks_a": 2, "tracks_b": 2}
    event = {"snapshot": "t1", "event": "split", "from_id": "person1", "to_id": "person0"}
    event |= {"tracks": 1, "cause": "clustering"}
    snapshot = {"tracks": "t1", "identities": "t1", "ambiguous_pairs": "t1", "lineage": "t1"}
    for name, row in (("ambiguous_pairs", pair), ("lineage", event)):
        table = pa.Table.from_pylist([row], schema=schema.table_schema(name))
        parquet.write_parquet(output, f"{name}/version=t1/{name}.parquet", table)
    for person, name in enumerate(("Ada", "Bob")):
        tracks_of = tuple(f"{clip}-track{person}" for clip in CLIPS)
        add_override(output, Override(kind="name", tracks=tracks_of, name=name))
    parquet.promote(output, {**TABLES, **snapshot})
    record = {
        "run": "r",
        "versions": VERSIONS,
        "tables": TABLES,
        "ignored": [uri("aaaa1111") + ".txt"],
        "missing": ["aaaa1111"],
    }
    write_bytes(output, "runs/r.json", json.dumps(record).encode())
    write_bytes(output, "faces/version=f1/shard=s/.left.parquet.1.tmp", b"aaaa1111")
    return output


def all_bytes(output):
    """Every byte of the tree, and every value of its Parquet files as it is without compression."""
    parts = [(path.name + " ").encode() + path.read_bytes() for path in Path(output.root).rglob("*") if path.is_file()]
    for path in Path(output.root).rglob("*.parquet"):
        sink = pa.BufferOutputStream()
        pq.write_table(pq.read_table(path), sink, compression="none", use_dictionary=False, store_schema=False)
        parts.append(sink.getvalue().to_pybytes())
        if parquet.CHUNKS_KEY in (pq.read_metadata(path).metadata or {}):
            parts.append(repr(parquet.read_footer(output, str(path.relative_to(output.root))).to_pylist()).encode())
    return b"".join(parts)


def replan(output):
    return make_plan(corpus(), output, VERSIONS, TABLES, NEEDS)


def faces_of(output):
    return [(r["clip_id"], r["frame"], r["face"]) for r in parquet.read_version(output, "faces", "f1").to_pylist()]


@pytest.mark.parametrize("how", ["clip", "source"])
def test_a_forgotten_clip_is_in_no_byte_of_the_output(how, output):
    gone = [b"aaaa1111", uri("aaaa1111").encode(), *(embedding("aaaa1111", p).tobytes() for p in (0, 1))]
    before = all_bytes(output)
    assert all(word in before for word in gone), "the search finds what is there"
    neighbour = [row for row in faces_of(output) if row[0] == "bbbb2222"]
    if how == "clip":
        erase.erase_clip(output, "aaaa1111")
    else:
        erase.erase_source(output, uri("aaaa1111"))
    after = all_bytes(output)
    assert not [word for word in gone if word in after]
    assert sorted(faces_of(output)) == sorted(neighbour)
    people = parquet.read_version(output, "identities", "t1").to_pylist()
    assert [(row["members"], row["faces"]) for row in people] == [(["bbbb2222-track0"], 4), (["bbbb2222-track1"], 4)]
    assert {row["representative_clip_id"] for row in people} == {"bbbb2222"}
    assert {row["margin"] for row in people} == {None}, "of centres that are no more"
    for p, row in enumerate(people):
        assert row["cohesion"] == pytest.approx(1.0, abs=1e-5)
        assert np.allclose(
            row["embedding"], embedding("bbbb2222", p) / np.linalg.norm(embedding("bbbb2222", p)), atol=1e-5
        )


RANGES = {fs.clip_id(uri("long"), None, start, start + 5.0): start for start in (0.0, 5.0, 10.0)}


def ranges():
    """A corpus of three time ranges of one video."""
    rows = [
        {"clip_id": c, "uri": uri("long"), "shard": "s", "fingerprint": "x", "start_s": start, "end_s": start + 5.0}
        for c, start in RANGES.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema.CLIP)


@pytest.fixture
def unfinished(output, monkeypatch):
    """The output with chunks of two of the ranges, whose shard no `clips` file names yet."""
    monkeypatch.setattr(sys.modules[__name__], "CLIPS", {**CLIPS, **dict.fromkeys(RANGES, 300.0)})
    rows = [flow_row(clip, 0) for clip in list(RANGES)[:2]]
    write.commit_chunks(pa.Table.from_pylist(rows, schema=schema.FLOW), RunContext.of(output.root, Config(), VERSIONS))
    return output


def test_ranges_of_a_source_in_an_unfinished_shard_are_forgotten_with_the_corpus(unfinished):
    assert {row[0] for row in faces_of(unfinished)} > set(list(RANGES)[:2])
    with pytest.raises(ConfigError, match=r"chunks of 2 clips .* Give --corpus"):
        erase.erase_source(unfinished, uri("long"))
    erase.erase_source(unfinished, uri("long"), ranges())
    assert {row[0] for row in faces_of(unfinished)} == {"aaaa1111", "bbbb2222"}
    after = all_bytes(unfinished)
    assert not [word for word in [*RANGES, uri("long")] if word.encode() in after]


def test_no_later_range_of_a_forgotten_source_is_annotated(output):
    erase.erase_source(output, uri("long"))
    plan = make_plan(Corpus(ranges(), []), output, VERSIONS, TABLES, NEEDS)
    assert plan.work.num_rows == 0
    assert plan.outcomes == {"forgotten": 3}


def test_a_rerun_does_not_bring_a_forgotten_clip_back_and_the_totals_add_up(output):
    erase.erase_clip(output, "aaaa1111")
    plan = replan(output)
    assert plan.work.num_rows == 0
    run_ledger = RunLedger(output, plan, VERSIONS, TABLES)
    assert (run_ledger.outcomes, run_ledger.missing) == ({"done": 1, "empty": 0, "quarantined": 0, "forgotten": 1}, [])
    newer = make_plan(corpus(), output, NEWER, tables_of(NEWER, "c1"), NEEDS)
    assert newer.work["clip_id"].to_pylist() == ["bbbb2222"]


def test_a_forgotten_person_goes_and_the_others_keep_their_numbers(output):
    gone = [embedding(clip, 0).tobytes() for clip in CLIPS]
    assert all(word in all_bytes(output) for word in gone)
    audit = erase.erase_identity(output, "person0")
    after = all_bytes(output)
    assert not [word for word in [*gone, b"person0", b"-track0"] if word in after]
    assert sorted(faces_of(output)) == [(clip, frame, 1) for clip in CLIPS for frame in range(4)]
    slots = {"embeddings/e1": 8, "faces/f1": 8, "landmarks/l1": 8}
    snapshot = {"tracks/t1": 2, "identities/t1": 1, "ambiguous_pairs/t1": 1, "lineage/t1": 1}
    assert audit["rows"] == {**slots, **snapshot}
    assert parquet.read_version(output, "clips", "c1")["faces"].to_pylist() == [4, 4]
    assert replan(output).work.num_rows == 0
    (bob,) = parquet.read_version(output, "identities", "t1").to_pylist()
    assert (bob["identity_id"], bob["next_identity_id"], bob["next_cosine"], bob["margin"]) == (
        "person1",
        None,
        None,
        None,
    )


def test_a_forgotten_person_is_not_written_when_the_faces_are_detected_again(output):
    erase.erase_identity(output, "person0")
    again = pa.Table.from_pylist([flow_row("bbbb2222", 0)], schema=schema.FLOW)
    job = RunContext.of(output.root, Config(), {"face": "f2", "embeddings": "e2", "landmarks": "l2"})
    assert write.commit_chunks(again, job)["faces"].to_pylist() == [2]
    boxes = parquet.read_version(output, "faces", "f2")["box_x1"].to_pylist()
    assert boxes == [CLIPS["bbbb2222"] + 50] * 2
    vectors = parquet.read_version(output, "embeddings", "e2")["embedding"].to_pylist()
    assert all(np.array_equal(np.float32(vector), embedding("bbbb2222", 1)) for vector in vectors)


def test_stored_faces_keep_their_numbers_when_a_table_is_computed_from_them(output):
    erase.erase_identity(output, "person0")
    row = flow_row("bbbb2222", 0)
    stored = {**row, "slots": ["landmarks"], "face_index": [0, 1], "face_number": [1, 1], "face": row["face"][15:45]}
    stored["landmarks"] = row["landmarks"][: 2 * 136]
    write.commit_chunks(
        pa.Table.from_pylist([stored], schema=schema.FLOW), RunContext.of(output.root, Config(), {"landmarks": "l2"})
    )
    assert parquet.read_version(output, "landmarks", "l2")["face"].to_pylist() == [1, 1]


def test_the_audit_says_what_was_done_and_names_nobody(output):
    erase.erase_clip(output, "aaaa1111")
    (path,) = (Path(output.root) / "audit").iterdir()
    audit = json.loads(path.read_text())
    assert audit["kind"] == "clip"
    assert audit["rows"]["faces/f1"] == 8
    assert audit["documents"]["runs/r.json"] == "cleaned"
    assert not (Path(output.root) / erase.PENDING).exists()


def test_a_clip_is_found_by_its_key_unless_two_have_it(output):
    def name_them(*keys):
        rows, complete_for = read_shard(output, "clips", "c1", "s")
        place = rows.column_names.index("key")
        rows = rows.set_column(place, rows.schema.field("key"), pa.array(keys, pa.string()))
        write_shard(output, "clips", "c1", "s", rows, complete_for)
        return rows["clip_id"].to_pylist()

    first, second = name_them("monday", "tuesday")
    assert erase.find_clip(output, "monday") == first
    assert erase.find_clip(output, uri(second)) == second
    name_them("monday", "monday")
    with pytest.raises(ConfigError, match="2 clips have the key or uri monday"):
        erase.find_clip(output, "monday")


def test_an_unknown_person_is_refused(output):
    with pytest.raises(ConfigError, match="nobody"):
        erase.erase_identity(output, "nobody")


def test_quarantined_clips_are_listed_and_tried_again(output):
    from pipeline.stages.write import ACCOUNT

    longer = Corpus(pa.concat_tables([corpus().clips, corpus().clips.slice(0, 1)]), [])
    rows = longer.clips.to_pylist()
    rows[2] |= {"clip_id": "cccc3333", "uri": uri("cccc3333")}
    longer = Corpus(pa.Table.from_pylist(rows, schema=schema.CLIP), [])
    run_ledger = RunLedger(output, make_plan(longer, output, VERSIONS, TABLES, NEEDS), VERSIONS, TABLES)
    error = {"stage": "decode", "error_class": "truncated", "message": "cut off"}
    account = {"clip_id": "cccc3333", "slots": list(VERSIONS), "first": 0, "count": 0, "faces": 0, "last": True}
    run_ledger.add(pa.Table.from_pylist([{**account, "video": None, "error": error}], schema=ACCOUNT))
    assert make_plan(longer, output, VERSIONS, TABLES, NEEDS).work.num_rows == 0
    assert quarantine.select_rows(output, {"error_class": "truncated"})["clip_id"].to_pylist() == ["cccc3333"]
    assert quarantine.release(output, {"error_class": "corrupt"}) == 0
    with pytest.raises(ConfigError, match="error_class"):
        quarantine.select_rows(output, {"reason": "truncated"})
    assert quarantine.release(output, {"error_class": "truncated"}) == 1
    assert quarantine.select_rows(output, {}).num_rows == 0
    assert make_plan(longer, output, VERSIONS, TABLES, NEEDS).work["clip_id"].to_pylist() == ["cccc3333"]


def test_a_forgotten_persons_name_pairs_and_lineage_go_and_those_of_others_stay(output):
    erase.erase_identity(output, "person0")
    assert [decision.name for decision in read_overrides(output)] == ["Bob"]
    assert parquet.read_version(output, "ambiguous_pairs", "t1").num_rows == 0
    assert parquet.read_version(output, "lineage", "t1").num_rows == 0
    assert b"person0" not in all_bytes(output)


def test_of_a_forgotten_clip_decisions_lose_its_tracks_alone(output):
    erase.erase_clip(output, "aaaa1111")
    assert [(d.name, d.tracks) for d in read_overrides(output)] == [
        ("Ada", ("bbbb2222-track0",)),
        ("Bob", ("bbbb2222-track1",)),
    ]
    assert parquet.read_version(output, "ambiguous_pairs", "t1").num_rows == 1


@pytest.fixture
def closed_early(output):
    """The output with `bbbb2222` as builds before 0.2 left a clip after a loss in mid-write: done, without facts."""
    rows, complete_for = read_shard(output, "clips", "c1", "s")
    entries = rows.to_pylist()
    for row in entries:
        if row["clip_id"] == "bbbb2222":
            row |= {"frames": None, "sampled": None}
    rewrite_shard(output, "clips", "c1", "s", pa.Table.from_pylist(entries, schema=schema.CLIPS), complete_for)
    return output


def left_of(output):
    rows, _ = read_shard(output, "clips", "c1", "s")
    return [(row["clip_id"], row["frames"], row["faces"]) for row in rows.to_pylist()]


def test_a_clip_that_an_earlier_build_closed_early_stops_no_erasure(closed_early):
    erase.erase_clip(closed_early, "aaaa1111")
    assert left_of(closed_early) == [("bbbb2222", None, 8)]
    erase.erase_clip(closed_early, "bbbb2222")
    assert left_of(closed_early) == []


def test_a_clip_that_an_earlier_build_closed_early_stops_no_erasure_of_a_person(closed_early):
    erase.erase_identity(closed_early, "person0")
    assert left_of(closed_early) == [("aaaa1111", 4, 4), ("bbbb2222", None, 4)]
