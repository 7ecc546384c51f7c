"""The benches of whole runs, each in a process of its own: what they print is what happened."""

import json
import os
import subprocess
import sys

import pytest


def bench(*command):
    words = [sys.executable, "-m", "jobs.bench", *map(str, command), "--json"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_is_sampled_while_a_clip_is_annotated(video, tmp_path):
    plot = tmp_path / "memory.svg"
    said = bench("memory", "--video", video, "--every-s", 0.25, "--plot", plot)
    assert said["frames"] == said["faces"] == 72
    assert len(said["seconds"]) == len(said["store_mb"]) == len(said["pss_mb"]["actor"]) > 2
    assert said["seconds"] == sorted(said["seconds"])
    assert set(said["uss_mb"]) == {"driver", "actor", "tasks", "raylet", "rest of Ray"}
    assert said["most_processes"]["actor"] == 1
    most = said["peak_mb"]["uss_mb"]
    assert most["actor"] > 100  # torch and the models
    assert most["actor"] > most["driver"] > 50  # which loads no torch
    assert 32 * 640 * 360 * 1.5 / 1e6 < said["peak_mb"]["store"] < 300  # a chunk of frames, and not much more
    assert "<svg" in plot.read_text()


@pytest.mark.slow
def test_the_engine_is_compared_to_the_loop_on_the_same_frames(video, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).symlink_to(video)
    details = (said := bench("engine", "--video", tmp_path))["details"]
    assert (said["frames"], said["faces"], details["first_clip_frames"]) == (144, 144, 72)
    assert details["cost"] == pytest.approx(
        said["seconds"] / (details["loop_seconds"][0] + details["load_models_seconds"]) - 1, abs=0.01
    )
    beyond = (said["seconds"] - details["first_clip_alone_seconds"][0]) / 72
    assert details["cost_once_started"] == pytest.approx(beyond / (details["loop_seconds"][0] / 144) - 1, abs=0.02)


@pytest.mark.slow
def test_a_short_run_is_taken_apart(video):
    said = bench("short", "--video", video)
    details = said["details"]
    parts = details["plain_seconds"][0] + details["ray_seconds"][0] + details["stages"]["aggregate"]
    assert said["seconds"] == pytest.approx(parts, abs=0.02)
    assert 0 < details["ray_seconds"][0] < said["seconds"]


@pytest.mark.slow
def test_the_pipeline_is_measured_over_clips_and_actors(video):
    rows = bench("corpus", "--video", video, "--clips", "1,2", "--actors", "1,2")
    assert [(row["clips"], row["actors"], row["frames"]) for row in rows] == [(1, 1, 72), (2, 1, 144), (2, 2, 144)]
    assert all(row["faces"] == row["frames"] and row["frames_per_s"] > 0 for row in rows)
