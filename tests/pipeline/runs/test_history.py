"""Records of runs are read in one form, whichever build wrote them."""

import json

import pytest

from pipeline.runs.history import faces_versions, read_runs
from pipeline.storage.output import open_output, write_bytes

PRESENT = {
    "run": "2",
    "missing": ["a"],
    "pending": 3,
    "versions": {"face": "f1", "emotions": "e1"},
    "tables": {"faces": "f1", "emotions": "e1", "clips": "c1", "quarantine": "c1", "tracks": "t1"},
    "models": {"face": {"model": "tiny", "license": "Apache-2.0"}},
}
OF_0_1 = {
    "run": "1",
    "unaccounted": ["a"],
    "held_back": 3,
    "versions": {"face": "f1", "emotions": "e1", "clips": "c1", "quarantine": "c1", "tracks": "t1"},
    "models": {"face": {"model": "tiny", "licence": "Apache-2.0"}},
}


@pytest.fixture
def output(tmp_path):
    return open_output(str(tmp_path))


@pytest.mark.parametrize("written", [PRESENT, OF_0_1], ids=["of_this_build", "of_0_1"])
def test_records_have_one_form(output, written):
    write_bytes(output, "runs/1.json", json.dumps(written).encode())
    (record,) = read_runs(output)
    assert record == PRESENT | {"run": written["run"]}
    assert faces_versions(output, "emotions", "e1") == {"f1"}


def test_the_latest_comes_first(output):
    for record in (OF_0_1, PRESENT):
        write_bytes(output, f"runs/{record['run']}.json", json.dumps(record).encode())
    assert [record["run"] for record in read_runs(output)] == ["2", "1"]
