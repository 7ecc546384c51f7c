"""SIGTERM, as a job stop or a pre-empted node sends it: what is finished is committed, the next run does the rest."""

import subprocess
import sys
import time
from pathlib import Path

import pyarrow.compute as pc
import pytest
import yaml

import pipeline
from pipeline.storage.output import open_output
from pipeline.tables import parquet

PROJECT = Path(__file__).resolve().parents[2]
CHAOS = PROJECT / "tests" / "chaos"
CLIPS, SETTINGS = 8, ("decode.chunk_frames=8", "store.chunks_per_file=1")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A corpus of short clips, and a bundle that takes two tenths of a second for each of their chunks."""
    sys.path.append(str(CHAOS))
    from corpus import write_clip

    folder = tmp_path_factory.mktemp("stop")
    (folder / "clips").mkdir()
    for i in range(CLIPS):
        write_clip(folder / "clips" / f"{i}.mp4", i)
    bundle = yaml.safe_load((CHAOS / "squares.yaml").read_text())
    bundle["models"]["face"]["parameters"] = {"delay_s": 0.2}
    (folder / "slow.yaml").write_text(yaml.safe_dump(bundle))
    (folder / "square_models.py").write_text((CHAOS / "square_models.py").read_text())
    return folder / "clips", folder / "slow.yaml"


def test_what_is_finished_is_committed_and_the_next_run_does_the_rest(annotate, squares, tmp_path):
    import ray

    clips, bundle = squares
    out = tmp_path / "out"
    # a second of grace is less than all the work that is left
    settings = [*SETTINGS, "actors.gpus=0", "faults.stop_grace_s=1"]
    settings.append(f"ray.address={ray.get_runtime_context().gcs_address}")
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.annotate", clips, out, "--bundle", bundle]
        + [part for setting in settings for part in ("--set", setting)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("faces/*/*/*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 143, text
    assert "stopped by a signal" in text.lower()
    assert "run the same command again" in text

    output = open_output(str(out))
    version = parquet.read_current(output)["faces"]
    (shard,) = {
        path.split("shard=")[1].split("/")[0] for path in parquet.list_parquet(output, f"faces/version={version}")
    }
    committed = pc.sum(parquet.read_ledger(output, "faces", version, shard)["count"]).as_py()
    assert 0 < committed < 40 * CLIPS

    report = annotate(clips, out, str(bundle), *SETTINGS)
    assert (report.complete, report.frames) == (True, 40 * CLIPS - committed)
    faces = pipeline.read_table(str(out), "faces", ["clip_id", "frame", "face"])
    assert len({tuple(row.values()) for row in faces.to_pylist()}) == faces.num_rows == 40 * CLIPS
    assert list((out / "attempts").iterdir()) == []
