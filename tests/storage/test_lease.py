"""The lease on S3, over a connection that breaks: whoever got it knows, and nobody else does."""

import threading
import time

import pytest

from pipeline.config.models import LeaseConfig
from pipeline.errors import LeaseError
from pipeline.storage import lease
from pipeline.storage.output import open_output

QUICK = LeaseConfig(renew_s=0.2, expires_s=20)


def holder_of(output):
    """The claim of the highest epoch; None if it was released."""
    epochs = lease._epochs(output)
    claim = lease._read(output, max(epochs)) if epochs else None
    return None if claim is None or claim.released else claim


@pytest.fixture
def output(bucket, s3):
    return open_output(f"s3://{bucket}/out", s3)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_claim_whose_reply_was_lost_is_known_again(bucket, faulty, output, lost):
    proxy = faulty(0)
    proxy.puts = ["reset"] * lost  # the server has done what was asked; the client asks again and is refused
    held = lease.take(open_output(f"s3://{bucket}/out", proxy.options), "annotate", QUICK)
    assert proxy.done["reset"] == lost
    assert holder_of(output).token == held.claim.token
    with pytest.raises(LeaseError, match=r"in use by annotate on \S+"):
        lease.take(output, "another", QUICK)


def test_somebody_elses_claim_stays_theirs(bucket, faulty, output):
    held = lease.take(output, "annotate", QUICK)
    proxy = faulty(0)
    there = open_output(f"s3://{bucket}/out", proxy.options)
    proxy.puts = ["reset"]
    assert not lease.create(there, lease._path(held.epoch), b"a claim of mine")
    assert holder_of(output).token == held.claim.token


def test_of_many_takers_whose_replies_are_lost_exactly_one_wins(bucket, faulty, output):
    proxy = faulty(0)
    proxy.puts = ["reset"] * 4
    there = open_output(f"s3://{bucket}/out", proxy.options)
    start, results = threading.Barrier(4), []

    def compete(number):
        start.wait()
        try:
            results.append(lease.take(there, f"taker {number}", QUICK))
        except LeaseError as error:
            results.append(error)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [result for result in results if isinstance(result, lease.Lease)]
    assert len(results) == 4
    assert holder_of(output).token == winner.claim.token


def test_a_heartbeat_goes_on_over_a_faulty_connection(bucket, faulty, output):
    proxy = faulty(0)
    with lease.hold(open_output(f"s3://{bucket}/out", proxy.options), "annotate", QUICK) as held:
        proxy.puts = ["unavailable", "reset", "unavailable"]
        deadline = time.monotonic() + QUICK.expires_s
        while holder_of(output).renewed == held.claim.since or proxy.puts:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        held.check()
    assert holder_of(output) is None
