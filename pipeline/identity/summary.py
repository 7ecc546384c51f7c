"""Rows about identities: members, center, cohesion, and the ambiguous pairs that a person should review.

Letters: N tracks, M members, K identities, E candidate pairs, C pairs seen together, D width of the embedding.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.identity.cluster import WEIGHTS, row_weights, sum_groups
from pipeline.identity.knn import to_grid
from pipeline.identity.linkage import LinkageRule, score_pairs
from pipeline.schema import AMBIGUOUS_PAIRS, IDENTITIES


def describe_identities(
    tracks: pa.Table,
    unit_ND: np.ndarray,
    groups: Mapping[int, np.ndarray],
    seed_N: np.ndarray,
    id_of_cluster: Mapping[int, str],
    names: Mapping[str, str],
    near_E2: np.ndarray,
) -> pa.Table:
    """Rows of `schema.IDENTITIES`, sorted by identity_id; weak tracks count as members and have no part in the center.

    Args:
        tracks: sorted by track_id.
        unit_ND: float32, their embeddings at unit length.
        groups: cluster -> rows.
        seed_N: bool, may seed an identity.
        id_of_cluster: cluster -> identity_id.
        names: identity_id -> name.
        near_E2: candidate pairs of rows, by which the next identity is found.
    """
    track_ids, clip_ids = tracks["track_id"].to_pylist(), tracks["clip_id"].to_pylist()
    faces_N = tracks["faces"].to_numpy()
    quality_N = np.nan_to_num(tracks["quality"].to_numpy().astype(np.float32))
    frame_N, face_N = tracks["representative_frame"].to_pylist(), tracks["representative_face"].to_pylist()
    clusters = sorted(groups, key=lambda cluster: id_of_cluster[cluster])
    center_KD = np.zeros((len(clusters), unit_ND.shape[1]), np.float32)
    of_row = np.full(len(track_ids), -1)
    rows: list[dict[str, Any]] = []
    for k, cluster in enumerate(clusters):
        rows_M = groups[cluster]
        of_row[rows_M] = k
        center_D, cohesion, best_M = describe_members(unit_ND[rows_M], quality_N[rows_M], seed_N[rows_M])
        center_KD[k], best = center_D, rows_M[best_M]
        identity_id = id_of_cluster[cluster]
        rows.append(
            {
                "identity_id": identity_id,
                "tracks": len(rows_M),
                "clips": len({clip_ids[i] for i in rows_M}),
                "faces": int(faces_N[rows_M].sum()),
                "cohesion": cohesion,
                "name": names.get(identity_id),
                "embedding": center_D,
                "members": [track_ids[i] for i in rows_M],
                "representative_clip_id": clip_ids[best],
                "representative_frame": frame_N[best],
                "representative_face": face_N[best],
            }
        )
    next_K, cosine_K = _next_identities(center_KD, of_row[near_E2])
    for k, row in enumerate(rows):
        if next_K[k] >= 0:
            row["next_identity_id"] = rows[next_K[k]]["identity_id"]
            row["next_cosine"] = float(cosine_K[k])
            row["margin"] = row["cohesion"] - float(cosine_K[k])
    return pa.Table.from_pylist(rows, schema=IDENTITIES)


def describe_members(unit_MD: np.ndarray, quality_M: np.ndarray, seed_M: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Center, cohesion and best member of an identity.

    Args:
        unit_MD: float32, their embeddings at unit length.
        quality_M: float32.
        seed_M: bool, has a part in the center; at least one does.

    Returns:
        The center, float32 (D,) at unit length: the mean by quality; the mean cosine of all members to it; and which
        member shows the person best.
    """
    weight_M = np.where(seed_M, np.maximum(quality_M, 1 / WEIGHTS), 0).astype(np.float32)
    center_D = weight_M @ unit_MD
    center_D = center_D / max(float(np.linalg.norm(center_D)), 1e-6)
    cosine_M = unit_MD @ center_D
    best = int(np.argmax(np.where(seed_M, quality_M * cosine_M, -np.inf)))
    return center_D, min(float(cosine_M.mean()), 1.0), best


