"""What is wanted of a run, its actor pools, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.models import PoolConfig
from pipeline.errors import RETRYABLE


@dataclass(frozen=True)
class Stage:
    """One actor pool of the flow.

    Attributes:
        actor: "module:name" of a class whose instances map tables of schema.FLOW to the same. A name, since importing
            it loads torch, which the driver need not do.
        arguments: keyword arguments of its constructor.
        pool: size and resources.
        slots: slots it fills.
    """

    actor: str
    arguments: Mapping[str, Any]
    pool: PoolConfig
    slots: tuple[str, ...]


@dataclass(frozen=True)
class Annotation:
    """What is wanted of the corpus: the models as far as the flow must know them.

    Attributes:
        name: of the bundle.
        versions: slot -> version.
        needs: slot -> slots whose results it reads.
        same_person_cosine: of the embedding model, None without one.
        switch_cosine: of the embedding model, None where its entry states none.
        models: slot -> facts for the run's record (name, files, licence).
    """

    name: str
    versions: Mapping[str, str]
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
        missing: clips without an outcome; a run that is in order has none.
        frames, faces: committed by this run.
        tracks, identities: in the corpus.
        seconds: stage -> wall-clock seconds.
        quarantined: rows of `quarantine` for this manifest's clips.
        stopped: it was told to stop before its end.
        pending: clips that the output has beyond this corpus and that lack a wanted version; if there are any, the
            versions in force stay, and tracks and identities are not made anew.
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
        """Whether every clip of the manifest has exactly one outcome, and none is to be tried again."""
        return not self.missing and sum(self.clips.values()) == self.wanted and not self.retryable

    @property
    def retryable(self) -> list[Mapping[str, Any]]:
        """Quarantined clips that failed by a mistake of Faceatlas or of the storage; the next run tries them again."""
        return [row for row in self.quarantined if row["error_class"] in RETRYABLE]
