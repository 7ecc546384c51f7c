"""Lines of the log: JSON on stderr, through the standard library's loggers."""

import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pipeline.observe.logging import LOGGER, get_logger

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
from pipeline.observe.logging import get_logger
import sys
for _ in range(2):  # set up once
    log = get_logger(sys.argv[1])
log.debug("committed", run="r", chunk=32)
log.info("clip_decoded", run="r", shard="s", clip="c", chunk=None)
log.warning("clip_failed", clip="c", message="cut off", error_class="truncated", path=__import__("pathlib").Path("/a"))
"""


def lines_of(program, *arguments):
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["committed", "clip_decoded", "clip_failed"]),
        ("info", ["clip_decoded", "clip_failed"]),
        ("warning", ["clip_failed"]),
    ],
)
def test_lines_below_the_level_are_dropped(level, events):
    assert [json.loads(line)["event"] for line in lines_of(PROGRAM, level)] == events


def test_a_line_is_json_with_time_level_event_and_its_fields():
    _, decoded, failed = map(json.loads, lines_of(PROGRAM, "debug"))
    assert list(decoded) == ["time", "level", "event", "run", "shard", "clip"]
    assert (decoded["level"], decoded["clip"]) == ("info", "c")
    assert datetime.fromisoformat(decoded["time"]).utcoffset() == timedelta(0)
    assert (failed["level"], failed["error_class"], failed["message"]) == ("warning", "truncated", "cut off")
    assert failed["path"] == "/a"


def test_a_handler_of_the_program_takes_the_place_of_the_json_lines():
    program = f"import logging; logging.getLogger({LOGGER!r}).addHandler(logging.NullHandler()); {PROGRAM}"
    assert lines_of(program, "debug") == []


def test_the_standard_tools_see_the_records(caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        log = get_logger("info")
        log.debug("decoded", clip="a")
        log.warning("clip_failed", clip="b")
    (record,) = (record for record in caplog.records if record.name == LOGGER)
    assert (record.levelname, record.msg["event"], record.msg["clip"]) == ("WARNING", "clip_failed", "b")
