"""The scheduled reprocessing: what `infra/kuberay/reprocess.sh` does with real outputs and the real command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pipeline
from pipeline.storage.output import open_output
from pipeline.tables import parquet

PROJECT = Path(__file__).resolve().parents[2]
CHAOS = PROJECT / "tests" / "chaos"
SCRIPT = PROJECT / "infra" / "kuberay" / "reprocess.sh"
MOODS = '''
"""An emotion model that says the same of every face."""
import torch
from torch import nn


class Same(nn.Module):
    def __init__(self, anger):
        super().__init__()
        self.anger = anger

    def forward(self, crops_NCHW):
        return torch.tensor([[self.anger, 1 - self.anger, 0, 0, 0, 0, 0]]).expand(len(crops_NCHW), 7)


def same(weights, anger):
    return Same(anger)
'''


@pytest.fixture(scope="module")
def place(annotate, tmp_path_factory):
    """A corpus, a canary, outputs of both by `v1.yaml`, and a model that differs by 0.2 from it in `v2.yaml`."""
    sys.path.append(str(CHAOS))
    from corpus import write_clip

    place = tmp_path_factory.mktemp("nightly")
    (place / "clips").mkdir()
    (place / "canary").mkdir()
    for name in ("a", "b"):
        write_clip(place / "clips" / f"{name}.mp4", 0)
    (place / "canary" / "a.mp4").symlink_to(place / "clips" / "a.mp4")
    (place / "canary" / "old.mp4").symlink_to(place / "clips" / "b.mp4")
    shutil.copy(CHAOS / "square_models.py", place)
    (place / "moods.py").write_text(MOODS)
    bundle = yaml.safe_load((CHAOS / "squares.yaml").read_text())
    for name, anger in (("v1", 0.1), ("v2", 0.8)):  # a difference of 0.7 in two emotions of seven
        bundle["models"]["emotions"] = {"factory": "moods:same", "input": "crops112", "parameters": {"anger": anger}}
        (place / f"{name}.yaml").write_text(yaml.safe_dump(bundle))
    assert annotate(place / "clips", place / "out", str(place / "v1.yaml")).complete
    assert annotate(place / "canary", place / "canary_out", str(place / "v1.yaml")).complete
    (place / "canary" / "old.mp4").unlink()  # the canary's output may hold more than the canary
    return place


@pytest.fixture(scope="module")
def reprocess(place):
    """reprocess(limits, out): exit code and output of the script with the new model."""
    import ray

    settings = ("actors.gpus=0", f"ray.address={ray.get_runtime_context().gcs_address}")

    def run(limits, out):
        done = subprocess.run(
            ["bash", SCRIPT, place / "clips", out, place / "canary", place / "canary_out"],
            cwd=place,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(PROJECT),
                "BUNDLE": str(place / "v2.yaml"),
                "OPTIONS": " ".join(f"--set {setting}" for setting in settings),
                "LIMITS": limits,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_upgrade_that_changes_more_than_the_limit_is_held_until_the_limit_is_raised(place, reprocess):
    out = place / "out"
    before, old = files_of(out), parquet.read_current(open_output(str(out)))["emotions"]
    code, text = reprocess("emotions mean_delta=0.1", out)
    assert code == 3, text
    new = parquet.read_current(open_output(str(place / "canary_out")))["emotions"]
    assert f"HELD, {out} stays as it is: emotions {old} -> {new} (exit code 3 of versions diff)" in text
    assert "EXCEEDED" in text
    assert files_of(out) == before, "neither annotated nor switched"

    code, text = reprocess("emotions mean_delta=0.3", out)
    assert code == 0, text
    assert parquet.read_current(open_output(str(out)))["emotions"] == new
    anger = pipeline.read_table(str(out), "emotions", ["anger"])["anger"].to_pylist()
    assert anger == pytest.approx([0.8] * 80)


@pytest.mark.slow  # each call of the script starts five processes
def test_a_question_without_an_answer_is_held_too(place, reprocess, tmp_path):
    strange = tmp_path / "strange"
    shutil.copytree(place / "canary_out", strange)
    output = open_output(str(strange))
    parquet.promote(output, {"emotions": "0123456789ab"})
    shutil.copytree(next((strange / "emotions").iterdir()), strange / "emotions" / "version=0123456789ab")
    code, text = reprocess("emotions mean_delta=0.3", strange)
    assert (code, "exit code 2 of versions diff" in text) == (3, True), text

    (strange / "current.json").write_text('{"emotions": ')
    code, text = reprocess("emotions mean_delta=0.3", strange)
    assert (code, "its versions cannot be listed" in text) == (3, True), text


@pytest.mark.slow
def test_a_limit_on_a_table_that_there_is_not_is_an_error(place, reprocess, tmp_path):
    code, text = reprocess("emotion mean_delta=0.1", tmp_path / "new")
    assert (code, "has a table 'emotion'" in text) == (2, True), text
    assert not (tmp_path / "new").exists()
