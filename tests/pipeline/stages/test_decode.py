"""Work on its way to the decoders."""

import pyarrow as pa
import pytest

from pipeline.config.models import load_config
from pipeline.isolation.registry import AttemptRegistry, RegistryClient
from pipeline.planning.plan import WORK
from pipeline.runs.context import RunContext
from pipeline.stages.decode import decode_clips, decode_packed, pack_work


def row(clip, **values):
    stored = [{"slot": "face", "paths": ["a.parquet", "b.parquet"]}]
    row = {"clip_id": clip, "uri": f"file:///{clip}", "shard": "s", "slots": ["face"], "have": [], "end_known": False}
    return {**row, "stored": stored, "bbox": [0, 0.25, 0.5, 1], **values}


@pytest.mark.parametrize("blocks", [1, 3, 7])
def test_packed_work_is_the_work(blocks):
    work = pa.Table.from_pylist([row(str(n), have=[{"first": n, "count": 2}]) for n in range(7)], schema=WORK)
    packed = pack_work(work, blocks)
    assert len(packed) == blocks
    assert pa.concat_tables(pa.ipc.open_stream(block["work"]).read_all() for block in packed).equals(work)


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_clips_of_one_video_lie_in_one_block_in_order_of_time(blocks):
    uris = [*"abacbaad"]
    rows = [row(f"{n}", uri=f"file:///{uri}", start_s=8.0 - n if n else None) for n, uri in enumerate(uris)]
    rows += [row("8", uri="file:///a", slots=["pose"], start_s=None), row("9", uri="file:///a", fingerprint="new")]
    packed = [
        pa.ipc.open_stream(block["work"]).read_all()
        for block in pack_work(pa.Table.from_pylist(rows, schema=WORK), blocks)
    ]
    assert [clip for table in packed for clip in table["clip_id"].to_pylist()] == [*"0865241379"]
    videos = [{*zip(table["uri"].to_pylist(), table["fingerprint"].to_pylist(), strict=True)} for table in packed]
    assert sum(map(len, videos)) == len(set().union(*videos)) == 5
    assert len(packed) <= blocks


def test_packed_clips_are_decoded_as_others(make_video, tmp_path):
    videos = [make_video(tmp_path / f"{n}.mp4", count=3 + n) for n in range(3)]
    work = pa.Table.from_pylist([row(str(n), uri=path.as_uri(), stored=[]) for n, path in enumerate(videos)], WORK)
    job = RunContext.of(str(tmp_path / "out"), load_config(None, [], {}), {"face": "f1"})
    marks = RegistryClient(AttemptRegistry(job.out, snapshot_s=0))
    packed = pa.Table.from_pylist(pack_work(work, 2))
    plain = pa.concat_tables(decode_clips(work, job, marks)).drop_columns("ready")
    assert pa.concat_tables(decode_packed(packed, job, marks)).drop_columns("ready").equals(plain)
    assert [len(frames) for frames in plain["frames"]] == [3, 4, 5]
