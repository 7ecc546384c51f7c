"""Runs from Python, in a process of their own, which starts a Ray of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import faceatlas
from jobs.commands.demo import make_corpus

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys, faceatlas
corpus, out = sys.argv[1:]
arguments = {"bundle": "tiny", "every": 12, "settings": ["ray.num_cpus=2"]}
before = faceatlas.plan(corpus, out, **arguments)
report = faceatlas.annotate(corpus, out, **arguments)
after = faceatlas.plan(corpus, out, **arguments)
faces = faceatlas.read_table(out, "faces")
said = {"to_do": [before.work.num_rows, after.work.num_rows], "complete": report.complete, "clips": report.clips,
        "faces": [report.faces, faces.num_rows], "frames": sorted(set(faces["frame"].to_pylist()))}
print(json.dumps(said))
"""


def test_plan_and_annotate_return_what_the_commands_print_and_print_nothing(tmp_path):
    make_corpus(str(tmp_path / "corpus"))
    places = [str(tmp_path / "corpus"), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *places], check=True, capture_output=True, text=True, cwd=ROOT
    )
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["to_do"][0] >= 8
    assert said["to_do"][1] == 0
    assert said["complete"]
    assert said["clips"] == {"done": 7, "quarantined": 1, "empty": 0}
    assert said["faces"][0] == said["faces"][1] > 0
    assert said["frames"] == [0, 12, 24]


def test_a_wrong_setting_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(faceatlas.ConfigError, match=r"decode\.every"):
        faceatlas.annotate(tmp_path, tmp_path / "out", "tiny", every=0)
    with pytest.raises(faceatlas.BundleError, match="no_such_bundle"):
        faceatlas.plan(tmp_path, tmp_path / "out", "no_such_bundle")
    assert not (tmp_path / "out").exists()
