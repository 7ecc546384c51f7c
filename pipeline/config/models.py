"""The configuration: one frozen model, from YAML, the environment and `--set a.b=c`, in rising order of force."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator

from pipeline.config.redact import shown
from pipeline.errors import ConfigError

ENV_PREFIX = "FACEATLAS__"


class Section(BaseModel):
    """Settings that do not change, and no others than those that are named."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourcesConfig(Section):
    """What counts as a clip, and where the videos of a list lie."""

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
    """Which frames are annotated, and how they are cut into chunks."""

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
        description="A chunk of large frames is cut earlier, at this many MB; this bounds a task's memory.",
    )
    max_pixels: int = Field(
        default=8192 * 8192, ge=1, description="A video with more pixels per frame is quarantined instead of decoded."
    )
    max_frames: int = Field(
        default=10_000_000, ge=1, description="A video is quarantined when more frames than this have been decoded."
    )
    max_hours: float = Field(
        default=72.0, gt=0, description="A video is quarantined when its presentation time passes this."
    )
    cpus: float = Field(default=1.0, gt=0, description="CPUs that Ray reserves for one decode task.")
    resources: dict[str, float] = Field(
        default_factory=dict,
        description="Custom resources that one decode task reserves, such as {decode: 1}: keeps it off GPU nodes.",
    )

    @model_validator(mode="after")
    def _one_sampling(self) -> "DecodeConfig":
        if self.fps is not None and self.every != 1:
            raise ValueError(
                f"decode.every={self.every} and decode.fps={self.fps:g} exclude each other; set one of them"
            )
        return self


