"""A clip is closed only by a row that saw the end of its video, once every slot covers it from 0 to there."""

import itertools
import json
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schema
from pipeline.config.models import load_config
from pipeline.corpus.discover import Corpus
from pipeline.errors import OutputError
from pipeline.isolation.registry import AttemptRegistry, RegistryClient
from pipeline.planning.plan import make_plan
from pipeline.planning.versions import tables_of
from pipeline.runs.accounting import RunLedger
from pipeline.runs.context import RunContext
from pipeline.stages.decode import decode_clips
from pipeline.stages.write import ACCOUNT
from pipeline.storage.output import open_output
from pipeline.tables import parquet, status
from pipeline.tables.shard_file import VERSIONS_KEY, read_shard, write_shard

FRAMES = 12
SLOTS = ("face", "landmarks", "emotions")
VERSIONS = {"face": "f1", "landmarks": "l1", "emotions": "e1"}
TABLES = tables_of(VERSIONS, "c1")
NEEDS = {"face": (), "landmarks": ("face",), "emotions": ("face", "landmarks")}
CLIP = {"clip_id": "a", "shard": "s", "fingerprint": "x"}
FACTS = {"frames": FRAMES, "sampled": FRAMES, "fps": 25.0, "width": 64, "height": 48}


@pytest.fixture(scope="module")
def corpus(make_video, tmp_path_factory):
    video = make_video(tmp_path_factory.mktemp("videos") / "v.mp4", count=FRAMES)
    return Corpus(pa.Table.from_pylist([{**CLIP, "uri": video.as_uri()}], schema=schema.CLIP), [])


def store_chunk(output, slot, first, count, last=False, video=None):
    """One chunk of a slot as a run leaves it, with a face in every second frame."""
    faces = [frame for frame in range(first, first + count) if frame % 2 == 0]
    empty = schema.slot_schema(slot).empty_table()
    rows = pa.table(
        [
            pa.array(
                {"clip_id": ["a"] * len(faces), "frame": faces, "face": [0] * len(faces)}.get(
                    column.name, [None] * len(faces)
                ),
                column.type,
            )
            for column in empty.schema
        ],
        schema=empty.schema,
    )
    entry = {**CLIP, "first": first, "count": count, "faces": len(faces), "last": last, "video": video}
    ledger = pa.Table.from_pylist([entry], schema=parquet.LEDGER)
    parquet.write_chunk_file(output, schema.TABLE_OF_SLOT[slot], VERSIONS[slot], "s", rows, ledger)


def accounts_of(output, corpus, seed):
    """What a run would say of the planned work, decoded for real, in an order that workers might end in."""
    plan = make_plan(corpus, output, VERSIONS, TABLES, NEEDS)
    job = RunContext.of(output.root, load_config(None, ["decode.chunk_frames=3"], {}), VERSIONS)
    marks = RegistryClient(AttemptRegistry(job.out, snapshot_s=0))
    rows = [row for table in decode_clips(plan.work, job, marks) for row in table.to_pylist()]
    random.Random(seed).shuffle(rows)
    return plan, [{**{name: row[name] for name in ACCOUNT.names if name in row}, "faces": 0} for row in rows]


pieces = st.lists(st.integers(1, FRAMES - 1), max_size=4, unique=True).map(
    lambda cuts: list(itertools.pairwise([0, *sorted(cuts), FRAMES]))
)


