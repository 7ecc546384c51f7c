"""Kill -9 before each file operation of a writer, one after the other; `python crash_writer.py FOLDER SCENE`.

Prints the number of operations. Ends with an error if after any death a plain reader sees something it should not, or
if the next run does not end with the tables of an undisturbed one. Processes are forked: nothing here may run Arrow
before the fork.
"""

import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline import schema
from pipeline.config.models import Config, load_config
from pipeline.converge import drop_stale
from pipeline.corpus.discover import Corpus
from pipeline.isolation.registry import AttemptRegistry, RegistryClient
from pipeline.maintenance import erase
from pipeline.planning.plan import make_plan
from pipeline.planning.versions import tables_of
from pipeline.runs.accounting import RunLedger
from pipeline.runs.context import RunContext
from pipeline.stages import write
from pipeline.stages.decode import decode_clips
from pipeline.storage.output import open_output
from pipeline.tables import parquet

VERSIONS = {"face": "f1", "landmarks": "l1"}
NEEDS = {"face": (), "landmarks": ("face",)}
TABLES = {"faces": "f1", "landmarks": "l1"}
LENGTH, CHUNK = 8, 4
WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"}


def die_before(number, folder):
    """End this process with SIGKILL before the number-th operation that changes something below the folder."""
    seen = itertools.count(1)

    def watch(event, arguments):
        changes = event in WRITES and not (event == "open" and str(arguments[1]) in ("r", "rb", "None"))
        if changes and str(arguments[0]).startswith(str(folder)) and next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def run(out, prints):
    """What a run does, with models that need no video: one face per frame. prints: clip -> fingerprint."""
    rows = [{"clip_id": c, "uri": f"file:///videos/{c}.mp4", "shard": "s", "fingerprint": f} for c, f in prints.items()]
    corpus = Corpus(pa.Table.from_pylist(rows, schema=schema.CLIP), [])
    output = open_output(str(out))
    erase.finish_erasure(output)
    plan = make_plan(corpus, output, VERSIONS, tables_of(VERSIONS, "c1"), NEEDS)
    drop_stale(output, plan, VERSIONS)
    run_ledger = RunLedger(output, plan, VERSIONS, tables_of(VERSIONS, "c1"))
    flow = [row for work in plan.work.to_pylist() for row in flow_rows(work)]
    flow.sort(key=lambda row: row["first"])  # files hold chunks of several clips
    job = RunContext.of(str(out), Config(), VERSIONS)
    for at in range(0, len(flow), 2):
        run_ledger.add(write.commit_chunks(pa.Table.from_pylist(flow[at : at + 2], schema=schema.FLOW), job))
    assert not run_ledger.missing
    parquet.promote(output, {**TABLES, "clips": "c1", "quarantine": "c1"})
    return run_ledger


def flow_rows(work):
    have = {i for part in work["have"] for i in range(part["first"], min(part["first"] + part["count"], LENGTH))}
    for first in range(0, LENGTH, CHUNK):
        frames = [i for i in range(first, first + CHUNK) if i not in have]
        if not frames:
            continue
        last = frames[-1] == LENGTH - 1
        values = [float(len(work["fingerprint"]) + i) for i in frames]
        yield {
            **dict.fromkeys(schema.FLOW.names),
            **{name: work[name] for name in ("clip_id", "shard", "fingerprint", "slots")},
            "first": frames[0],
            "count": len(frames),
            "frames": frames,
            "times": [i / 25 for i in frames],
            "last": last,
            "video": {"frames": LENGTH, "sampled": LENGTH} if last else None,
            "face_index": list(range(len(frames))),
            "face": [v for value in values for v in [value, 1.0, value + 9.0, 9.0, 0.9, *[0.0] * 11]],
            "landmarks": [v for value in values for v in [value] * 136],
        }


# -- the end of a video that is really decoded, written in many small files -------------------------------------------

FRAMES, SMALL = 12, 2


