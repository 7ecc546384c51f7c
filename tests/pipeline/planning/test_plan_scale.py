"""A plan of whole shards equals one that looks at every frame; and it plans a million clips in time."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.corpus.discover import Corpus
from pipeline.planning.plan import make_plan
from pipeline.planning.versions import tables_of
from pipeline.runs.accounting import RunLedger
from pipeline.storage.output import open_output
from pipeline.tables import parquet

VERSIONS = {"face": "f1", "landmarks": "l1", "emotions": "e1"}
TABLES = tables_of(VERSIONS, "c1")
SLOTS = ("face", "landmarks", "emotions")
NEEDS = {"face": (), "landmarks": ("face",), "emotions": ("face", "landmarks")}
LENGTH = 12


def random_output(output, seed):
    """Three shards of clips of LENGTH frames; each clip's tables hold all, nothing or some intervals of it."""
    rng = random.Random(seed)
    clips, held, ends = [], {}, {}
    for shard in ("a", "b", "c"):
        for number in range(8):
            clip = f"{shard}{number}"
            clips.append({"clip_id": clip, "uri": f"file:///{clip}", "shard": shard, "fingerprint": "x"})
            kind = rng.choice(["nothing", "all", "all", "some", "stale"])
            for slot in SLOTS if kind != "nothing" else ():
                whole = [(0, 5), (5, 7)]
                some = [(rng.randrange(LENGTH), rng.randint(1, 4)) for _ in range(3)]
                some = [(first, min(count, LENGTH - first)) for first, count in some]
                for first, count in some if kind == "some" else whole:
                    last = first + count == LENGTH
                    entry = {"clip_id": clip, "fingerprint": "old" if kind == "stale" else "x", "first": first}
                    entry |= {"count": count, "faces": 2, "last": last}
                    entry["video"] = {"frames": LENGTH, "sampled": LENGTH} if last else None
                    ledger = pa.Table.from_pylist([entry], schema=parquet.LEDGER)
                    empty = schema.slot_schema(slot).empty_table()
                    parquet.write_chunk_file(output, schema.TABLE_OF_SLOT[slot], VERSIONS[slot], shard, empty, ledger)
                    if kind != "stale":
                        held.setdefault((clip, slot), set()).update(range(first, first + count))
                        if last:
                            ends[clip] = LENGTH
    rng.shuffle(clips)
    return Corpus(pa.Table.from_pylist(clips, schema=schema.CLIP), []), held, ends


def asked(plan):
    """(clip, slot, frame) of all that a plan wants, frames up to twice the clips' length."""
    wanted = []
    for row in plan.work.to_pylist():
        have = {i for part in row["have"] for i in range(part["first"], min(part["first"] + part["count"], 2 * LENGTH))}
        wanted += [(row["clip_id"], slot, i) for slot in row["slots"] for i in range(2 * LENGTH) if i not in have]
    return wanted


@pytest.mark.parametrize("seed", range(6))
def test_a_plan_asks_for_every_missing_frame_once_and_for_no_other(seed, tmp_path):
    output = open_output(str(tmp_path))
    corpus, held, ends = random_output(output, seed)
    plan = make_plan(corpus, output, VERSIONS, TABLES, NEEDS)
    expected = {
        (clip, slot, frame)
        for clip in corpus.clips["clip_id"].to_pylist()
        for slot in SLOTS
        for frame in range(ends.get(clip, 2 * LENGTH))
        if frame not in held.get((clip, slot), ())
    }
    assert sorted(asked(plan)) == sorted(expected)
    open_clips = {clip for clip, _, _ in expected}
    run_ledger = RunLedger(output, plan, VERSIONS, TABLES)
    assert run_ledger.missing == sorted(open_clips)
    assert run_ledger.outcomes["done"] == corpus.clips.num_rows - len(open_clips)
    work = {(row["clip_id"], *row["slots"]): row for row in plan.work.to_pylist()}
    for key, row in work.items():
        for stored in row["stored"]:
            assert stored["slot"] not in key
            assert all(f"shard={row['shard']}" in path for path in stored["paths"])
            assert bool(stored["paths"]) == bool(held.get((key[0], stored["slot"])))


@pytest.mark.parametrize("seed", range(3))
def test_every_table_of_the_summary_counts_every_clip(seed, tmp_path):
    output = open_output(str(tmp_path))
    corpus, held, ends = random_output(output, seed)
    summary = make_plan(corpus, output, VERSIONS, TABLES, NEEDS).summary.to_pylist()
    for shard in ("a", "b", "c"):
        for slot in SLOTS:
            rows = [row for row in summary if (row["shard"], row["slot"]) == (shard, slot)]
            assert sum(row["clips"] for row in rows) == 8
            full = {f"{shard}{i}" for i in range(8) if len(held.get((f"{shard}{i}", slot), ())) == LENGTH}
            assert sum(row["clips"] for row in rows if row["state"] == "present") == len(full)
    missing = [row for row in summary if row["state"] == "missing" and row["reason"] == "missing chunks"]
    known = sum(LENGTH - len(held.get((clip, slot), ())) for clip in ends for slot in SLOTS)
    assert sum(row["frames"] for row in missing if not row["unknown"]) <= known <= LENGTH * 24 * 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tenth", "all"])
def test_a_million_clips_are_planned_in_a_minute_and_four_gigabytes(kind, tmp_path):
    script = [sys.executable, str(Path(__file__).with_name("synthetic.py")), str(tmp_path), "1000000", kind]
    subprocess.run([*script, "write"], check=True)
    figures = json.loads(subprocess.run(script, check=True, capture_output=True, text=True).stdout)
    assert figures["plan_s"] < 60
    assert figures["plan_peak_gb"] < 4
    assert figures["ended"] == (900_000 if kind == "tenth" else 1_000_000)
