"""Structured logs: one JSON object a line on stderr, which Ray keeps as the worker's log.

The lines go through the standard logger `faceatlas`: levels, handlers and filters work as with any other. Each line
has `time`, `level` and `event`, and those of `run`, `shard`, `clip`, `chunk` that it is about: `chunk` is the ordinal
of its first sampled frame. No picture, embedding or name of a person enters a log.
"""

import logging
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # it loads asyncio and more: a tenth of a second that commands without a line of log do not need
    from structlog.stdlib import BoundLogger
    from structlog.typing import EventDict

ERROR_FIELDS = ("stage", "error_class", "message")  # of an error, that go into its line
LEVELS = ("debug", "info", "warning")  # debug: every chunk; info: every clip; warning: failures
LOGGER = "faceatlas"


def get_logger(level: str) -> "BoundLogger":
    """The logger of Faceatlas, set up once per process: `get_logger("info").warning("clip_failed", clip=clip_id)`.

    Args:
        level: one of LEVELS, `ray.log_level` of the configuration; lines below it are dropped.

    Returns:
        A logger whose methods take the event, a stable word, and fields; null fields are left out. Unless the standard
        logger `faceatlas` has a handler already, it writes JSON lines to stderr.
    """
    logging.getLogger(LOGGER).setLevel(level.upper())
    return _logger()


@cache
def _logger() -> "BoundLogger":
    import structlog

    standard = logging.getLogger(LOGGER)
    if not standard.handlers:
        handler = _StderrHandler()
        formatter = structlog.stdlib.ProcessorFormatter
        to_json = structlog.processors.JSONRenderer(default=str)
        handler.setFormatter(formatter(processors=[formatter.remove_processors_meta, to_json]))
        standard.addHandler(handler)
    # not by structlog.configure, which is the program's that imports us
    return structlog.wrap_logger(
        standard,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _in_order,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
    )


def _in_order(_: Any, __: str, event: "EventDict") -> "EventDict":
    """The fields of a line: `time`, `level` and `event` first, null fields left out."""
    first = {name: event.pop(name) for name in ("time", "level", "event")}
    return first | {name: value for name, value in event.items() if value is not None}


class _StderrHandler(logging.StreamHandler):
    """Writes to the standard error of the moment: Ray and tests replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr
