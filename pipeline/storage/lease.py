"""The lease on an output: it excludes concurrent runs, and a dead holder does not lock the output forever.

    OUT/lease/<epoch>.json      the highest epoch counts: its holder, start, and latest heartbeat

A run takes the output by creating the next epoch with a conditional put (on a file system: a link), which exactly one
of any number of takers wins. A taker whose put succeeded while the reply was lost recognizes its claim by the token in
it. Only its holder writes an epoch's object, so a holder that was considered dead and wakes up overwrites no other
claim: it finds a higher epoch and stops. Epochs are never used twice; released ones stay until the next holder removes
them.

A holder is dead if its process on this machine has ended, or if its heartbeat is older than `expires_s`. Clocks of
machines differ, so such a heartbeat is watched for a while before the holder is considered dead.
"""

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipeline.config.models import LeaseConfig
from pipeline.errors import LeaseError
from pipeline.storage.output import Output, write_bytes

FOLDER = "lease"
_WAKE = signal.SIGUSR2  # not SIGINT: whatever is started in the background of a script ignores that


@dataclass(frozen=True)
class Claim:
    """The content of a lease object.

    Attributes:
        host, pid: the holder.
        process: identifies the process, even against a later one of the same pid; None where unknown.
        run: description of the run, for messages.
        token: random; no two claims share it.
        since, renewed: Unix times of the start and of the latest heartbeat.
        released: the holder has finished.
    """

    host: str
    pid: int
    process: str | None
    run: str
    token: str
    since: float
    renewed: float
    released: bool = False

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.run} on {self.host} (process {self.pid}) since {since}"


class Lease:
    """A lease that this process holds; see `hold`."""

    def __init__(self, output: Output, epoch: int, claim: Claim, config: LeaseConfig) -> None:
        self.output, self.epoch, self.claim, self.config = output, epoch, claim, config
        self._problem: str | None = None
        self._renewed = time.monotonic()
        self._ended = threading.Event()
        self._owner_waits_in_main = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._beat, name="faceatlas-lease", daemon=True)

    def check(self) -> None:
        """Check that the lease is still held.

        Raises:
            LeaseError: another run has taken it, or it could not be renewed in time.
        """
        self._notice_expiry()
        if self._problem is not None:
            raise LeaseError(
                f"the lease on {self.output.root} {self._problem}: this run stops; what it has committed stays"
            )

    def _notice_expiry(self) -> None:
        if self._problem is None and time.monotonic() - self._renewed > self.config.expires_s:
            self._problem = f"could not be renewed for {self.config.expires_s:g} s"

    def _beat(self) -> None:
        while not self._ended.wait(self.config.renew_s):
            # the storage may come back; how long that may take is known
            with suppress(OSError):
                self._renew()
            self._notice_expiry()
            if self._problem is not None:
                if self._owner_waits_in_main and not self._ended.is_set():
                    # it may be waiting for minutes
                    signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
                return

    def _renew(self) -> None:
        started = time.monotonic()
        if started - self._renewed > self.config.expires_s:
            return  # too late: another may be about to take it
        if (highest := max(_epochs(self.output), default=0)) > self.epoch:
            taker = _read(self.output, highest)
            self._problem = f"was taken over by {taker}" if taker else "was taken over"
            return
        self.claim = replace(self.claim, renewed=time.time())
        write_bytes(self.output, _path(self.epoch), _encode(self.claim))
        self._renewed = started

    def _start(self) -> None:
        if self._owner_waits_in_main:
            self._handler_before = signal.signal(_WAKE, lambda *_: None if self._ended.is_set() else self.check())
        self._thread.start()

    def _end(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._owner_waits_in_main:
            signal.signal(_WAKE, self._handler_before or signal.SIG_DFL)
        if self._problem is None:
            write_bytes(self.output, _path(self.epoch), _encode(replace(self.claim, released=True)))


@contextmanager
def hold(output: Output, run: str, config: LeaseConfig) -> Iterator[Lease]:
    """Hold the lease on an output while the block runs.

    Args:
        output: need not exist yet.
        run: description of the run, for the messages of others.
        config: heartbeat and expiry.

    Raises:
        LeaseError: another holds it; the message says who and since when.
    """
    lease = take(output, run, config)
    lease._start()
    try:
        try:
            yield lease
        finally:
            lease._end()
    except KeyboardInterrupt:  # what Ray makes of the exception of any signal handler
        lease.check()
        raise


def take(output: Output, run: str, config: LeaseConfig) -> Lease:
    """Take the lease without a heartbeat; for `hold`.

    Raises:
        LeaseError: another holds it, or was first.
    """
    epochs = sorted(_epochs(output))
    if epochs:
        _refuse_if_held(output, epochs[-1], config)
    now = time.time()
    claim = Claim(socket.gethostname(), os.getpid(), _process(os.getpid()), run, secrets.token_hex(8), now, now)
    epoch = epochs[-1] + 1 if epochs else 1
    if not create(output, _path(epoch), _encode(claim)):
        winner = _read(output, epoch)
        raise LeaseError(f"{output.root} was taken a moment ago by {winner or 'another run'}; wait until it has ended")
    if max(_epochs(output), default=epoch) > epoch:  # the epoch was old when we came to create it
        output.fs.rm_file(output.path(_path(epoch)))
        raise LeaseError(f"{output.root} was taken a moment ago by another run; wait until it has ended")
    for old in epochs:
        with suppress(FileNotFoundError):
            output.fs.rm_file(output.path(_path(old)))
    return Lease(output, epoch, claim, config)


def _refuse_if_held(output: Output, epoch: int, config: LeaseConfig) -> None:
    claim = _read(output, epoch)
    if claim is None or claim.released or _is_dead_here(claim):
        return
    if time.time() - claim.renewed > config.expires_s:
        # the clock of its machine may be behind ours: a living holder renews while we watch
        deadline = time.monotonic() + 1.5 * config.renew_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, config.renew_s / 4))
            seen = _read(output, epoch)
            if seen is None or seen.released:
                return
            if seen.renewed != claim.renewed:
                claim = seen
                break
        else:
            return
    raise LeaseError(
        f"{output.root} is in use by {claim}; two runs on one output would do the same work twice. Wait until it has "
        f"ended; if it is dead, its lease expires {config.expires_s:g} s after its last heartbeat."
    )


