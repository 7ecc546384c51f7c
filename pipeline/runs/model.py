"""The desired annotation of a run, its actor pools, and its report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.config.models import PoolConfig
from pipeline.errors import RETRYABLE
from pipeline.planning.versions import SlotVersions


@dataclass(frozen=True)
class Stage:
    """One actor pool of the flow.

    Attributes:
        make_actor: makes an actor, which maps tables of schema.FLOW to the same. It is called in the worker and imports
            torch there, which the driver need not load; a function of a module, so that a subprocess can import it.
        arguments: its keyword arguments.
        pool: size and resources.
        slots: slots that it fills; they tell the attempts of one pool from those of another.
    """

    make_actor: Callable[..., Callable[[pa.Table], pa.Table]]
    arguments: Mapping[str, Any]
    pool: PoolConfig
    slots: tuple[str, ...]


@dataclass(frozen=True)
class Annotation:
    """The desired models, as far as the flow must know them.

    Attributes:
        name: of the bundle.
        versions: of the models.
        needs: slot -> slots whose results it reads.
        same_person_cosine: of the embedding model, None without one.
        switch_cosine: of the embedding model, None where its entry states none.
        models: slot -> facts for the run's record (name, files, license).
    """

    name: str
    versions: SlotVersions
    needs: Mapping[str, Sequence[str]]
    same_person_cosine: float | None
    switch_cosine: float | None
    models: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """How a run ended.

    Attributes:
        run: its name, also of its file in `runs/`.
        clips: outcome -> clips of the manifest.
        wanted: clips of the manifest.
        missing: clips without an outcome; a complete run has none.
        frames, faces: committed by this run.
        tracks, identities: in the corpus.
        seconds: stage -> wall-clock seconds.
        quarantined: rows of `quarantine` for this manifest's clips.
        stopped: a shutdown was requested before its end.
        pending: clips of the output that lie outside this corpus and lack a desired version; if there are any, the
            current versions stay, and tracks and identities are not recomputed.
    """

    run: str
    clips: Mapping[str, int]
    wanted: int
    missing: Sequence[str]
    frames: int
    faces: int
    tracks: int
    identities: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    quarantined: Sequence[Mapping[str, Any]] = ()
    stopped: bool = False
    pending: int = 0

    @property
    def complete(self) -> bool:
        """Whether every clip of the manifest has exactly one outcome, and none is retryable."""
        return not self.missing and sum(self.clips.values()) == self.wanted and not self.retryable

    @property
    def retryable(self) -> list[Mapping[str, Any]]:
        """Quarantined clips that failed by a bug in Faceatlas or by the storage; the next run retries them."""
        return [row for row in self.quarantined if row["error_class"] in RETRYABLE]
