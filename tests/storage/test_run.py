"""The whole job on S3: manifest, tar shard, videos and output, over a connection that breaks; and what it leaves."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest
import yaml
from servers import KEY, SECRET

import pipeline

PROJECT = Path(__file__).resolve().parents[2]
CHAOS = PROJECT / "tests" / "chaos"

# a minute for one whole run: with it the README's test line takes more than its 15 minutes on 2 cores
pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    """run(options, corpus, out) annotates in a process of its own; returns its exit code and all that it wrote."""

    def annotate(options, corpus, out, *assignments):
        settings = {"storage": {"options": options}, "actors": {"gpus": 0}, "ray": {"num_cpus": 2}}
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        arguments = [corpus, out, "--bundle", CHAOS / "squares.yaml", "--config", tmp_path / "settings.yaml"]
        arguments += [part for assignment in assignments for part in ("--set", assignment)]
        done = subprocess.run(
            [sys.executable, "-m", "jobs.annotate", *map(str, arguments)],
            cwd=PROJECT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": f"/tmp/fa{os.getpid()}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        return done.returncode, done.stdout + done.stderr

    return annotate


def test_a_corpus_on_s3_is_annotated_through_a_faulty_connection(run, s3, bucket, faulty, video):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(3):
            tar.add(video, f"member{i}.mp4")
    fs = fsspec.filesystem("s3", **s3)
    fs.pipe_file(f"{bucket}/corpus/shard.tar", buffer.getvalue())
    fs.pipe_file(f"{bucket}/corpus/single.mp4", video.read_bytes())
    fs.pipe_file(f"{bucket}/corpus/broken.mp4", b"no video")
    uris = [*("shard.tar,member0.mp4", "shard.tar,member1.mp4", "shard.tar,member2.mp4"), "single.mp4,", "broken.mp4,"]
    fs.pipe_file(f"{bucket}/corpus/list.csv", "\n".join(["uri,member", *uris]).encode())

    proxy = faulty(7, unavailable=0.05, cut=0.05, reset=0.02, slow=0.1, delay_s=0.2)
    out = f"s3://{bucket}/out"
    code, text = run(proxy.options, f"s3://{bucket}/corpus/list.csv", out)
    assert code == 0, text
    assert "5 clips: 4 done, 0 empty, 1 quarantined" in text
    assert min(proxy.done[kind] for kind in ("unavailable", "cut", "reset", "slow")) > 0
    faces = pipeline.read_table(out, "faces", storage_options=s3)
    assert faces.num_rows == 4 * 40
    assert len(faces.group_by(["clip_id", "frame", "face"]).aggregate([])) == 4 * 40

    code, again = run(proxy.options, f"s3://{bucket}/corpus/list.csv", out)
    assert (code, "this run wrote 0 frames" in again) == (0, True), again

    # what a run prints and leaves, its output and Ray's logs, does not hold the credentials
    left = [text, again, *(fs.cat_file(path).decode("latin-1") for path in fs.find(f"{bucket}/out"))]
    logs = list(Path(f"/tmp/fa{os.getpid()}").rglob("*"))
    left += [path.read_text(errors="replace") for path in logs if path.is_file() and not path.is_symlink()]
    assert len(left) > 20
    assert not [text for text in left if KEY in text or SECRET in text]


def test_the_demo_makes_its_corpus_and_its_tables_on_s3(s3, bucket, tmp_path):
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"storage": {"options": s3}, "ray": {"num_cpus": 2}}))
    place = f"s3://{bucket}-demo"  # the bucket is made, too
    done = subprocess.run(
        [Path(sys.executable).parent / "faceatlas", "demo", place, "--config", tmp_path / "settings.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found: 8 clips" in done.stdout
    fs = fsspec.filesystem("s3", **s3)
    assert fs.size(f"{place}/report.html") > 10_000
    assert len(fs.glob(f"{place}/corpus/*.tar")) == 2
    assert pipeline.read_table(f"{place}/tables", "clips", storage_options=s3).num_rows == 8
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]