class PoolConfig(Section):
    """One pool of identical actors that host some slots of the bundle."""

    slots: tuple[str, ...] | None = Field(default=None, description="Slots this pool runs; null: all that are left.")
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
        default_factory=dict, description="Custom resources of Ray that one actor reserves, such as {annotate: 1}."
    )
    threads: int | None = Field(
        default=None, ge=1, description="Threads of one actor on the CPU; null: its share of the node."
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
    """How the models are run."""

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
    batch_frames: int = Field(default=32, ge=1, description="Frames of one size that the detector gets at once.")
    batch_pixels: int | None = Field(
        default=None,
        ge=1,
        description="Pixels that go through the detector at once; null: 1 million per CPU thread, 64 on a GPU.",
    )
    batch_faces: int | None = Field(
        default=None,
        ge=1,
        description="Faces that go through a model at once; null: 16 per CPU thread, 256 on a GPU.",
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda)$", description="auto: CUDA if the actor owns a GPU.")
    precision: str = Field(
        default="auto",
        pattern="^(auto|float32|bfloat16|float16)$",
        description="Number format of the networks; auto: per model what docs/parity.md shows to be within tolerance.",
    )
    winograd: bool = Field(
        default=True,
        description="Winograd's algorithm for 3x3 convolutions of large float32 networks on a CPU: faster, the same "
        "but for rounding, and two to four times the memory of their weights (bundle pyfeat: 1.4 GB more per actor).",
    )
    wait_for_min_actors_s: int = Field(
        default=600,
        ge=1,
        description="A pool that cannot start within this time fails the run instead of waiting for ever.",
    )

    @model_validator(mode="after")
    def _pools_or_shortcut(self) -> "ActorsConfig":
        if self.pools and (self.size is not None or self.gpus is not None or self.resources):
            raise ValueError("with actors.pools, size, gpus and resources belong to each pool, not to actors")
        return self

    def resolved_pools(self) -> tuple[PoolConfig, ...]:
        """The pools in the order of the flow; the shortcut fields make the only pool."""
        return self.pools or (PoolConfig(size=self.size, gpus=self.gpus, resources=self.resources),)


class FaultsConfig(Section):
    """What becomes of clips that kill or hang their process, and of a run that is told to stop."""

    attempts: int = Field(
        default=3, ge=2, description="A clip whose process dies this often is quarantined; the last attempts are alone."
    )
    decode_limit_s: float = Field(
        default=300.0, gt=0, description="Decoding a chunk longer than this, waiting for its bytes included, is a hang."
    )
    annotate_limit_s: float = Field(
        default=600.0, gt=0, description="An actor that takes longer than this for one batch of chunks hangs."
    )
    decode_memory_mb: int = Field(
        default=4096, ge=256, description="Memory that decoding may take after a death, in a process of its own."
    )
    annotate_memory_mb: int = Field(
        default=16384, ge=256, description="Memory that annotating may take after two deaths, in a process of its own."
    )
    stop_grace_s: float = Field(
        default=20.0, ge=0, description="After a SIGTERM, what is under way is finished and written for this long."
    )


class StoreConfig(Section):
    """How tables are written."""

    chunks_per_file: int = Field(
        default=64, ge=1, description="Chunks that are gathered into one Parquet file per table."
    )
    embedding_dtype: str = Field(
        default="float32",
        pattern="^float(16|32)$",
        description="Embeddings on disk; float16 halves them (relative error 5e-4).",
    )
    promote_early: bool = Field(
        default=False,
        description="New versions come into force though clips outside of the corpus lack them.",
    )


class LeaseConfig(Section):
    """The lease that keeps two runs from one output."""

    renew_s: float = Field(default=15.0, gt=0, description="Seconds between two heartbeats of a run.")
    expires_s: float = Field(
        default=60.0, gt=0, description="A run whose heartbeat is older is dead; another may take its place."
    )

    @model_validator(mode="after")
    def _several_beats(self) -> "LeaseConfig":
        if self.expires_s < 2 * self.renew_s:
            raise ValueError(f"expires_s={self.expires_s:g} must be at least twice renew_s={self.renew_s:g}")
        return self


class StorageConfig(Section):
    """Options of the storage behind every URI, given to fsspec."""

    options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,  # they may hold keys
        description="fsspec options, such as {endpoint_url: ..., profile: ...} or {anon: true} for s3://. "
        "What may be a secret is shown as ***; better name a profile, or leave it to the environment.",
    )

    @field_serializer("options", when_used="json")
    def _hide_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        return {name: shown(name, value) for name, value in options.items()}


class RayConfig(Section):
    """The cluster. Under `ray job submit` all of this is decided already."""

    address: str | None = Field(default=None, description="A running cluster; null: RAY_ADDRESS, else start one.")
    num_cpus: int | None = Field(default=None, ge=1, description="CPUs of a cluster that is started here.")
    num_gpus: int | None = Field(default=None, ge=0, description="GPUs of a cluster that is started here.")
    object_store_mb: int | None = Field(
        default=None, ge=100, description="Object store of a cluster that is started here; null: 300 MB per CPU."
    )
    log_level: str = Field(
        default="info",
        pattern="^(debug|info|warning)$",
        description="What workers write to their logs, as JSON lines: debug: every chunk, info: every clip.",
    )
    block_mb: int = Field(default=32, ge=1, description="Target size of a Ray Data block; 32 and more measured best.")


class ModelsConfig(Section):
    """Where weights come from."""

    mirror: str | None = Field(
        default=None,
        description="Folder (any fsspec URI) laid out like the hub, <owner>/<repository>/<file>; null: the hub.",
    )
    cache: str | None = Field(
        default=None, description="Folder for weight files of hub and mirror; null: the user's cache folders."
    )


class TracksConfig(Section):
    """How the faces of one clip become tracks. Lengths count sampled frames."""

    min_iou: float = Field(default=0.3, ge=0, le=1, description="Least overlap for a link by position alone.")
    min_cosine: float = Field(default=0.5, ge=-1, le=1, description="Least cosine for a link across a cut or a jump.")
    switch_cosine: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Below this cosine to the track, a good face is somebody else wherever it is; null: from the "
        "embedding model's entry.",
    )
    max_gap: int = Field(default=15, ge=0, description="A track may miss its face for this many sampled frames.")


