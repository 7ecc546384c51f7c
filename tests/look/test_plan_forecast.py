"""`faceatlas plan` probes and measures; the run that follows sets what came of it beside the forecast."""

import json
import shutil
from pathlib import Path

import pytest
import squares
from documents import COMMANDS
from typer.testing import CliRunner

import pipeline
from jobs.cli import app
from jobs.commands.demo import make_corpus
from jobs.commands.report import to_page
from pipeline.report.gather import gather_report


def plan(*arguments):
    done = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos and a text that calls itself one."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "videos").mkdir()
    for key, colours in squares.CLIPS.items():
        squares.write_video(folder / "videos" / f"{key}.mp4", colours)
    (folder / "videos" / "text.mp4").write_text("not a video")
    return folder / "videos"


def test_headers_tell_clips_hours_and_frames_and_what_cannot_be_read(videos, tmp_path):
    out = tmp_path / "out"
    made = json.loads(plan(videos, out, "--bundle", "tiny", "--every", 2, "--json"))["forecast"]
    assert (made["clips"], made["unreadable"], made["frames"], made["sampled"]) == (4, 1, 72, 36)
    assert made["hours"] == pytest.approx(3 / 3600, rel=0.05)
    assert made["seconds"] is None
    assert not out.exists()
    assert "unknown without --measure, which times a few chunks" in plan(videos, out, "--bundle", "tiny")


def test_a_measurement_gives_time_cost_and_hours_of_each_model(videos, tmp_path):
    out = tmp_path / "out"
    (command,) = [command for command in COMMANDS if "--measure" in command.words]  # of the README
    arguments = [{"CORPUS": videos, "OUT": out}.get(word, word) for word in command.words[2:]]
    prices = ["--set", "plan.cpu_hour=0.05", "--set", "plan.cpus=2", "--set", "plan.gpus=0"]
    made = json.loads(plan(*arguments, "--bundle", "tiny", "--seconds", 1, *prices, "--json"))["forecast"]
    assert made["seconds"] > made["start_seconds"] > 0
    assert made["cost"] == pytest.approx(made["seconds"] / 3600 * 2 * 0.05)
    assert {"face", "landmarks", "emotions"} <= set(made["models"])
    assert made["models"]["face"]["device_hours"] > 0
    saved = json.loads((out / "forecast.json").read_text())
    assert saved["forecast"]["frames"] == 72
    assert "cost" in saved["forecast"]


@pytest.mark.slow
def test_the_forecast_of_a_corpus_is_within_30_percent(tmp_path):
    """Five minutes; the machine must do nothing else, or the times mean nothing."""
    import subprocess
    import sys

    make_corpus(str(tmp_path / "demo"))
    corpus = tmp_path / "shards"
    corpus.mkdir()
    for shard in (tmp_path / "demo").iterdir():
        for number in range(8):  # 64 clips, 2,016 frames
            shutil.copy(shard, corpus / f"{number}-{shard.name}")
    out = tmp_path / "out"
    command = [str(Path(sys.executable).parent / "faceatlas")]
    arguments = [str(corpus), str(out), "--bundle", "tiny", "--every", "5"]
    subprocess.run([*command, "plan", *arguments, "--measure", "--seconds", "20", "--save"], check=True)
    subprocess.run([*command, "annotate", *arguments], check=False)
    (record,) = [json.loads(path.read_text()) for path in (out / "runs").glob("*.json")]
    rows = record["forecast"]["against"]
    print(json.dumps(rows, indent=1))
    for row in rows:
        assert row["forecast"] == pytest.approx(row["actual"], rel=0.3), row
    assert record["cluster"]["cpus"] >= 2
    assert pipeline.read_table(str(out), "clips").num_rows == record["wanted"]
    assert "Forecast against actual" in to_page(gather_report(str(out), with_faces=False))
