"""Outputs of any size without a video: only what a plan reads, the footers and the `clips` files.

As a script it measures a plan: python tests/pipeline/planning/synthetic.py FOLDER CLIPS KIND prints seconds and peak
memory;
KIND is `all` or `tenth` (a tenth of the clips is not complete). With a last argument `write` it makes the output.
Once measured, the first kind has `clips` files, which the next measurement then reads instead of the footers.
"""

import json
import resource
import sys
import time
from pathlib import Path

import pyarrow as pa

from pipeline import schema
from pipeline.corpus.discover import Corpus
from pipeline.planning.plan import make_plan
from pipeline.planning.versions import tables_of
from pipeline.runs.accounting import RunLedger
from pipeline.storage.output import open_output
from pipeline.tables import parquet

SLOTS = schema.SLOTS
VERSIONS = {slot: f"{slot}-1" for slot in SLOTS}
TABLES = tables_of(VERSIONS, "c1")
NEEDS = {slot: () if slot == "face" else ("face",) for slot in SLOTS}
CHUNKS, CHUNK_FRAMES, CLIPS_PER_SHARD = 4, 32, 1000
VIDEO = {"frames": 128, "sampled": 128, "fps": 25.0, "width": 512, "height": 512, "codec": "h264"}


def make_corpus(clips):
    number = range(clips)
    columns = {
        "clip_id": [f"{i * 0x9E3779B97F4A7C15 % (1 << 64):016x}" for i in number],
        "uri": [f"s3://bucket/corpus/videos/part-{i // 1000:05d}/{i:09d}.mp4" for i in number],
        "size": list(number),
        "shard": [f"part-{i // CLIPS_PER_SHARD:05d}" for i in number],
        "key": [f"{i:09d}" for i in number],
        "fingerprint": [f"{i}-9e107d9d372bb6826bd81d3542a419d6" for i in number],
    }
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(clips, f.type) for f in schema.CLIP]
    return Corpus(pa.table(arrays, schema=schema.CLIP), [])


def write_footers(output, corpus, kept=lambda i: CHUNKS, chunks_per_file=CHUNKS * CLIPS_PER_SHARD, versions=VERSIONS):
    """The first chunks of each clip, as many as are to be kept of the i-th, in every slot's table."""
    rows = corpus.clips.select(["clip_id", "shard", "fingerprint"]).to_pylist()
    shards = {}
    for i, row in enumerate(rows):
        shards.setdefault(row["shard"], []).append((row, kept(i)))
    for shard, clips in shards.items():
        entries = [
            {
                **{name: clip[name] for name in ("clip_id", "fingerprint")},
                "first": k * CHUNK_FRAMES,
                "count": CHUNK_FRAMES,
                "faces": CHUNK_FRAMES,
                "last": k + 1 == CHUNKS,
                "video": VIDEO if k + 1 == CHUNKS else None,
            }
            for clip, count in clips
            for k in range(count)
        ]
        for at in range(0, len(entries), chunks_per_file):
            ledger = pa.Table.from_pylist(entries[at : at + chunks_per_file], schema=parquet.LEDGER)
            for slot in SLOTS:
                table, empty = schema.TABLE_OF_SLOT[slot], schema.slot_schema(slot).empty_table()
                parquet.write_chunk_file(output, table, versions[slot], shard, empty, ledger)


def measure(output, corpus):
    begun, cpu = time.monotonic(), time.process_time()
    plan = make_plan(corpus, output, VERSIONS, TABLES, NEEDS)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    begun = time.monotonic()
    run_ledger = RunLedger(output, plan, VERSIONS, TABLES)
    return {
        "clips": corpus.clips.num_rows,
        "plan_s": round(seconds, 1),
        "plan_cpu_s": round(cpu, 1),
        "plan_peak_gb": round(peak_gb, 2),
        "work": plan.work.num_rows,
        "python_states": len(plan.states),
        "ledger_s": round(time.monotonic() - begun, 1),
        "ended": run_ledger.clips_ended,
    }


def a_tenth_missing(i):
    """Of every twentieth clip nothing is stored, and of another twentieth only the first chunk."""
    return {0: 0, 10: 1}.get(i % 20, CHUNKS)


if __name__ == "__main__":
    folder, clips, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    out, wanted = open_output(str(folder)), make_corpus(clips)
    if sys.argv[4:] == ["write"]:
        write_footers(out, wanted, a_tenth_missing if kind == "tenth" else lambda i: CHUNKS)
    else:
        print(json.dumps(measure(out, wanted)))
