"""The commands that look after an output, on one made without a video."""

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.config.models import LeaseConfig
from pipeline.storage import lease
from pipeline.storage.output import open_output
from pipeline.tables import parquet

WRITER = Path(__file__).resolve().parents[2] / "pipeline" / "tables" / "crash_writer.py"


@pytest.fixture
def out(tmp_path):
    spec = importlib.util.spec_from_file_location("crash_writer", WRITER)
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    folder = str(tmp_path / "out")
    writer.run(folder, {"aa11": "x", "bb22": "x"})
    writer.VERSIONS = {**writer.VERSIONS, "landmarks": "l2"}
    writer.run(folder, {"aa11": "x", "bb22": "x"})
    return folder


def call(*arguments):
    result = CliRunner().invoke(app, [str(part) for part in arguments])
    return result.exit_code, result.output


def test_versions_are_listed_compared_and_dropped(out):
    code, text = call("versions", "list", out, "--json")
    rows = {(row["table"], row["version"]): row for row in json.loads(text)}
    assert code == 0
    assert rows["landmarks", "l1"]["rows"] == rows["landmarks", "l2"]["rows"] == 16
    assert call("versions", "diff", out, "landmarks", "l1", "l2", "--limit", "mean_distance=0.5")[0] == 0
    code, text = call("versions", "diff", out, "landmarks", "l1", "l2", "--limit", "mean_distance=-1", "--json")
    assert (code, json.loads(text)["exceeded"]) == (3, ["mean_distance"])
    current = parquet.read_current(open_output(out))["landmarks"]
    assert call("versions", "drop", out, "landmarks", current)[0] == 2
    assert call("versions", "drop", out, "landmarks", ({"l1", "l2"} - {current}).pop())[0] == 0
    assert parquet.table_versions(open_output(out), "landmarks") == [current]


def test_status_tells_the_frames_of_the_videos_from_those_that_were_sampled(out):
    code, text = call("status", out)
    assert code == 0, text
    assert "frames: 16, 16 of them sampled" in text


def test_forget_leaves_no_row_and_says_so(out):
    code, text = call("erase", out, "--source", "file:///videos/aa11.mp4")
    assert code == 0, text
    assert "8 rows erased from faces/f1" in text
    code, text = call("erase", out, "--clip", "bb22")
    assert code == 0, text
    assert "8 rows erased from faces/f1" in text
    assert call("erase", out)[0] == 2
    assert call("forget", out) == call("erase", out)  # the name of 0.1


def test_forget_takes_the_uri_of_a_clip(out):
    code, text = call("erase", out, "--clip", "file:///videos/aa11.mp4")
    assert code == 0, text
    assert "8 rows erased from faces/f1" in text


def test_forget_says_that_it_erased_only_when_it_did(out):
    code, text = call("erase", out, "--clip", "interview_01")
    assert code == 2
    assert "there is no clip with the id, key or uri interview_01" in text
    for later in (["--clip", "0123456789abcdef"], ["--source", "file:///videos/later.mp4"]):
        code, text = call("erase", out, *later)
        assert code == 0
        assert "no table held a row of it; later runs leave it out" in text


def test_a_command_that_changes_an_output_in_use_is_refused(out):
    with lease.hold(open_output(out), "run of the test", LeaseConfig()):
        code, text = call("quarantine", "retry", out)
    assert code == 2, text
    assert call("quarantine", "list", out)[0] == 0
    assert call("quarantine", "retry", out)[0] == 0
    assert call("quarantine", "retry", out, "--where", "error_class")[0] == 2