def create(output: Output, path: str, data: bytes) -> bool:
    """Write a file that does not exist yet; of any number of callers exactly one succeeds.

    Args:
        output: where.
        path: relative to the output.
        data: the file's bytes, which no other caller has; nobody sees a part of them.

    Returns:
        False: the file exists already.

    Raises:
        LeaseError: the storage cannot create conditionally.
    """
    full = output.path(path)
    try:
        if not isinstance(output.fs, LocalFileSystem):
            output.fs.pipe_file(full, data, mode="create")
            return True
        target = Path(full)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        aside.write_bytes(data)
        try:
            os.link(aside, target)
        finally:
            aside.unlink()
    except FileExistsError:
        return _holds(output, full, data)
    except (TypeError, NotImplementedError) as error:
        raise LeaseError(f"the storage of {output.root} offers no conditional write, so no lease: {error}") from error
    except OSError as error:
        text = f"{error} {error.__cause__}"
        if any(word in text for word in ("412", "PreconditionFailed", "ConditionalRequestConflict", "pre-condition")):
            return _holds(output, full, data)
        raise
    return True


def _holds(output: Output, full: str, data: bytes) -> bool:
    """Whether the existing file is our own: the reply was lost, and the client's retry was refused."""
    try:
        return bool(output.fs.cat_file(full) == data)
    except FileNotFoundError:
        return False


# -- lease objects ----------------------------------------------------------------------------------------------------


def _path(epoch: int) -> str:
    return f"{FOLDER}/{epoch:08d}.json"


def _epochs(output: Output) -> list[int]:
    try:
        entries = output.fs.ls(output.path(FOLDER), detail=False)
    except FileNotFoundError:
        return []
    names = (str(entry).rsplit("/", 1)[-1].removesuffix(".json") for entry in entries)
    return [int(name) for name in names if name.isdecimal()]


def _read(output: Output, epoch: int) -> Claim | None:
    try:
        return Claim(**json.loads(output.fs.cat_file(output.path(_path(epoch)))))
    except FileNotFoundError:
        return None


def _encode(claim: Claim) -> bytes:
    return (json.dumps(asdict(claim), indent=2) + "\n").encode()


def _process(pid: int) -> str | None:
    """Boot, process namespace and start time of a running local process; None if it does not run or is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot} {Path('/proc/self/ns/pid').readlink()} {start}"
    except (OSError, IndexError):
        return None


def _is_dead_here(claim: Claim) -> bool:
    """Whether the holder ran on this machine and has ended; containers see only their own processes."""
    mine = _process(os.getpid())
    if mine is None or claim.process is None or claim.host != socket.gethostname():
        return False
    same_place = claim.process.rsplit(" ", 1)[0] == mine.rsplit(" ", 1)[0]
    return same_place and _process(claim.pid) != claim.process
