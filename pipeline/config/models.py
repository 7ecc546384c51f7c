"""The configuration: one frozen model of all settings. Where their values come from is in sources.py."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator

from pipeline.config import sources
from pipeline.config.redact import redact
from pipeline.errors import ConfigError


class Section(BaseModel):
    """A strict, frozen model: unknown settings are refused and values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourcesConfig(Section):
    """Which files are clips, and the folder of listed videos."""

    videos: str | None = Field(
        default=None,
        description="Folder (any fsspec URI) of the videos that a CelebV JSON names; default: beside the JSON.",
    )
    clips_per_shard: int = Field(
        default=1000, ge=1, description="Rows per shard of a manifest without a `shard` column."
    )
    allow: tuple[str, ...] | None = Field(
        default=None,
        description="Folders (paths or URIs) that every file of the corpus must lie under; null: anywhere.",
    )


class DecodeConfig(Section):
    """Sampling of frames, and the size of chunks."""

    every: int = Field(
        default=1, ge=1, description="Annotate every k-th decoded frame (frames 0, k, 2k, ... of the video)."
    )
    fps: float | None = Field(
        default=None,
        gt=0,
        description="Annotate this many frames per second of presentation time instead of every k-th.",
    )
    chunk_frames: int = Field(
        default=32, ge=1, description="Sampled frames in a chunk, the unit of transport and of retry."
    )
    chunk_mb: int = Field(
        default=128,
        ge=1,
        description="A chunk of large frames ends earlier, at this many MB; this bounds a task's memory.",
    )
    max_pixels: int = Field(
        default=8192 * 8192, ge=1, description="A video with more pixels per frame is quarantined without decoding it."
    )
    max_frames: int = Field(
        default=10_000_000, ge=1, description="A video is quarantined when more frames than this have been decoded."
    )
    max_hours: float = Field(
        default=72.0, gt=0, description="A video is quarantined when its presentation time passes this."
    )
    clock: str = Field(
        default="start",
        pattern="^(start|stream)$",
        description="Where `time`, start_s and end_s are 0: at the video's first frame, as for ffmpeg's -ss "
        "and players, or where the stream's own clock is.",
    )
    cpus: float = Field(default=1.0, gt=0, description="CPUs that Ray reserves for one decode task.")
    resources: dict[str, float] = Field(
        default_factory=dict,
        description="Custom Ray resources of one decode task, such as {decode: 1}; keeps decoding off GPU nodes.",
    )

    @model_validator(mode="after")
    def _one_sampling(self) -> "DecodeConfig":
        if self.fps is not None and self.every != 1:
            raise ValueError(
                f"decode.every={self.every} and decode.fps={self.fps:g} exclude each other; set one of them"
            )
        return self


class PoolConfig(Section):
    """A pool of identical actors that host some slots of the bundle."""

    slots: tuple[str, ...] | None = Field(default=None, description="Slots of this pool; null: all that are left.")
    size: int | None = Field(default=None, ge=1, description="Number of actors; null: one per GPU, or one on the CPU.")
    min_size: int | None = Field(
        default=None, ge=1, description="With max_size: an autoscaling pool starts at this size."
    )
    max_size: int | None = Field(
        default=None, ge=1, description="With min_size: an autoscaling pool grows up to this size."
    )
    gpus: float | None = Field(
        default=None, ge=0, description="GPUs per actor, also a fraction; null: 1 if there are any."
    )
    cpus: float = Field(default=1.0, ge=0, description="CPUs that Ray reserves for one actor.")
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources of one actor, such as {annotate: 1}."
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of one actor; null: its share of the node."
    )

    @model_validator(mode="after")
    def _fixed_or_autoscaling(self) -> "PoolConfig":
        if (self.min_size is None) != (self.max_size is None):
            raise ValueError("min_size and max_size go together")
        if self.size is not None and self.min_size is not None:
            raise ValueError("give either size, or min_size and max_size")
        if self.min_size is not None and self.max_size is not None and self.min_size > self.max_size:
            raise ValueError(f"min_size={self.min_size} is above max_size={self.max_size}")
        return self


