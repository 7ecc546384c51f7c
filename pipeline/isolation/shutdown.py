"""Stopping a run from outside: first nothing new is begun and what is under way is written; then it ends."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import StoppedError


class ShutdownRequest:
    """A wish to stop a run, as SIGTERM brings it.

    Attributes:
        grace_s: how long the flow may take to empty itself; ended by a second SIGTERM.
        requested: whether the wish was told.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s, self.requested = grace_s, False
        self._drain: Callable[[], None] | None = None

    def request(self) -> None:
        """Tell the wish; called by a signal handler, in the main thread.

        Raises:
            StoppedError: there is no flow to empty, or this is the second time.
        """
        if self.requested or self._drain is None or not self.grace_s:
            self.requested = True
            raise StoppedError("told to stop")
        self.requested = True
        # a signal may come while this thread is inside of Ray, so what asks Ray for something has a thread of its own
        threading.Thread(target=self._drain, daemon=True).start()
        self._timer = threading.Timer(self.grace_s, os.kill, (os.getpid(), signal.SIGTERM))
        self._timer.daemon = True
        self._timer.start()

    @contextmanager
    def draining(self, drain: Callable[[], None]) -> Iterator[None]:
        """While the body runs a flow, `drain` makes it end early and in order."""
        self._drain = drain
        try:
            yield
        finally:
            self._drain = None
            if self.requested and hasattr(self, "_timer"):
                self._timer.cancel()
