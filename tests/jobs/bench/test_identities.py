"""The bench of who is who: what it prints, on made tracks and on real pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.bench.__main__ import app
from jobs.bench.real import list_mistakes

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "shared.yaml"
PRINTED = {"bcubed_f", "pairwise_f", "violations", "seconds", "neighbor_seconds", "peak_mb"}


def bench(*command):
    return CliRunner().invoke(app, [str(part) for part in command])


def test_made_tracks_are_saved_measured_and_plotted(tmp_path):
    made = bench("identities", "--make", "ms1m", "--n", 500, "--seed", 3, "--save", tmp_path / "x.npz", "--json")
    read = bench("identities", "--embeddings", tmp_path / "x.npz", "--json")
    results = [json.loads(done.output) for done in (made, read)]
    assert set(results[0]) >= PRINTED
    assert results[0]["bcubed_f"] == results[1]["bcubed_f"] > 0.8
    (tmp_path / "lines").write_text(made.output + read.output)
    assert bench("growth", tmp_path / "lines", "--plot", tmp_path / "growth.svg").exit_code == 0
    assert "<svg" in (tmp_path / "growth.svg").read_text()
    assert bench("growth", tmp_path / "x.npz", "--plot", tmp_path / "y.svg").exit_code == 2


def test_new_tracks_leave_the_ids_of_the_others(tmp_path):
    done = bench("identities", "--make", "celebv", "--n", 2000, "--seed", 3, "--grow", 0.1, "--json")
    result = json.loads(done.output)
    assert (result["n"], result["new"]) == (2000, 182)
    assert min(result[how]["kept"] for how in ("added", "afresh")) >= 0.995
    assert result["added"]["bcubed_f"] >= result["afresh"]["bcubed_f"] - 0.01


def test_mistakes_are_told_one_by_one():
    names, people = ["a1", "a2", "a3", "b1", "c1"], ["a", "a", "a", "b", "c"]
    unit = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
    assert list_mistakes(names, people, ["x", "x", "x", "y", None], unit) == []
    assert list_mistakes(names, people, ["x", "x", "y", "y", "z"], unit) == [
        "a3 is apart from a: cosine 0.00 to a1",
        "b1 (b) is with a: cosine 1.00 to a3",
    ]


@pytest.mark.slow
def test_real_pictures_and_videos_are_told_apart(data, weights):
    assert weights  # the bundle names them
    result = json.loads(bench("real", "--data", data, "--bundle", BUNDLE, "--json").output)
    assert result.pop("no face was found in") == []
    assert result["videos"]["bcubed_f"] == 1
    for source, scores in result.items():
        assert scores["bcubed_f"] >= 0.95, source
        assert scores["bcubed_precision"] == 1, source
        assert bool(scores["mistakes"]) == (scores["bcubed_f"] < 1)