def _next_identities(center_KD: np.ndarray, near_E2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each identity the closest of those that a candidate pair leads to, -1 for none; and its cosine."""
    num = len(center_KD)
    pair_P2 = _distinct(near_E2)
    cosine_P = np.einsum("pd,pd->p", center_KD[pair_P2[:, 0]], center_KD[pair_P2[:, 1]])
    here, there = np.concatenate([pair_P2, pair_P2[:, ::-1]]).T
    cosine = np.concatenate([cosine_P, cosine_P])
    order = np.lexsort((there, -cosine, here))
    first, place = np.unique(here[order], return_index=True)
    next_K, cosine_K = np.full(num, -1), np.full(num, np.nan)
    next_K[first], cosine_K[first] = there[order][place], cosine[order][place]
    return next_K, cosine_K


def _distinct(pair_E2: np.ndarray) -> np.ndarray:
    """Pairs of different identities, each once, the smaller first."""
    pair_E2 = pair_E2[(pair_E2 >= 0).all(axis=1) & (pair_E2[:, 0] != pair_E2[:, 1])]
    return np.unique(np.sort(pair_E2, axis=1), axis=0).reshape(-1, 2)


def list_ambiguous(
    unit_ND: np.ndarray,
    quality_N: np.ndarray,
    cluster_N: np.ndarray,
    seed_N: np.ndarray,
    id_of_cluster: Mapping[int, str],
    near_E2: np.ndarray,
    seen_C2: np.ndarray,
    rule: LinkageRule,
    margin: float,
) -> pa.Table:
    """Pairs of identities that a person should look at: `schema.AMBIGUOUS_PAIRS`, the highest score first.

    Those whose score lies less than `margin` below the threshold, and those above it that are kept apart because their
    tracks co-occur, because an override says so, or because each is far more alike in itself
    (`rule.relative_similarity`).
    """
    seeded_N = np.where(seed_N, cluster_N, -1)
    names, of_seeded = np.unique(seeded_N[seeded_N >= 0], return_inverse=True)
    of_row = np.full(len(cluster_N), -1)
    of_row[seeded_N >= 0] = of_seeded
    pair_P2 = _distinct(of_row[near_E2])
    if len(pair_P2) == 0:
        return AMBIGUOUS_PAIRS.empty_table()
    nodes = sum_groups(to_grid(unit_ND), row_weights(quality_N), seeded_N)
    score_P = score_pairs(nodes, pair_P2[:, 0], pair_P2[:, 1], rule)
    close = score_P >= rule.threshold - margin
    pair_P2, score_P = pair_P2[close], score_P[close]
    seen_2 = np.sort(of_row[seen_C2], axis=1)
    num = len(names)
    key, count = np.unique((seen_2[:, 0] * num + seen_2[:, 1])[(seen_2 >= 0).all(axis=1)], return_counts=True)
    seen_of = dict(zip(key.tolist(), count.tolist(), strict=True))
    size_K = np.bincount(np.searchsorted(names, cluster_N[np.isin(cluster_N, names)]), minlength=num)
    rows = []
    for (k, other), score in zip(pair_P2.tolist(), score_P.tolist(), strict=True):
        (id_a, a), (id_b, b) = sorted([(id_of_cluster[int(names[k])], k), (id_of_cluster[int(names[other])], other)])
        rows.append(
            {
                "identity_a": id_a,
                "identity_b": id_b,
                "score": score,
                "threshold": rule.threshold,
                "seen_together": seen_of.get(k * num + other, 0),
                "reason": "blocked" if score >= rule.threshold else "close",
                "tracks_a": int(size_K[a]),
                "tracks_b": int(size_K[b]),
            }
        )
    rows.sort(key=lambda row: (-row["score"], row["identity_a"], row["identity_b"]))
    return pa.Table.from_pylist(rows, schema=AMBIGUOUS_PAIRS)
