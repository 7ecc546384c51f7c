"""Progress of a run: a bar on a terminal, a plain line every ten seconds in a job's log."""

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.runs.accounting import RunLedger

_LINE_EVERY_S = 10.0


class RunProgress:
    """Shows finished clips and frames, rates, and the time left at these rates."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self._clock = console, clock
        self.started = clock()
        self.said = self.started
        self.bar = Progress(
            TextColumn("annotating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("clips", total=None, words="")

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, ledger: RunLedger) -> None:
        """Show the state of a run."""
        now = self._clock()
        wanted = ledger.plan.clips.num_rows
        words = describe_progress(
            ledger.frames, ledger.faces, len(ledger.ended), wanted - ledger.clips_ended, now - self.started
        )
        self.bar.update(self.task, completed=ledger.clips_ended, total=wanted, words=words)
        if not self.console.is_terminal and now - self.said >= _LINE_EVERY_S:
            self.said = now
            self.console.print(f"{ledger.clips_ended}/{wanted} {words}")


def describe_progress(frames: int, faces: int, clips: int, clips_left: int, seconds: float) -> str:
    """Rates of a run and the work left.

    Args:
        frames: that the run has committed.
        faces: in them.
        clips: that ended in this run.
        clips_left: that have not ended.
        seconds: since it started.

    Returns:
        For example "clips, 0.50 clips/s; 960 frames, about 1920 left, 48.0 frames/s; 900 faces; 0:00:40 left". The work
        left is given once a clip has ended, and assumes that the other clips are like those.
    """
    seconds = max(seconds, 1e-9)
    if not clips or not clips_left:
        return f"clips; {frames} frames, {frames / seconds:.1f} frames/s; {faces} faces"
    left = timedelta(seconds=round(clips_left * seconds / clips))
    frames_left = round(clips_left * frames / clips)
    return (
        f"clips, {clips / seconds:.2f} clips/s; {frames} frames, about {frames_left} left, "
        f"{frames / seconds:.1f} frames/s; {faces} faces; {left} left"
    )
