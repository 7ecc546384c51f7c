import re
from types import SimpleNamespace

import pyarrow as pa
from rich.console import Console

from jobs.progress import RunProgress, describe_progress


def test_what_is_left_follows_from_the_clips_that_have_ended():
    words = describe_progress(frames=960, faces=900, clips=10, clips_left=20, seconds=20.0)
    assert words == "clips, 0.50 clips/s; 960 frames, about 1920 left, 48.0 frames/s; 900 faces; 0:00:40 left"


def test_before_the_first_clip_has_ended_no_end_is_foretold():
    assert "left" not in describe_progress(frames=960, faces=900, clips=0, clips_left=20, seconds=20.0)
    assert "left" not in describe_progress(frames=960, faces=900, clips=20, clips_left=0, seconds=20.0)


def test_a_log_gets_a_line_every_ten_seconds(capsys):
    now = [0.0]
    progress = RunProgress(Console(force_terminal=False, soft_wrap=True), clock=lambda: now[0])
    plan = SimpleNamespace(clips=pa.table({"clip_id": ["a", "b", "c", "d"]}))
    with progress:
        for second in range(25):
            now[0] = float(second)
            progress(SimpleNamespace(plan=plan, frames=10 * second, faces=0, ended=["a"] * (second > 5), clips_ended=1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"1/4 clips, 0\.10 clips/s; 100 frames, about 300 left, 10\.0 frames/s; .* left", lines[0])