class ActorsConfig(Section):
    """Actor pools, batch sizes, device and precision of the models."""

    size: int | None = Field(default=None, ge=1, description="Shortcut: actors of the only pool.")
    gpus: float | None = Field(default=None, ge=0, description="Shortcut: GPUs per actor of the only pool.")
    resources: dict[str, float] = Field(
        default_factory=dict, description="Shortcut: custom resources per actor of the only pool."
    )
    pools: tuple[PoolConfig, ...] = Field(
        default=(), description="Several pools that share the slots; default: one pool."
    )
    batch_chunks: int | None = Field(
        default=None, ge=1, description="Chunks per call of an actor, of any clips; null: 1 on a CPU, 4 on a GPU."
    )
    batch_frames: int = Field(default=32, ge=1, description="Frames of equal size per call of the detector.")
    batch_pixels: int | None = Field(
        default=None,
        ge=1,
        description="Pixels per pass of the detector; null: 1 million per CPU thread, 64 million on a GPU.",
    )
    batch_faces: int | None = Field(
        default=None,
        ge=1,
        description="Faces per pass of a model; null: 16 per CPU thread, 256 on a GPU.",
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda)$", description="auto: CUDA if the actor has a GPU.")
    precision: str = Field(
        default="auto",
        pattern="^(auto|float32|bfloat16|float16)$",
        description="Number format of the networks; auto: per model, the fastest within tolerance (docs/parity.md).",
    )
    winograd: bool = Field(
        default=True,
        description="Winograd's algorithm for 3x3 convolutions of large float32 networks on a CPU: faster, equal up to "
        "rounding, two to four times the memory of their weights (bundle pyfeat: 1.4 GB more per actor).",
    )
    wait_for_min_actors_s: int = Field(
        default=600,
        ge=1,
        description="The run fails if a pool cannot start within this time.",
    )

    @model_validator(mode="after")
    def _pools_or_shortcut(self) -> "ActorsConfig":
        if self.pools and (self.size is not None or self.gpus is not None or self.resources):
            raise ValueError("with actors.pools, size, gpus and resources belong to each pool, not to actors")
        return self

    def resolved_pools(self) -> tuple[PoolConfig, ...]:
        """The pools in the order of the flow; without `pools`, the shortcut fields make one."""
        return self.pools or (PoolConfig(size=self.size, gpus=self.gpus, resources=self.resources),)


class FaultsConfig(Section):
    """Limits for clips that crash or hang their process, and for graceful shutdown."""

    attempts: int = Field(
        default=3, ge=2, description="A clip whose process dies this often is quarantined; later attempts are isolated."
    )
    decode_limit_s: float = Field(
        default=300.0, gt=0, description="Decoding one chunk longer than this, storage included, counts as a hang."
    )
    annotate_limit_s: float = Field(
        default=600.0, gt=0, description="Annotating one batch of chunks longer than this counts as a hang."
    )
    decode_memory_mb: int = Field(
        default=4096, ge=256, description="Memory limit of isolated decoding, after one death."
    )
    annotate_memory_mb: int = Field(
        default=16384, ge=256, description="Memory limit of isolated annotating, after two deaths."
    )
    stop_grace_s: float = Field(
        default=20.0, ge=0, description="After a SIGTERM, work in flight may finish and be written for this long."
    )


class StoreConfig(Section):
    """File sizes, number formats and promotion of tables."""

    chunks_per_file: int = Field(default=64, ge=1, description="Chunks per Parquet file.")
    embedding_dtype: str = Field(
        default="float32",
        pattern="^float(16|32)$",
        description="Embeddings on disk; float16 halves them (relative error 5e-4).",
    )
    promote_early: bool = Field(
        default=False,
        description="Promote new versions even if clips outside the corpus lack them.",
    )


