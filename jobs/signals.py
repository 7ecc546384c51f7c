"""Graceful shutdown on SIGTERM, as a job stop or a pre-empted node sends it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import StoppedError
from pipeline.isolation.shutdown import ShutdownRequest

EXIT_STOPPED = 128 + signal.SIGTERM


@contextmanager
def on_sigterm(grace_s: float) -> Iterator[tuple[ShutdownRequest, Callable[[], None]]]:
    """While the body runs, SIGTERM requests a shutdown.

    Yields:
        The request, and a function that installs the handler again: connecting to Ray replaces it.
    """
    stop = ShutdownRequest(grace_s)
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield stop, lambda: None
        return

    def listen() -> None:
        signal.signal(signal.SIGTERM, lambda *_: stop.request())

    before = signal.getsignal(signal.SIGTERM)
    listen()
    try:
        yield stop, listen
    except KeyboardInterrupt:  # Ray turns the exception of any signal handler into this
        if stop.requested:
            raise StoppedError("told to stop") from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