@settings(max_examples=60, deadline=None)
@given(
    pieces, st.tuples(*[st.sets(st.integers(0, 4))] * 3), st.booleans(), st.sampled_from(["none", "old"]), st.integers()
)
def test_no_plan_ends_a_clip_early(corpus, tmp_path_factory, tiles, held, nested, lies, seed):
    """Whatever each slot has stored; `old`: with ends without facts, as builds before 0.2 left them."""
    output = open_output(str(tmp_path_factory.mktemp("out")))
    stored = {}
    for place, slot in enumerate(SLOTS):
        stored[slot] = {i for i in held[place] if i < len(tiles)}
        if nested and place:  # as a run leaves it: no slot is ahead of `faces`
            stored[slot] &= stored[SLOTS[place - 1]]
        for i in stored[slot]:
            first, end = tiles[i]
            sees_end = end == FRAMES
            store_chunk(output, slot, first, end - first, sees_end or lies == "old", FACTS if sees_end else None)

    plan, accounts = accounts_of(output, corpus, seed)
    run_ledger = RunLedger(output, plan, VERSIONS, TABLES)
    covered = {slot: {f for i in stored[slot] for f in range(*tiles[i])} for slot in SLOTS}
    for account in [None, *accounts]:
        if account is not None:
            run_ledger.add(pa.Table.from_pylist([account], schema=ACCOUNT))
            for slot in account["slots"]:
                covered[slot] |= set(range(account["first"], account["first"] + account["count"]))
        whole = all(frames == set(range(FRAMES)) for frames in covered.values())
        assert whole or run_ledger.missing == ["a"]
    assert run_ledger.outcomes == {"done": 1, "empty": 0, "quarantined": 0}
    (row,) = read_shard(output, "clips", "c1", "s")[0].to_pylist()
    assert (row["frames"], row["fps"], row["width"]) == (FRAMES, 25.0, 64)


def test_a_slot_that_lags_says_nothing_of_the_end(corpus, tmp_path):
    output = open_output(str(tmp_path / "out"))
    for first in (0, 4):
        store_chunk(output, "face", first, 4)
    store_chunk(output, "landmarks", 0, 4)
    store_chunk(output, "emotions", 0, 4)
    _, accounts = accounts_of(output, corpus, seed=0)
    ends = [account for account in accounts if account["last"]]
    assert [(end["slots"], end["video"]["frames"]) for end in ends] == [(list(SLOTS), FRAMES)]


def closed_early(output):
    """A `clips` file as builds before 0.2 wrote it after a loss in mid-write: done, without facts of the video."""
    for slot in SLOTS:
        store_chunk(output, slot, 0, 4, last=True)
    row = {**CLIP, "uri": "file:///v.mp4", "status": "done", "faces": 2}
    rows = pa.Table.from_pylist([row], schema=schema.CLIPS)
    vouched = VERSIONS
    path = f"{parquet.partition('clips', 'c1', 's')}/clips.parquet"
    parquet.write_parquet(output, path, rows, {VERSIONS_KEY: json.dumps(vouched).encode()})
    parquet.promote(output, TABLES)


def test_a_clip_that_was_closed_early_is_found_by_status_and_taken_up_by_the_plan(corpus, tmp_path):
    output = open_output(str(tmp_path / "out"))
    closed_early(output)
    found = status.read_status(output.root)
    assert found["clips"] == {"done": 0, "empty": 0, "quarantined": 0, "closed early": 1}
    plan, accounts = accounts_of(output, corpus, seed=0)
    assert plan.reasons == {"closed before its end": 1}
    assert [row["have"] for row in plan.work.to_pylist()] == [[{"first": 0, "count": 4}]]
    run_ledger = RunLedger(output, plan, VERSIONS, TABLES)
    run_ledger.add(pa.Table.from_pylist(accounts, schema=ACCOUNT))
    assert read_shard(output, "clips", "c1", "s")[0]["frames"].to_pylist() == [FRAMES]
    assert status.read_status(output.root)["clips"] == {"done": 1, "empty": 0, "quarantined": 0}


@pytest.mark.parametrize("outcome", ["done", "empty"])
def test_a_row_without_facts_of_the_video_is_refused(outcome, tmp_path):
    output = open_output(str(tmp_path / "out"))
    rows = pa.Table.from_pylist([{**CLIP, "uri": "file:///v.mp4", "status": outcome}], schema=schema.CLIPS)
    with pytest.raises(OutputError, match=rf"clip a is {outcome}, but the end of its video was never decoded"):
        write_shard(output, "clips", "c1", "s", rows)
