"""One run per output: who holds it, who may take it over, and that of two takers exactly one wins."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest

from pipeline.config.models import LeaseConfig
from pipeline.errors import LeaseError
from pipeline.storage import lease
from pipeline.storage.output import open_output

QUICK = LeaseConfig(renew_s=0.2, expires_s=1.0)


def holder_of(output):
    """The claim of the highest epoch; None if it was released."""
    epochs = lease._epochs(output)
    claim = lease._read(output, max(epochs)) if epochs else None
    return None if claim is None or claim.released else claim


@pytest.fixture(params=["path", "memory"])
def output(request, tmp_path):
    yield open_output({"path": str(tmp_path / "out"), "memory": "memory://lease-test"}[request.param])
    fsspec.filesystem("memory").store.clear()


def elsewhere(output, **changes):
    """Make the latest claim look like one of another machine."""
    epoch = max(lease._epochs(output))
    path = output.path(lease._path(epoch))
    claim = {**json.loads(output.fs.cat_file(path)), "host": "other-machine", "process": None, **changes}
    output.fs.pipe_file(path, json.dumps(claim).encode())


def test_a_second_run_is_told_who_holds_the_output_since_when(output):
    with (
        lease.hold(output, "annotate", QUICK),
        pytest.raises(LeaseError, match=rf"annotate on \S+ \(process {os.getpid()}\) since 20\d\d-"),
        lease.hold(output, "another", QUICK),
    ):
        pass


def test_a_released_lease_is_free(output):
    for _ in range(3):
        with lease.hold(output, "annotate", QUICK):
            assert holder_of(output).run == "annotate"
        assert holder_of(output) is None
    assert len(output.fs.find(output.path("lease"))) == 1


def test_a_block_that_fails_releases_the_lease(output):
    with pytest.raises(ZeroDivisionError), lease.hold(output, "annotate", QUICK):
        raise ZeroDivisionError
    assert holder_of(output) is None


def test_a_living_holder_keeps_the_lease_beyond_its_expiry(output):
    with lease.hold(output, "annotate", QUICK) as held:
        time.sleep(1.5)
        held.check()
        with pytest.raises(LeaseError):
            lease.take(output, "another", QUICK)


def test_the_lease_of_a_dead_holder_on_another_machine_expires(output):
    lease.take(output, "annotate", QUICK)
    elsewhere(output)
    with pytest.raises(LeaseError, match="other-machine"):
        lease.take(output, "another", QUICK)
    elsewhere(output, renewed=time.time() - 2)
    lease.take(output, "another", QUICK)


def test_a_holder_with_a_slow_clock_is_not_taken_for_dead(output):
    with lease.hold(output, "annotate", QUICK) as held:
        real = time.time
        held.claim = lease.replace(held.claim, host="other-machine", process=None)
        lease.time.time = lambda: real() - 3600 if threading.current_thread() is held._thread else real()
        try:
            time.sleep(0.5)
            with pytest.raises(LeaseError, match="other-machine"):
                lease.take(output, "another", QUICK)
        finally:
            lease.time.time = real


def test_a_killed_holder_of_this_machine_gives_way_at_once(tmp_path):
    program = (
        "import os, signal; from pipeline.storage import lease; from pipeline.tables import parquet;"
        "from pipeline.config.models import LeaseConfig;"
        f"lease.take(parquet.open_output({str(tmp_path)!r}), 'annotate', LeaseConfig());"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False).returncode == -9
    output = open_output(str(tmp_path))
    assert holder_of(output) is not None
    begun = time.monotonic()
    lease.take(output, "another", LeaseConfig())
    assert time.monotonic() - begun < 5


def test_of_many_takers_of_an_expired_lease_exactly_one_wins(output):
    lease.take(output, "dead", QUICK)
    elsewhere(output, renewed=time.time() - 100)
    results = []
    start = threading.Barrier(12)

    def compete():
        start.wait()
        try:
            results.append(lease.take(output, "taker", QUICK))
        except LeaseError as error:
            results.append(error)

    threads = [threading.Thread(target=compete) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, lease.Lease) for result in results) == 1
    assert len(results) == 12


def take_over(output, held):
    claim = lease.Claim("there", 1, None, "taker", "t", 0.0, time.time())
    assert lease.create(output, lease._path(held.epoch + 1), lease._encode(claim))


def test_a_holder_that_was_taken_for_dead_stops_and_overwrites_nothing(output):
    held = lease.take(output, "sleeper", QUICK)
    take_over(output, held)
    held._renew()
    with pytest.raises(LeaseError, match="taken over by taker on there"):
        held.check()
    assert holder_of(output).token == "t"


def sleep_without_the_lease(output):
    with lease.hold(output, "sleeper", QUICK) as held:
        take_over(output, held)
        time.sleep(20)


@pytest.fixture(params=["in front", "in the background of a script"])
def place(request):
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN if "background" in request.param else signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("place")
def test_a_block_that_waits_is_interrupted_when_its_lease_is_lost(output):
    begun = time.monotonic()
    with pytest.raises(LeaseError, match="taken over"):
        sleep_without_the_lease(output)
    assert time.monotonic() - begun < 10
    assert holder_of(output).token == "t"


def test_a_lease_that_cannot_be_renewed_in_time_is_lost():
    held = lease.take(open_output("memory://gone"), "annotate", QUICK)
    held._renewed -= 2
    with pytest.raises(LeaseError, match="could not be renewed"):
        held.check()
    fsspec.filesystem("memory").store.clear()