class LeaseConfig(Section):
    """The lease that keeps two runs from writing to one output."""

    renew_s: float = Field(default=15.0, gt=0, description="Seconds between two heartbeats of a run.")
    expires_s: float = Field(
        default=60.0, gt=0, description="A run whose heartbeat is older is considered dead; another may take over."
    )

    @model_validator(mode="after")
    def _several_beats(self) -> "LeaseConfig":
        if self.expires_s < 2 * self.renew_s:
            raise ValueError(f"expires_s={self.expires_s:g} must be at least twice renew_s={self.renew_s:g}")
        return self


class StorageConfig(Section):
    """Options of fsspec for every URI."""

    options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,  # they may hold keys
        description="fsspec options, such as {endpoint_url: ..., profile: ...} or {anon: true} for s3://. "
        "Possible secrets are redacted (***); prefer a profile, or credentials of the environment.",
    )

    @field_serializer("options", when_used="json")
    def _hide_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        return {name: redact(name, value) for name, value in options.items()}


class RayConfig(Section):
    """The Ray cluster; `ray job submit` decides all of it but block_mb and log_level."""

    address: str | None = Field(default=None, description="A running cluster; null: RAY_ADDRESS, else start one.")
    num_cpus: int | None = Field(default=None, ge=1, description="CPUs of a cluster that is started here.")
    num_gpus: int | None = Field(default=None, ge=0, description="GPUs of a cluster that is started here.")
    object_store_mb: int | None = Field(
        default=None, ge=100, description="Object store of a cluster that is started here; null: 300 MB per CPU."
    )
    log_level: str = Field(
        default="info",
        pattern="^(debug|info|warning)$",
        description="Level of the workers' logs (JSON lines); debug: every chunk, info: every clip.",
    )
    block_mb: int = Field(default=32, ge=1, description="Target size of a Ray Data block; 32 and more were fastest.")


class ModelsConfig(Section):
    """Location and cache of weight files."""

    mirror: str | None = Field(
        default=None,
        description="Folder (any fsspec URI) laid out like the hub, <owner>/<repository>/<file>; null: the hub.",
    )
    cache: str | None = Field(
        default=None, description="Folder for weight files of hub and mirror; null: the user's cache folders."
    )


class TracksConfig(Section):
    """Linking the faces of a clip to tracks. Lengths count sampled frames."""

    min_iou: float = Field(default=0.3, ge=0, le=1, description="Least IoU for a link by position alone.")
    min_cosine: float = Field(default=0.5, ge=-1, le=1, description="Least cosine for a link across a cut or a jump.")
    switch_cosine: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Below this cosine to the track, a good face is another person wherever it is; null: from the "
        "embedding model's entry.",
    )
    max_gap: int = Field(default=15, ge=0, description="Sampled frames that a track may miss.")


class IdentitiesConfig(Section):
    """Clustering the tracks of the corpus to identities."""

    threshold: float | None = Field(
        default=None,
        description="Cosine of two tracks of the same person; null: from the embedding model's entry.",
    )
    small_cluster_margin: float = Field(
        default=0.18,
        ge=0,
        description="Small clusters must pass the threshold by up to this much (docs/identities.md).",
    )
    neighbors: int = Field(default=32, ge=1, description="Candidate neighbors per track.")
    component_cosine: float = Field(
        default=0.5, ge=-1, le=1, description="The first phase links within connected components of tracks this close."
    )
    conflict_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Co-occurring tracks block a merge when they exceed this share of the smaller side.",
    )
    relative_similarity: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Least similarity of two clusters, as a share of the similarity inside each; 0: any.",
    )
    min_frames: int = Field(default=3, ge=1, description="A track with fewer faces seeds no identity.")
    min_score: float = Field(default=0.9, ge=0, le=1, description="A track with a lower mean score seeds no identity.")
    min_quality: float = Field(
        default=0.15, ge=0, le=1, description="A track of lower quality (tiny or few faces) seeds no identity."
    )
    exact_up_to: int = Field(
        default=100_000, ge=0, description="Neighbors are exact up to this many tracks; above, approximate."
    )
    local_up_to: int = Field(
        default=20_000, ge=0, description="The driver searches neighbors up to this many tracks; above, Ray tasks do."
    )
    recluster_up_to: int = Field(
        default=20_000,
        ge=0,
        description="Each run clusters all tracks up to this many; above, new tracks join existing identities.",
    )
    recluster_growth: float = Field(
        default=0.25,
        ge=0,
        description="All tracks are clustered again once their number has grown by this share.",
    )
    ambiguous_margin: float = Field(
        default=0.05, ge=0, description="Pairs of identities whose score is this close below the threshold are listed."
    )

    def of_versions(self) -> dict[str, Any]:
        """The settings as versions hash them: under their first names, so that a new name changes no version."""
        first = {new.split(".")[1]: old.split(".")[1] for old, new in RENAMED.items() if new.startswith("identities.")}
        return {first.get(name, name): value for name, value in self.model_dump(mode="json").items()}


class PlanConfig(Section):
    """Cluster and prices for the forecast of `faceatlas plan`."""

    cpus: int | None = Field(default=None, ge=1, description="CPU cores of the cluster; null: those of this machine.")
    gpus: int | None = Field(default=None, ge=0, description="GPUs of the cluster; null: those of this machine.")
    gpu_hour: float | None = Field(default=None, ge=0, description="Price of one GPU hour; null: unknown.")
    cpu_hour: float | None = Field(default=None, ge=0, description="Price of one CPU core hour; null: unknown.")
    currency: str = Field(default="USD", description="Currency of the prices; only printed.")


class Config(Section):
    """All settings of a run."""

    sources: SourcesConfig = SourcesConfig()
    decode: DecodeConfig = DecodeConfig()
    models: ModelsConfig = ModelsConfig()
    actors: ActorsConfig = ActorsConfig()
    faults: FaultsConfig = FaultsConfig()
    store: StoreConfig = StoreConfig()
    lease: LeaseConfig = LeaseConfig()
    tracks: TracksConfig = TracksConfig()
    identities: IdentitiesConfig = IdentitiesConfig()
    storage: StorageConfig = StorageConfig()
    ray: RayConfig = RayConfig()
    plan: PlanConfig = PlanConfig()


#: old name of a setting -> its name now; old names work for one release, with a warning
RENAMED = {
    "store.switch_early": "store.promote_early",
    "identities.size_adjust": "identities.small_cluster_margin",
    "identities.neighbours": "identities.neighbors",
    "identities.kinship": "identities.relative_similarity",
    "identities.afresh_up_to": "identities.recluster_up_to",
    "identities.afresh_growth": "identities.recluster_growth",
}


def load_config(
    file: str | Path | None = None,
    assignments: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Build the configuration of a run; an assignment takes precedence over the environment, that over the file.

    Args:
        file: YAML file, or None.
        assignments: `"a.b=c"` strings; values are read as YAML, so `null`, `0.5` and `[1, 2]` mean what they say.
        environment: variables such as `FACEATLAS__ACTORS__GPUS=0.5`; default: the process environment.

    Raises:
        ConfigError: an unknown setting, with the likeliest known one, or a wrong value, with its place.
    """
    trees = [
        sources.read_yaml(file) if file is not None else {},
        sources.read_environment(os.environ if environment is None else environment),
        sources.read_assignments(assignments),
    ]
    try:
        return Config.model_validate(sources.merge_trees([sources.rename(tree, RENAMED) for tree in trees]))
    except ValidationError as error:
        raise ConfigError(f"wrong configuration: {sources.explain(error, Config)}") from error
