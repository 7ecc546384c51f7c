"""Graceful shutdown: nothing new is started, what is in flight is written, then the run ends."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import StoppedError


class ShutdownRequest:
    """A request to stop a run, as SIGTERM makes it.

    Attributes:
        grace_s: time that the flow may take to drain; a second SIGTERM ends it at once.
        requested: whether the shutdown was requested.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s, self.requested = grace_s, False
        self._drain: Callable[[], None] | None = None

    def request(self) -> None:
        """Request the shutdown; called by a signal handler, in the main thread.

        Raises:
            StoppedError: there is no flow to drain, or this is the second request.
        """
        if self.requested or self._drain is None or not self.grace_s:
            self.requested = True
            raise StoppedError("told to stop")
        self.requested = True
        # a signal may come while this thread is inside Ray, so the call to Ray has a thread of its own
        threading.Thread(target=self._drain, daemon=True).start()
        self._timer = threading.Timer(self.grace_s, os.kill, (os.getpid(), signal.SIGTERM))
        self._timer.daemon = True
        self._timer.start()

    @contextmanager
    def draining(self, drain: Callable[[], None]) -> Iterator[None]:
        """While the body runs a flow, `drain` makes it end early, with all chunks in flight committed."""
        self._drain = drain
        try:
            yield
        finally:
            self._drain = None
            if self.requested and hasattr(self, "_timer"):
                self._timer.cancel()
