"""Progress for people: a bar on a terminal, a plain line every ten seconds in a job's log."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.tally import Tally

_LINE_EVERY_S = 10.0


class RunProgress:
    """Shows how far a run is, by clip and by frame."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()
        self.said = self.started
        self.bar = Progress(
            TextColumn("annotating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(
                "clips, {task.fields[frames]} frames, {task.fields[faces]} faces, {task.fields[rate]:.1f} frames/s"
            ),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("clips", total=None, frames=0, faces=0, rate=0.0)

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, tally: Tally) -> None:
        """Show the state of a run's accounts."""
        now = time.monotonic()
        wanted = tally.plan.clips.num_rows
        rate = tally.frames / max(now - self.started, 1e-9)
        self.bar.update(
            self.task, completed=tally.clips_ended, total=wanted, frames=tally.frames, faces=tally.faces, rate=rate
        )
        if not self.console.is_terminal and now - self.said >= _LINE_EVERY_S:
            self.said = now
            self.console.print(
                f"{tally.clips_ended}/{wanted} clips, {tally.frames} frames, {tally.faces} faces, {rate:.1f} frames/s"
            )
