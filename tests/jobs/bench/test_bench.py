"""The bench on a short video with small models: what it prints, and that it refuses a speed for wrong numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from actors.models.trees import read_trees
from actors.weights.catalog import BUNDLES
from actors.weights.skops_files import read_classifiers
from jobs.bench import standins
from jobs.bench.__main__ import app
from pipeline.schema import AU_NUMBERS

MODELS = """
import torch

from actors.models import Detections


class OneFace:
    def __init__(self, weights):
        pass

    def detect(self, frames_BCHW):
        count, _, height, width = frames_BCHW.shape
        boxes_N4 = torch.tensor([[0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height]]).repeat(count, 1)
        return Detections(torch.arange(count), boxes_N4, torch.ones(count), None)


class Faces(OneFace):
    def __init__(self, weights, faces):
        self.faces = faces

    def detect(self, frames_BCHW):
        one = super().detect(frames_BCHW)
        many = one.frame_N.repeat_interleave(self.faces)
        return Detections(many, one.boxes_N4[many], torch.ones(len(many)), None)


class Emotions:
    def __init__(self, weights, by_batch):
        self.by_batch = by_batch

    def __call__(self, crops_NCHW):
        answers_N7 = crops_NCHW.mean((1, 2, 3))[:, None].repeat(1, 7)
        return answers_N7 + (0.5 * (len(crops_NCHW) > 1) if self.by_batch else 0)
"""
BUNDLE = """
models:
  face: {factory: "bench_models:OneFace", input: frames}
  emotions: {factory: "bench_models:Emotions", input: crops112, parameters: {by_batch: BY_BATCH}}
"""


@pytest.fixture
def bundle(tmp_path):
    def make(by_batch):
        (tmp_path / "bench_models.py").write_text(MODELS)
        path = tmp_path / "bundle.yaml"
        path.write_text(BUNDLE.replace("BY_BATCH", str(by_batch).lower()))
        return str(path)

    return make


def bench(*command):
    return CliRunner().invoke(app, [str(part) for part in command])


def on(video, bundle, *command):
    return bench(*command, "--video", video, "--bundle", bundle, "--frames", 8, "--rounds", 1, "--json")


@pytest.mark.parametrize("what", ["actor", "models"])
def test_speed_is_printed_for_machines(video, bundle, what):
    done = on(video, bundle(by_batch=False), what)
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["frames"] == said["faces"] >= 8
    assert said["frames_per_s"] == pytest.approx(said["frames"] / said["seconds"], rel=0.05)
    assert said["details"]["deviations"] == {"face": 0.0, "emotions": 0.0}


@pytest.mark.parametrize("what", ["actor", "models"])
def test_a_model_that_answers_otherwise_in_batches_gets_no_speed(video, bundle, what):
    done = on(video, bundle(by_batch=True), what)
    assert done.exit_code == 2
    assert "slot emotions: deviates by 0.5" in done.stderr
    assert "frames_per_s" not in done.stdout


def test_an_upgrade_runs_its_model_alone_and_gives_the_same_numbers(video, bundle):
    every = ("--set", "decode.every=8", "--json")
    done = bench("upgrade", "--video", video, "--bundle", bundle(by_batch=False), *every)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["upgrade"]["frames"] == said["from_scratch"]["frames"] == 72 / 8
    assert min(said[name]["cpu_s"] for name in ("upgrade", "from_scratch")) > 0


def test_an_upgrade_of_a_slot_that_is_not_there_is_refused(video, bundle):
    assert bench("upgrade", "--video", video, "--bundle", bundle(by_batch=False), "--slot", "gaze").exit_code == 2


def test_the_actor_is_measured_over_frame_sizes_and_faces(bundle, tmp_path):
    path = bundle(by_batch=False)
    entry = '"bench_models:OneFace", input: frames'
    text = (tmp_path / "bundle.yaml").read_text()
    (tmp_path / "bundle.yaml").write_text(
        text.replace(entry, entry.replace("OneFace", "Faces") + ", parameters: {faces: 1}")
    )
    done = bench("scaling", "--bundle", path, "--sizes", "36,72", "--faces", "0,1,3", "--frames", 2, "--json")
    assert done.exit_code == 0, done.output
    rows = [(row["height"], row["faces_per_frame"], row["faces"] // row["frames"]) for row in json.loads(done.stdout)]
    assert rows == [(36, 0, 0), (36, 1, 1), (36, 3, 3), (72, 1, 1)]


def test_decoding_needs_no_model(video, bundle):
    said = json.loads(on(video, bundle(by_batch=False), "decode").stdout)
    assert (said["frames"] >= 8, said["faces"]) == (True, 0)


def test_standin_weights_have_the_published_layout(tmp_path):
    """The two that cost no second: a network's file, and the boosters in a small size."""
    standins._write("pose_mlp", "weights", tmp_path / "pose.safetensors")
    with safe_open(tmp_path / "pose.safetensors", "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    again = standins.standin_state("pose_mlp")
    assert held.keys() == again.keys()
    assert all(torch.equal(held[name], again[name]) for name in held)

    standins.write_boosters(tmp_path / "xgb.skops", components=16, trees=2)
    read = read_classifiers(tmp_path / "xgb.skops")
    assert set(read.classifiers) == {f"AU{au}" for au in AU_NUMBERS}
    assert read.region("upper")[1].components_.shape == (16, 5408)
    assert len(read_trees(read.classifiers["AU1"].handle)) == 2


def test_standin_networks_are_those_of_the_bundle():
    assert set(BUNDLES["pyfeat"].values()) - set(standins.NETS) == {"xgb"}


def test_fixed_faces_do_not_depend_on_the_frame(tmp_path):
    from safetensors.torch import save_file

    save_file(standins.standin_state("retinaface_r34"), tmp_path / "face.safetensors")
    net = standins.FixedFaces(tmp_path / "face.safetensors", faces=2)
    found = net.detect(torch.zeros(2, 3, 40, 100, dtype=torch.uint8))
    assert found.frame_N.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(found.boxes_N4[2], torch.tensor([30.0, 8.0, 90.0, 40.0]))


def test_the_peer_gets_the_weights_and_the_frames_of_the_actor(video, bundle, tmp_path):
    """A Python that only says what it was asked to run, as py-feat's environment takes 7 GB."""
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(f'#!/bin/sh\necho "$@" > {asked}\necho \'{{"frames": 18, "frames_per_s": 1.0}}\'\n')
    python.chmod(0o755)
    command = ["peer", "--video", video, "--bundle", bundle(by_batch=False), "--peer-python", python, "--json"]
    done = bench(*command, "--every", 4)
    assert done.exit_code == 0, done.output
    script, *arguments = asked.read_text().split()
    assert Path(script).is_file()
    assert arguments == [str(video), "--batch", "8", "--every", "4", "--threads", "2", "--weights", str(tmp_path)]
    assert json.loads(done.output.splitlines()[-1])["details"]["times_as_fast"] > 0
    assert bench(*command, "--every", 8).exit_code == 2  # the peer took 18 frames, not 9
    done = bench(*command, "--every", 4, "--peer-script", "other.py")
    assert asked.read_text().split() == ["other.py", *arguments[:-2]]