class IdentitiesConfig(Section):
    """How the tracks of the corpus become identities."""

    threshold: float | None = Field(
        default=None, description="Cosine at which two tracks are one person; null: from the embedding model's entry."
    )
    size_adjust: float = Field(
        default=0.18,
        ge=0,
        description="Small clusters must be closer than the threshold by up to this (docs/reference/clustering.md).",
    )
    neighbours: int = Field(default=32, ge=1, description="Candidate neighbours per track.")
    component_cosine: float = Field(
        default=0.5, ge=-1, le=1, description="The first phase links inside the components of tracks this close."
    )
    conflict_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Tracks that are seen together block a merge when they exceed this share of the smaller side.",
    )
    kinship: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="How alike two clusters must be, as a share of how alike the tracks of each are; 0: no matter.",
    )
    min_frames: int = Field(default=3, ge=1, description="A track with fewer faces founds no identity.")
    min_score: float = Field(
        default=0.9, ge=0, le=1, description="A track whose mean score is lower founds no identity."
    )
    min_quality: float = Field(
        default=0.15, ge=0, le=1, description="A track of lower quality (tiny or few faces) founds no identity."
    )
    exact_up_to: int = Field(
        default=100_000, ge=0, description="Up to so many tracks neighbours are exact; above, approximate."
    )
    local_up_to: int = Field(
        default=20_000, ge=0, description="Up to so many tracks neighbours are found in the driver, above by Ray tasks."
    )
    afresh_up_to: int = Field(
        default=20_000,
        ge=0,
        description="Up to so many tracks each run clusters afresh; above, new tracks are added to the identities.",
    )
    afresh_growth: float = Field(
        default=0.25, ge=0, description="Cluster afresh when the tracks have grown by this share since the last time."
    )
    ambiguous_margin: float = Field(
        default=0.05, ge=0, description="Identities whose score lies this close below the threshold are listed."
    )


class PlanConfig(Section):
    """The cluster that `faceatlas plan` forecasts for, and its prices, which are yours to state."""

    cpus: int | None = Field(default=None, ge=1, description="CPU cores of the cluster; null: those of this machine.")
    gpus: int | None = Field(default=None, ge=0, description="GPUs of the cluster; null: those of this machine.")
    gpu_hour: float | None = Field(default=None, ge=0, description="Price of a GPU for an hour; null: not known.")
    cpu_hour: float | None = Field(default=None, ge=0, description="Price of a CPU core for an hour; null: not known.")
    currency: str = Field(default="USD", description="Of the prices; only printed.")


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


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"setting {path!r}: {name!r} is a value, not a section")
    tree[leaf] = value


def _value(place: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:  # its message repeats the text, which may be a secret
        raise ConfigError(f"{place}: the value cannot be read as YAML; put it in quotes") from None


def load_config(
    file: str | Path | None = None,
    assignments: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Build the configuration of a run.

    Args:
        file: YAML file, or None.
        assignments: `"a.b=c"` strings; values are read as YAML, so `null`, `0.5` and `[1, 2]` mean what they say.
        environment: variables such as `FACEATLAS__ACTORS__GPUS=0.5`; default: the process environment.

    Raises:
        ConfigError: an unknown setting or a wrong value, with its place.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = yaml.safe_load(Path(file).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the configuration {file}: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(
                f"the configuration {file} must hold sections such as 'decode:', found {type(tree).__name__}"
            )
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENV_PREFIX):
            _put(tree, name.removeprefix(ENV_PREFIX).lower().replace("__", "."), _value(name, value))
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: write it as section.name=value, for example decode.every=5")
        _put(tree, path.strip(), _value(f"--set {path}", value))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"wrong configuration: {problems}") from error
