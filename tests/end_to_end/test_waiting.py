"""A run that waits for room says for what; on a real cluster."""

import time

import pytest

from pipeline.isolation.registry import InFlightMark, start_registry


@pytest.fixture
def marks(local_ray, tmp_path):
    return start_registry(str(tmp_path / "out"), {})


@pytest.fixture
def too_large(local_ray):
    """Starts an actor that fits on no node, and gives it up at the end."""
    import ray

    class Waits:
        pass

    started = []
    yield lambda: started.append(ray.remote(num_cpus=90, memory=1e6)(Waits).remote())
    for actor in started:
        ray.kill(actor)


def said_in(seconds, marks, during=lambda: None):
    from pipeline.isolation.stall import watch_for_stalls

    said, ends = [], time.monotonic() + seconds
    with watch_for_stalls(marks, said.append, patience_s=1.0, every_s=0.2):
        while time.monotonic() < ends and not said:
            during()
            time.sleep(0.2)
        time.sleep(0.5)
    return said


def test_what_finds_no_room_is_said_once_with_what_to_do(marks, too_large):
    too_large()
    (words,) = said_in(20, marks)
    assert "1 with 90 CPU, 1 MB of memory" in words
    assert "Free on the nodes of the cluster (1): 4 CPU" in words
    assert "actors.size" in words


def test_a_run_whose_workers_are_at_work_is_not_said_to_wait(marks, too_large):
    too_large()
    mark = InFlightMark("decode", "clip", None, 0)
    assert said_in(3, marks, during=lambda: marks.hold([mark])) == []


def test_a_run_that_waits_for_nothing_says_nothing(marks):
    assert said_in(3, marks) == []
