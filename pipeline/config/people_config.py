"""The settings by which faces become tracks, and tracks people."""

from pydantic import Field

from pipeline.config.section import Section


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
        description="Small clusters must be closer than the threshold by up to this (design/clustering).",
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
