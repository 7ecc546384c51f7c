"""The driver's metrics of a run."""

from pipeline.observe.metrics import record
from pipeline.runs.accounting import RunLedger


class RunMetrics:
    """Records what was added to a run's accounts since the last call."""

    def __init__(self) -> None:
        self._frames = self._faces = 0
        self._outcomes: dict[str, int] = {}
        self._classes: dict[str, int] = {}

    def begin(self, ledger: RunLedger) -> None:
        """Start from what the ledger holds now, so that results of earlier runs do not count."""
        self._outcomes = dict(ledger.outcomes)

    def add(self, ledger: RunLedger) -> None:
        """Record what is new."""
        record("faceatlas_frames", ledger.frames - self._frames)
        record("faceatlas_faces", ledger.faces - self._faces)
        for outcome, clips in ledger.outcomes.items():
            record("faceatlas_clips", clips - self._outcomes.get(outcome, 0), outcome=outcome)
        for error_class, clips in ledger.error_classes.items():
            record("faceatlas_quarantined", clips - self._classes.get(error_class, 0), error_class=error_class)
        record("faceatlas_clips_left", ledger.plan.clips.num_rows - ledger.clips_ended)
        self._frames, self._faces = ledger.frames, ledger.faces
        self._outcomes, self._classes = dict(ledger.outcomes), dict(ledger.error_classes)
