"""Limits on work that may kill or hang its process: a watchdog in the process, and a worker subprocess for suspects.

A suspect runs in a subprocess with limits on time and memory. Every end of the subprocess is an answer: its items, or
a SubprocessDiedError that names the signal. The worker is unharmed.
"""

import faulthandler
import json
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_POLL_S = 0.05
_STDERR = 2  # Ray keeps it as the worker's log

#: makes, in the subprocess, the function that does the work
Make = Callable[[], Callable[[Any], Iterable[Any]]]


class SubprocessDiedError(Exception):
    """A subprocess ended by itself. `error_class` is `died`, `hung` or `out_of_memory`."""

    def __init__(self, message: str, error_class: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class SubprocessRaisedError(Exception):
    """The work raised an exception in the subprocess, which lives on. `kind` is the exception's class name."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class SubprocessLimits:
    """Limits of a subprocess: `start_s` to start, `item_s` per item (seconds), `memory_mb` resident."""

    item_s: float
    memory_mb: int
    start_s: float = 600.0


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this process, with the stacks of all its threads in its log, if the body takes longer.

    A C thread does it without the interpreter lock, which a hanging decoder or driver does not release.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def limit_each(items: Iterator[Any], seconds: float) -> Iterator[Any]:
    """The items of an iterator; the process ends if one takes longer. The consumer's time does not count."""
    while True:
        with time_limit(seconds):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


class WorkerSubprocess:
    """A process that does one kind of work, one request after the other; a context manager that ends it."""

    def __init__(self, make: Make, limits: SubprocessLimits, doing: str) -> None:
        """Start the process.

        Args:
            make: called in the subprocess; must be picklable by reference.
            limits: on its time and memory.
            doing: for messages, such as "decoding".

        Raises:
            SubprocessDiedError: it did not come up.
            SubprocessRaisedError: `make` raised.
        """
        self.limits, self.doing = limits, doing
        self._connection, theirs = multiprocessing.connection.Pipe()
        command = (
            "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
            "from pipeline.isolation import subprocess; subprocess.serve()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", command, json.dumps(sys.path), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
        )
        theirs.close()
        try:
            self._send((make, limits.item_s))
            self._receive(limits.start_s)
        except BaseException:
            self.close()
            raise

    def run(self, request: Any) -> Iterator[Any]:
        """The items that the work gives for a request.

        Raises:
            SubprocessDiedError: the subprocess was killed, hung or took too much memory.
            SubprocessRaisedError: the work raised.
        """
        self._send(request)
        while (answer := self._receive(self.limits.item_s))[0] == "item":
            yield answer[1]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def __enter__(self) -> "WorkerSubprocess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, message: Any) -> None:
        try:
            self._connection.send_bytes(pickle.dumps(message, protocol=5))
        except OSError:
            raise self._death() from None

    def _receive(self, seconds: float) -> tuple:
        deadline = time.monotonic() + seconds
        while not self._connection.poll(_POLL_S):
            if _resident_mb(self._process.pid) > self.limits.memory_mb:
                raise SubprocessDiedError(
                    f"took more than {self.limits.memory_mb} MB of memory while {self.doing}", "out_of_memory"
                )
            if time.monotonic() > deadline:
                raise SubprocessDiedError(f"hung: nothing came for {seconds:g} s while {self.doing}", "hung")
        try:
            answer = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._death() from None
        if answer[0] == "error":
            raise SubprocessRaisedError(answer[2], answer[1])
        return answer

    def _death(self) -> SubprocessDiedError:
        code = self._process.wait()
        if code >= 0:
            return SubprocessDiedError(f"its process ended with exit code {code} while {self.doing}", "died")
        return SubprocessDiedError(
            f"killed by signal {-code} ({signal.Signals(-code).name}) while {self.doing}", "died"
        )


def serve() -> None:
    """The main loop of the subprocess: make the work, then answer requests until the parent is gone."""
    connection = multiprocessing.connection.Connection(int(sys.argv[2]))
    inbox: list[bytes] = []
    filled = threading.Semaphore(0)

    def receive() -> None:  # a thread of its own, so that the parent's end is noticed during the work
        while True:
            try:
                inbox.append(connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            filled.release()

    def send(*answer: Any) -> None:
        connection.send_bytes(pickle.dumps(answer, protocol=5))

    threading.Thread(target=receive, daemon=True).start()
    work: Callable[[Any], Iterable[Any]] | None = None
    item_s = 0.0
    while True:
        filled.acquire()
        try:
            request = pickle.loads(inbox.pop(0))
            if work is None:
                make, item_s = request
                work = make()
            else:
                # the parent ends a subprocess that hangs; without a parent, it ends itself somewhat later
                for item in limit_each(iter(work(request)), 2 * item_s + 10):
                    send("item", item)
            send("end")
        except Exception as error:
            send("error", type(error).__name__, str(error))


def _resident_mb(pid: int) -> float:
    """Resident memory of a process in MB; 0 where the system does not report it."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0
