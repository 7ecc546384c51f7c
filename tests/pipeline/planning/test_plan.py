"""What a plan asks for, given what the tables hold."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schema
from pipeline.corpus.discover import Corpus
from pipeline.intervals import END, ClipState, complement
from pipeline.planning.plan import make_plan
from pipeline.planning.versions import tables_of
from pipeline.runs.accounting import RunLedger
from pipeline.stages.write import ACCOUNT
from pipeline.storage.output import open_output
from pipeline.tables import parquet
from pipeline.tables.shard_file import read_shard

VERSIONS = {"face": "f1", "landmarks": "l1"}
TABLES = tables_of(VERSIONS, "c1")
NEEDS = {"face": (), "landmarks": ("face",)}
VIDEO = {"frames": 40, "sampled": 40, "fps": 25.0, "width": 64, "height": 48}


@pytest.fixture
def output(tmp_path):
    return open_output(str(tmp_path / "out"))


def corpus(*names, fingerprint="a"):
    rows = [{"clip_id": n, "uri": f"file:///{n}", "shard": "s", "fingerprint": fingerprint} for n in names]
    return Corpus(pa.Table.from_pylist(rows, schema=schema.CLIP), [])


def commit(output, slot, clip, first, count, last=False, fingerprint="a"):
    entry = {"clip_id": clip, "fingerprint": fingerprint, "first": first, "count": count, "faces": 0, "last": last}
    ledger = pa.Table.from_pylist([{**entry, "video": VIDEO if last else None}], schema=parquet.LEDGER)
    rows = schema.slot_schema(slot).empty_table()
    return parquet.write_chunk_file(output, schema.TABLE_OF_SLOT[slot], VERSIONS[slot], "s", rows, ledger)


def work(plan):
    return {(row["clip_id"], *row["slots"]): row for row in plan.work.to_pylist()}


def test_a_new_clip_wants_all_slots_from_its_begin_to_its_end(output):
    plan = make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS)
    assert work(plan)["a", "face", "landmarks"]["have"] == []
    assert plan.reasons == {"new clip": 1}


def test_committed_chunks_are_left_out(output):
    for slot in ("face", "landmarks"):
        commit(output, slot, "a", 0, 32)
    plan = make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS)
    assert work(plan)["a", "face", "landmarks"]["have"] == [{"first": 0, "count": 32}]


def test_a_chunk_that_only_one_table_lacks_is_computed_from_the_stored_boxes(output):
    path = commit(output, "face", "a", 0, 32)
    commit(output, "face", "a", 32, 8, last=True)
    commit(output, "landmarks", "a", 32, 8, last=True)
    row = work(make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS))["a", "landmarks"]
    assert row["have"] == [{"first": 32, "count": END - 32}]
    assert path in row["stored"][0]["paths"]
    assert row["end_known"]


def test_the_chunk_size_may_change_between_runs(output):
    commit(output, "face", "a", 0, 32)
    commit(output, "landmarks", "a", 0, 16)
    plan = make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS)
    assert work(plan)["a", "landmarks"]["have"] == [{"first": 0, "count": 16}, {"first": 32, "count": END - 32}]
    assert work(plan)["a", "face", "landmarks"]["have"] == [{"first": 0, "count": 32}]


def test_a_finished_clip_needs_nothing_and_its_shard_file_is_written_from_the_footers(output):
    for slot in ("face", "landmarks"):
        commit(output, slot, "a", 0, 40, last=True)
    plan = make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS)
    assert plan.work.num_rows == 0
    run_ledger = RunLedger(output, plan, VERSIONS, TABLES)
    assert (run_ledger.outcomes["done"], run_ledger.missing) == (1, [])
    rows, versions = read_shard(output, "clips", "c1", "s")
    assert (rows["frames"].to_pylist(), versions) == ([40], {"face": "f1", "landmarks": "l1"})


def test_a_new_version_of_one_slot_leaves_the_others_alone(output):
    for slot in ("face", "landmarks"):
        commit(output, slot, "a", 0, 40, last=True)
    RunLedger(output, make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS), VERSIONS, TABLES)
    plan = make_plan(corpus("a"), output, {**VERSIONS, "landmarks": "l2"}, TABLES, NEEDS)
    assert list(work(plan)) == [("a", "landmarks")]
    assert plan.reasons == {"new version of landmarks": 1}
    assert plan.counts["face"] == {"present": 1, "missing": 0, "stale": 0}


def test_changed_bytes_make_a_clip_stale_and_its_rows_go(output):
    for slot in ("face", "landmarks"):
        commit(output, slot, "a", 0, 40, last=True)
    plan = make_plan(corpus("a", fingerprint="b"), output, VERSIONS, TABLES, NEEDS)
    assert plan.reasons == {"changed bytes": 1}
    assert work(plan)["a", "face", "landmarks"]["have"] == []
    parquet.drop_clips(output, "faces", "f1", "s", ["a"])
    assert parquet.read_ledger(output, "faces", "f1", "s").num_rows == 0


def test_a_clip_that_another_corpus_named_stays_in_its_shard(output):
    for clip in ("a", "b"):
        for slot in ("face", "landmarks"):
            commit(output, slot, clip, 0, 40, last=True)
        RunLedger(output, make_plan(corpus(clip), output, VERSIONS, TABLES, NEEDS), VERSIONS, TABLES)
    assert read_shard(output, "clips", "c1", "s")[0]["clip_id"].to_pylist() == ["a", "b"]


def account(clip, first, count, last=False, error=None):
    row = {"clip_id": clip, "slots": ["face", "landmarks"], "first": first, "count": count, "faces": 1, "last": last}
    return {**row, "video": VIDEO if last else None, "error": error}


def test_chunks_may_be_committed_in_any_order(output):
    run_ledger = RunLedger(output, make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS), VERSIONS, TABLES)
    rows = [account("a", 32, 8, last=True), account("a", 0, 16), account("a", 16, 16)]
    for row in rows:
        assert run_ledger.missing == ["a"]
        run_ledger.add(pa.Table.from_pylist([row], schema=ACCOUNT))
    assert run_ledger.outcomes == {"done": 1, "empty": 0, "quarantined": 0}
    assert (run_ledger.frames, run_ledger.faces) == (40, 3)


def test_an_error_quarantines_the_clip_and_the_next_plan_leaves_it_alone(output):
    run_ledger = RunLedger(output, make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS), VERSIONS, TABLES)
    error = {"stage": "decode", "error_class": "truncated", "message": "cut off after 32 frames"}
    rows = [account("a", 0, 32), account("a", 32, 0, last=True, error=error)]
    run_ledger.add(pa.Table.from_pylist(rows, schema=ACCOUNT))
    quarantine, _ = read_shard(output, "quarantine", "c1", "s")
    assert quarantine["message"].to_pylist() == ["cut off after 32 frames"]
    assert make_plan(corpus("a"), output, VERSIONS, TABLES, NEEDS).work.num_rows == 0


intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6)


@given(intervals)
def test_an_interval_and_its_complement_tile_everything(parts):
    inside = {i for first, count in parts for i in range(first, first + count)}
    outside = {i for first, count in complement(parts) for i in range(first, min(first + count, 100))}
    assert inside | outside == set(range(100))
    assert not inside & outside


@given(intervals, intervals, st.none() | st.integers(80, 90))
def test_missing_names_every_frame_and_slot_exactly_once(faces, landmarks, end):
    held = {"face": faces, "landmarks": landmarks}
    state = ClipState(held=held, end=end)
    asked = [
        (slot, frame)
        for slots, parts in state.missing(["face", "landmarks"]).items()
        for slot in slots
        for first, count in parts
        for frame in range(first, min(first + count, 100))
    ]
    top = 100 if end is None else end
    there = {(slot, i) for slot, parts in held.items() for first, count in parts for i in range(first, first + count)}
    assert sorted(asked) == sorted({(s, i) for s in held for i in range(top)} - there)


def test_a_tar_that_could_not_be_listed_is_named_no_more_once_its_members_are(output):
    tar, error = corpus("tar"), {"stage": "open", "error_class": "no_access", "message": "no permission"}
    run_ledger = RunLedger(output, make_plan(tar, output, VERSIONS, TABLES, NEEDS), VERSIONS, TABLES)
    run_ledger.add(pa.Table.from_pylist([account("tar", 0, 0, last=True, error=error)], schema=ACCOUNT))
    assert run_ledger.outcomes["quarantined"] == 1
    assert make_plan(tar, output, VERSIONS, TABLES, NEEDS).reasons == {"quarantined, tried again": 1}

    row = {"clip_id": "m", "uri": "file:///tar", "member": "m.mp4", "shard": "s", "fingerprint": "a"}
    member = Corpus(pa.Table.from_pylist([row], schema=schema.CLIP), [])
    run_ledger = RunLedger(output, make_plan(member, output, VERSIONS, TABLES, NEEDS), VERSIONS, TABLES)
    run_ledger.add(pa.Table.from_pylist([account("m", 0, 40, last=True)], schema=ACCOUNT))
    for table, rows in (("clips", ["m"]), ("quarantine", [])):
        assert parquet.read_version(output, table, "c1", ["clip_id"])["clip_id"].to_pylist() == rows
