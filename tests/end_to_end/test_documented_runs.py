"""Every `faceatlas annotate` of the documents, one after the other on one output, as their readers would."""

import json
import shlex
import sys
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import pipeline
from actors.weights.catalog import BUNDLES, MODELS
from jobs.cli import app
from pipeline.config.models import load_config
from pipeline.corpus.discover import read_corpus

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / name) for name in ("docs", "chaos", "look", "storage")]


@pytest.fixture
def place(tmp_path, monkeypatch, local_ray):
    """The working folder: CORPUS, and a manifest of it."""
    from corpus import write_clip

    (tmp_path / "CORPUS").mkdir()
    write_clip(tmp_path / "CORPUS" / "a.mp4", 0)
    monkeypatch.chdir(tmp_path)
    clips = read_corpus("CORPUS", load_config(None, [], {})).clips
    pq.write_table(clips.select(["uri", "shard"]), "manifest.parquet")
    # the GPUs of the Ray of these tests are only numbers, and it has few CPUs
    monkeypatch.setenv("FACEATLAS__ACTORS__GPUS", "0")
    monkeypatch.setenv("FACEATLAS__ACTORS__SIZE", "1")
    return tmp_path


def documented():
    """(document, words) of every command that annotates, those inside `docker run` and `ray job submit` too."""
    from documents import COMMANDS

    for command in COMMANDS:
        for start in (("faceatlas", "annotate"), ("python", "-m", "jobs.annotate")):
            words = command.inside(*start)
            if words and not any("models.mirror" in word for word in words):
                yield command.document, ["annotate", *words[len(start) :]]


def latest_run():
    return json.loads(max(Path("OUT/runs").glob("*.json")).read_text())


def run(words, line):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{line}\n{done.output}{done.exception or ''}"


def test_every_documented_run_ends_well(place):
    here = {"/data/videos": "CORPUS", "/data/out": "OUT"}
    frames = {}
    for document, words in documented():
        full = [here.get(word, word) for word in words]
        full = [word.replace("[s3://bucket/videos,", f"[{place}/CORPUS,") for word in full]
        if "--bundle" not in full:  # the default needs weights from the hub
            full += ["--bundle", str(TESTS / "chaos" / "squares.yaml")]
        line = f"{document}: {shlex.join(words)}"
        run(full, line)
        frames[line] = latest_run()["frames"]
    assert len(frames) >= 10
    assert frames["README.md: annotate CORPUS OUT --every 5"] == 8
    assert frames["README.md: annotate CORPUS OUT --set actors.gpus=0.5"] == 40
    assert frames["README.md: annotate CORPUS OUT"] == 0
    assert frames["docs/operations.md: annotate CORPUS OUT"] == 0, "back to the old bundle, whose tables are there"


def test_weights_are_pulled_to_a_mirror_and_a_run_takes_them_from_there(local_ray, tmp_path, hub_server, monkeypatch):
    import squares
    from documents import COMMANDS
    from servers import S3Server, options_of

    monkeypatch.chdir(tmp_path)
    squares.write_output(tmp_path, ("CORPUS", "OUT"))
    for clip in pipeline.read_table("OUT", "clips").to_pylist():  # what the hub of this test holds are no networks:
        forget = ["forget", "OUT", "--source", clip["uri"], "--corpus", "CORPUS"]  # they must have nothing to do
        run(forget, forget)
    for slot, model in BUNDLES["pyfeat"].items():
        for file in MODELS[slot][model].files.values():
            hub_server.files[f"{file.repo}/{file.names[0]}"] = file.repo.encode()
    server = S3Server()
    try:
        options = options_of(server.endpoint)
        fsspec.filesystem("s3", **options).mkdir("bucket")
        monkeypatch.setenv("FACEATLAS__STORAGE__OPTIONS", json.dumps(options))
        pull, annotate = [c for c in COMMANDS if c.words[1:3] == ("models", "pull") or "models.mirror" in c.text]
        run(pull.words[1:], pull.line)
        asked = len(hub_server.requests)
        run(annotate.words[1:], annotate.line)
    finally:
        server.stop()
    assert len(hub_server.requests) == asked
    places = [file["place"] for model in latest_run()["models"].values() for file in model["files"].values()]
    assert len(places) == 8
    assert all(place.startswith("s3://bucket/weights/") for place in places)
