"""Who comes for what another process holds comes because that process died; deaths outlive the run."""

import json
from pathlib import Path

import pytest

from pipeline.isolation.registry import AttemptRegistry, InFlightMark, RegistryClient, remove_deaths, worker_name
from pipeline.storage.output import open_output

A, B = InFlightMark("decode", "a" * 16, "1", 0), InFlightMark("annotate:face", "b" * 16, "1", 32)


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


def test_what_nobody_holds_is_no_suspect(out):
    attempts = AttemptRegistry(out, snapshot_s=0)
    assert attempts.hold("one", [A, B]) == [0, 0]
    assert attempts.hold("one", [A, B]) == [0, 0]  # it asks again itself, so it lives


def test_what_a_dead_worker_held_is_a_suspect_and_its_neighbours_are_not(out):
    attempts = AttemptRegistry(out, snapshot_s=0)
    attempts.hold("one", [A])
    assert attempts.hold("two", [A, B]) == [1, 0]
    assert attempts.hold("three", [A]) == [2]


def test_what_was_released_or_left_for_other_work_is_no_suspect(out):
    attempts = AttemptRegistry(out, snapshot_s=0)
    attempts.hold("one", [A])
    attempts.release("one")
    assert attempts.hold("two", [A]) == [0]
    attempts.hold("two", [B])
    assert attempts.hold("three", [A]) == [0]


def test_deaths_outlive_the_keeper(out):
    attempts = AttemptRegistry(out, snapshot_s=0)
    attempts.hold("one", [A])
    attempts.hold("two", [A])
    attempts.died(A, "killed by signal 11 (SIGSEGV) while decoding")
    again = AttemptRegistry(out, snapshot_s=0)
    assert again.hold("three", [A]) == [2]
    other_bytes = InFlightMark(A.stage, A.clip_id, "2", A.part)
    assert again.hold("three", [other_bytes]) == [0]


def test_what_was_held_when_all_ended_is_met_with_care_once(out):
    attempts = AttemptRegistry(out, snapshot_s=0)
    attempts.hold("one", [A])
    attempts.snapshot()
    again = AttemptRegistry(out, snapshot_s=0)
    assert again.hold("two", [A, B]) == [1, 0]
    again.finish([])
    assert AttemptRegistry(out, snapshot_s=0).hold("three", [A]) == [0]


def test_snapshots_are_taken_without_being_asked(out):
    import time

    attempts = AttemptRegistry(out, snapshot_s=0.05)
    attempts.hold("one", [A])
    file = Path(out, "attempts", "open.json")
    deadline = time.monotonic() + 10
    while not file.exists() or not json.loads(file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert json.loads(file.read_text())[0]["clip_id"] == A.clip_id


def test_clips_with_an_outcome_leave_nothing_behind(out):
    attempts = AttemptRegistry(out, snapshot_s=0)
    for mark in (A, B):
        attempts.died(mark, "its worker died")
    attempts.snapshot()
    attempts.finish([A.clip_id])
    assert [path.name for path in Path(out, "attempts").iterdir()] == [f"{B.clip_id}.json"]
    remove_deaths(open_output(out), [B.clip_id, "never seen"])
    assert AttemptRegistry(out, snapshot_s=0).hold("one", [A, B]) == [0, 0]


def test_workers_learn_that_the_run_is_to_stop(out):
    marks = RegistryClient(AttemptRegistry(out, snapshot_s=0))
    assert not marks.stopping()
    marks.stop()
    assert not marks.stopping()  # asked less than a second ago
    marks._asked -= 2
    assert marks.stopping()


def test_a_worker_has_one_name():
    assert worker_name() == worker_name()