def write_video(path):
    """A video of FRAMES frames; imported here, as nothing may load FFmpeg or Arrow's threads before the forks."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(FRAMES):
            picture = np.full((48, 64, 3), 10 + 15 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def annotate_video(out, lagging_first=False, die_at_clips=False):
    """A run over one real video: every chunk is a file of its own, one face per frame, models that need no weights.

    lagging_first: rows of slots that lag behind come first, as they do when other workers still decode.
    die_at_clips: SIGKILL as soon as the shard's `clips` file is there.
    """
    video = Path(out).parent / "video.mp4"
    if not video.exists():
        write_video(video)
    rows = [{"clip_id": "aa11", "uri": video.as_uri(), "shard": "s", "fingerprint": "x"}]
    corpus = Corpus(pa.Table.from_pylist(rows, schema=schema.CLIP), [])
    output = open_output(str(out))
    plan = make_plan(corpus, output, VERSIONS, tables_of(VERSIONS, "c1"), NEEDS)
    run_ledger = RunLedger(output, plan, VERSIONS, tables_of(VERSIONS, "c1"))
    job = RunContext.of(str(out), load_config(None, [f"decode.chunk_frames={SMALL}"], {}), VERSIONS)
    marks = RegistryClient(AttemptRegistry(job.out, snapshot_s=0))
    work = plan.work.take(pc.sort_indices(pc.list_value_length(plan.work["slots"]), null_placement="at_end"))
    for flow in decode_clips(work if lagging_first else plan.work, job, marks):
        run_ledger.add(write.commit_chunks(with_faces(flow), job))
        if die_at_clips and list(Path(out).rglob("clips.parquet")):
            os.kill(os.getpid(), signal.SIGKILL)
    assert not run_ledger.missing
    parquet.promote(output, {**TABLES, "clips": "c1", "quarantine": "c1"})


def with_faces(flow):
    """Flow rows with one face per frame that tells its frame."""
    rows = []
    for row in flow.to_pylist():
        row |= {"face_index": list(range(len(row["frames"]))), "face_number": None}
        row["face"] = [v for i in row["frames"] for v in [float(i), 1.0, i + 9.0, 9.0, 0.9, *[0.0] * 11]]
        row["landmarks"] = [v for i in row["frames"] for v in [float(i)] * 136]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema.FLOW)


def go_on_and_die_at_the_clips_file(out):
    """The run after a death, which ends with SIGKILL when it calls the clip finished; then a plain reader looks."""
    forked(lambda: annotate_video(out, lagging_first=True, die_at_clips=True))
    check(out)


def plain(out, table):
    """What a plain pyarrow reader sees of a table."""
    folder = Path(out) / table
    if not folder.exists():
        return []
    found = ds.dataset(folder, partitioning="hive")
    told = ("clip_id", "frame", "face", "box_x1", "landmarks", "status", "frames", "faces")
    names = [name for name in told if name in found.schema.names]
    return sorted(map(repr, found.to_table(columns=names).to_pylist())) if names else []


def check(out):
    """No row twice, no half chunk, no row of a face that `faces` lacks."""
    keys = {}
    for table in TABLES:
        folder = Path(out) / table
        files = list(folder.rglob("*.parquet")) if folder.exists() else []
        rows = ds.dataset(folder, partitioning="hive").to_table().to_pylist() if files else []
        keys[table] = [(row["clip_id"], row["frame"], row["face"]) for row in rows]
        assert len(set(keys[table])) == len(keys[table]), f"rows twice in {table}"
        size = SMALL if (Path(out).parent / "video.mp4").exists() else CHUNK
        for clip, first in {(clip, frame // size * size) for clip, frame, _ in keys[table]}:
            frames = [frame for c, frame, _ in keys[table] if c == clip and first <= frame < first + size]
            assert len(frames) == size, f"half a chunk in {table}"
    assert set(keys["landmarks"]) <= set(keys["faces"]), "rows of faces that are not there"


OLD, NEW = {"aa11": "x", "bb22": "x"}, {"aa11": "x", "bb22": "changed"}
#: kind -> what is there before, what is killed, what the next run does
SCENES = {
    "annotate": (lambda out: None, lambda out: (run(out, OLD), run(out, NEW)), lambda out: run(out, NEW)),
    "forget": (
        lambda out: run(out, OLD),
        lambda out: erase.erase_clip(open_output(str(out)), "bb22"),
        lambda out: (erase.erase_clip(open_output(str(out)), "bb22"), run(out, OLD)),
    ),
    "end": (
        lambda out: None,
        annotate_video,
        lambda out: (go_on_and_die_at_the_clips_file(out), annotate_video(out)),
    ),
}


def forked(work):
    """Run in a process of its own; its exit status."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


def disturbed(folder, kind, number):
    _, killed, after = SCENES[kind]
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    if (folder / "before").exists():
        shutil.copytree(folder / "before", out)

    def work():
        die_before(number, out)
        killed(out)

    def verify():
        if out.exists():
            check(out)
        after(out)
        check(out)
        calm = json.loads((folder / "calm.json").read_text())
        assert {table: plain(out, table) for table in calm} == calm

    status = forked(work)
    assert (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0) or os.WTERMSIG(status) == signal.SIGKILL
    assert forked(verify) == 0, f"after a death before operation {number}"
    return not os.WIFEXITED(status)


if __name__ == "__main__":
    base, scene = Path(sys.argv[1]), sys.argv[2]
    assert forked(lambda: SCENES[scene][0](base / "before")) == 0
    if (base / "before").exists():
        shutil.copytree(base / "before", base / "calm")

    def calm():
        SCENES[scene][1](base / "calm")
        SCENES[scene][2](base / "calm")
        (base / "calm.json").write_text(json.dumps({t: plain(base / "calm", t) for t in (*TABLES, "clips")}))

    assert forked(calm) == 0
    step = itertools.count(1)
    print(next(number for number in step if not disturbed(base, scene, number)) - 1)
