"""A child process may die, hang or eat memory; its parent learns how, and is unharmed."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.isolation.subprocess import (
    SubprocessDiedError,
    SubprocessLimits,
    SubprocessRaisedError,
    WorkerSubprocess,
    limit_each,
)

LIMITS = SubprocessLimits(item_s=2.0, memory_mb=400)


@pytest.fixture(autouse=True)
def workloads(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import workloads

    return workloads


def test_a_child_answers_several_requests(workloads):
    with WorkerSubprocess(workloads.counting, LIMITS, "counting") as child:
        assert list(child.run(3)) == [0, 1, 2]
        assert list(child.run(0)) == []
        assert list(child.run(100)) == list(range(100))


@pytest.mark.parametrize(
    ("what", "error_class", "words"),
    [
        ("segfault", "died", "killed by signal 11 (SIGSEGV) while testing"),
        ("kill", "died", "killed by signal 9 (SIGKILL) while testing"),
        ("exit", "died", "its process ended with exit code 3 while testing"),
        ("hang", "hung", "hung: nothing came for 2 s while testing"),
        ("eat", "out_of_memory", "took more than 400 MB of memory while testing"),
    ],
)
def test_how_a_child_ends_is_told_after_its_items(workloads, what, error_class, words):
    got = []
    with WorkerSubprocess(workloads.deadly, LIMITS, "testing") as child, pytest.raises(SubprocessDiedError) as death:  # noqa: PT012
        for item in child.run(what):
            got.append(item)  # noqa: PERF402
    assert got == ["first", "second"]
    assert (death.value.error_class, str(death.value)) == (error_class, words)


def test_a_child_lives_on_after_an_exception(workloads):
    with WorkerSubprocess(workloads.deadly, LIMITS, "testing") as child:
        with pytest.raises(SubprocessRaisedError, match="asked to") as raised:
            list(child.run("raise"))
        assert raised.value.kind == "ValueError"
        assert list(child.run("nothing")) == ["first", "second"]


def test_a_child_that_cannot_be_made_says_why(workloads):
    with pytest.raises(SubprocessRaisedError, match="cannot be made"):
        WorkerSubprocess(workloads.broken, LIMITS, "testing")


def test_a_child_ends_with_its_parent(workloads):
    program = (
        "import workloads; from pipeline.isolation.subprocess import *\n"
        "child = WorkerSubprocess(workloads.sleeping_forever, SubprocessLimits(60, 400), 'testing')\n"
        "print(next(child.run(0)), flush=True)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path}\n{program}"]
    child = int(subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60).stdout)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.05)


def test_a_hang_that_keeps_the_interpreter_lock_ends_the_process(workloads):
    imports = "import workloads; from pipeline.isolation.subprocess import limit_each"
    program = f"{imports}\nlist(limit_each(workloads.deadly()('hang'), 1.0))"
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path}\n{program}"]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=60, text=True)
    assert done.returncode == 1
    assert "workloads.py" in done.stderr  # where it hung


def test_time_of_the_consumer_does_not_count():
    for _ in limit_each(iter(range(3)), 0.2):
        time.sleep(0.3)
