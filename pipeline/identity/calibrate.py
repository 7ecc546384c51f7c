"""The threshold of an embedding model, estimated from a corpus without truth.

Co-occurring tracks are certain impostors; the halves of one track are certain genuine pairs, if
easy ones: they come from one clip, so the share of them that is accepted is an upper bound. The threshold is the cosine
above which a share `false_accepts` of the impostors lies. Where there are too few to count that far, the tail is that
of a normal distribution with their mean and deviation, and the result says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtri  # scipy.stats would add a second to every start of the command

from pipeline.arrays import match_faces
from pipeline.errors import ConfigError
from pipeline.identity.assign import co_occurring_pairs
from pipeline.storage.output import open_output
from pipeline.tables import parquet
from pipeline.tables.clip_reader import track_members
from pipeline.tracking.faces import unit_embeddings

LEAST_PAIRS = 20
_RESAMPLES = 500
_HALF = 3  # faces in half a track, at least
_MOST_TRACKS = 5_000  # tracks whose halves are compared: more change nothing and their faces must be read


@dataclass(frozen=True)
class Calibration:
    """A threshold estimated from a corpus.

    Attributes:
        threshold: cosine with the wanted share of false accepts.
        low, high: 95 % of resampled corpora lie between.
        how: `counted` or `normal tail`, with the number of impostors.
        impostors, genuine: pairs of either kind.
        accepted: share of the genuine pairs above the threshold; NaN if there are none.
    """

    threshold: float
    low: float
    high: float
    how: str
    impostors: int
    genuine: int
    accepted: float


def estimate_threshold(impostor_I: np.ndarray, genuine_G: np.ndarray, false_accepts: float) -> Calibration:
    """Estimate the threshold from cosines of certain impostors and certain genuine pairs.

    Raises:
        ConfigError: fewer than LEAST_PAIRS impostors.
    """
    if len(impostor_I) < LEAST_PAIRS:
        raise ConfigError(
            f"calibrate needs {LEAST_PAIRS} pairs of co-occurring tracks, this corpus has {len(impostor_I)}; "
            "use clips with several people, or keep the model's own threshold"
        )
    counted = len(impostor_I) * false_accepts >= 10

    def estimate(cosine: np.ndarray) -> float:
        if counted:
            return float(np.quantile(cosine, 1 - false_accepts))
        return float(cosine.mean() - ndtri(false_accepts) * cosine.std(ddof=1))

    random = np.random.default_rng(0)
    drawn = [estimate(random.choice(impostor_I, len(impostor_I))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    threshold = estimate(impostor_I)
    accepted = float((genuine_G >= threshold).mean()) if len(genuine_G) else float("nan")
    how = (
        "counted"
        if counted
        else f"normal tail, since {len(impostor_I)} pairs are too few to count to {false_accepts:g}"
    )
    return Calibration(threshold, float(low), float(high), how, len(impostor_I), len(genuine_G), accepted)


def calibrate_output(
    out: str, false_accepts: float = 1e-4, storage_options: Mapping[str, Any] | None = None
) -> Calibration:
    """`estimate_threshold` with the tracks and embeddings of an output.

    Raises:
        OutputError: `out` is no output of Faceatlas.
        ConfigError: it has too few co-occurring tracks.
    """
    columns = ["track_id", "clip_id", "first_frame", "last_frame", "embedding", "frames", "members", "faces", "shard"]
    tracks = parquet.read_table(out, "tracks", columns, storage_options).sort_by("track_id")
    unit_ND, embedded_N = unit_embeddings(tracks["embedding"]) if tracks.num_rows else (np.empty((0, 1)), np.empty(0))
    pairs_C2 = co_occurring_pairs(tracks)
    pairs_C2 = pairs_C2[embedded_N[pairs_C2].all(axis=1)] if len(pairs_C2) else pairs_C2
    impostor_C = np.einsum("cd,cd->c", unit_ND[pairs_C2[:, 0]], unit_ND[pairs_C2[:, 1]])
    return estimate_threshold(impostor_C, _halves(out, tracks, storage_options), false_accepts)


def _halves(out: str, tracks: pa.Table, storage_options: Mapping[str, Any] | None) -> np.ndarray:
    """Cosine of the means of the first and the second half of each track that is long enough."""
    output = open_output(out, storage_options)
    version = parquet.read_current(output).get("embeddings", "none")
    long = tracks.filter(pc.greater_equal(tracks["faces"], 2 * _HALF))
    if long.num_rows > _MOST_TRACKS:
        long = long.take(pa.array(np.linspace(0, long.num_rows - 1, _MOST_TRACKS).astype(np.int64)))
    cosines = []
    for shard in sorted(long["shard"].unique().to_pylist()):
        rows = long.filter(pc.equal(long["shard"], shard))
        stored = parquet.read_version(output, "embeddings", version, ["clip_id", "frame", "face", "embedding"], shard)
        stored = stored.filter(pc.is_in(stored["clip_id"], rows["clip_id"].combine_chunks().unique()))
        if stored.num_rows == 0:
            continue
        unit_ED, embedded_E = unit_embeddings(stored["embedding"])
        members = track_members(rows.select(["clip_id", "track_id", "frames", "members"]))
        row_F = pc.fill_null(match_faces(members, stored), -1).to_numpy()
        track_F = pc.index_in(members["track_id"], value_set=rows["track_id"].combine_chunks()).to_numpy()
        known_F = (row_F >= 0) & embedded_E[row_F]
        row_F, track_F = row_F[known_F], track_F[known_F]
        for row_M in np.split(row_F, np.flatnonzero(np.diff(track_F)) + 1):
            if len(row_M) >= 2 * _HALF:
                unit_MD = unit_ED[row_M]
                first_D, second_D = unit_MD[: len(unit_MD) // 2].mean(axis=0), unit_MD[len(unit_MD) // 2 :].mean(axis=0)
                length = np.linalg.norm(first_D) * np.linalg.norm(second_D)
                cosines.append(float(first_D @ second_D / max(float(length), 1e-6)))
    return np.array(cosines)
