"""The driver's metrics of a run."""

from pipeline.observe.metrics import record
from pipeline.runs.accounting import RunLedger


class RunMetrics:
    """The driver's metrics: what has been added to a run's accounts since the last time."""

    def __init__(self) -> None:
        self._frames = self._faces = 0
        self._outcomes: dict[str, int] = {}
        self._classes: dict[str, int] = {}

    def begin(self, tally: RunLedger) -> None:
        """What was there before the run does not count."""
        self._outcomes = dict(tally.outcomes)

    def add(self, tally: RunLedger) -> None:
        """Record what is new."""
        record("faceatlas_frames", tally.frames - self._frames)
        record("faceatlas_faces", tally.faces - self._faces)
        for outcome, clips in tally.outcomes.items():
            record("faceatlas_clips", clips - self._outcomes.get(outcome, 0), outcome=outcome)
        for error_class, clips in tally.error_classes.items():
            record("faceatlas_quarantined", clips - self._classes.get(error_class, 0), error_class=error_class)
        record("faceatlas_clips_left", tally.plan.clips.num_rows - tally.clips_ended)
        self._frames, self._faces = tally.frames, tally.faces
        self._outcomes, self._classes = dict(tally.outcomes), dict(tally.error_classes)
