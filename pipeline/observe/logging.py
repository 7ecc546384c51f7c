"""Structured logs: one JSON object a line on stderr, which Ray keeps as the worker's log.

Each line has `time`, `level` and `event`, and of `run`, `shard`, `clip`, `chunk` those that it speaks of: `chunk` is
the ordinal of its first sampled frame. No picture, embedding or name of a person enters a log.
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any

ERROR_FIELDS = ("stage", "error_class", "message")  # of an error, that go into its line
LEVELS = ("debug", "info", "warning")  # debug: every chunk; info: every clip; warning: what failed


def log(wanted: str, level: str, event: str, **fields: Any) -> None:
    """Write a line, unless its level is below the wanted one; null fields are left out.

    Args:
        wanted: one of LEVELS, `ray.log_level` of the configuration.
        level: one of LEVELS.
        event: what happened, a stable word.
        fields: run, shard, clip, chunk and what else there is to say.
    """
    if LEVELS.index(level) < LEVELS.index(wanted):
        return
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event}
    line |= {name: value for name, value in fields.items() if value is not None}
    sys.stderr.write(json.dumps(line, default=str) + "\n")
    sys.stderr.flush()
