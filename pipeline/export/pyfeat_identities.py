"""The reference's three per-video methods, with its labels (reference section 7.1), for comparison and for export.

They depend on the order of the rows and know one clip only; for identities across a corpus see
pipeline/identity/assign.py.
"""

from typing import Literal

import numpy as np

from pipeline.errors import ConfigError

Method = Literal["gallery", "hdbscan", "connected"]
_ROWS = 4096


def cluster_identities(
    embeddings: np.ndarray, threshold: float = 0.8, method: Method = "gallery", min_cluster_size: int = 2
) -> list[str | None]:
    """Label the faces of one video.

    Args:
        embeddings: float (N, D), any length; rows with a value that is not finite get no label.
        threshold: cosine. gallery: at least so close to a running mean; connected: closer than this to any member;
            hdbscan: clusters nearer than this are not split.
        method: see above.
        min_cluster_size: of hdbscan.

    Returns:
        `Person_0`, `Person_1`, ... in order of first appearance; None for rows that are not finite; `Unknown` for what
        hdbscan calls noise.

    Raises:
        ConfigError: no such method.
    """
    embeddings = np.asarray(embeddings, np.float64)
    labels: list[str | None] = [None] * len(embeddings)
    rows = np.flatnonzero(np.isfinite(embeddings).all(axis=1))
    if len(rows) == 0:
        return labels
    length_N1 = np.maximum(np.linalg.norm(embeddings[rows], axis=1, keepdims=True), 1e-12)
    unit_ND = (embeddings[rows] / length_N1).astype(np.float32)
    if method == "gallery":
        cluster_N = _gallery(unit_ND, threshold)
    elif method == "connected":
        cluster_N = _connected(unit_ND, threshold)
    elif method == "hdbscan":
        cluster_N = _hdbscan(unit_ND, threshold, min_cluster_size)
    else:
        raise ConfigError(f"no clustering method {method!r}; there are gallery, hdbscan and connected")
    names: dict[int, str] = {-1: "Unknown"}
    for row, cluster in zip(rows.tolist(), cluster_N.tolist(), strict=True):
        labels[row] = names.setdefault(cluster, f"Person_{len(names) - 1}")
    return labels


def _gallery(unit_ND: np.ndarray, threshold: float) -> np.ndarray:
    """One pass in the order of the rows: join the nearest running mean, or found one."""
    center_KD = np.empty((min(64, len(unit_ND)), unit_ND.shape[1]), np.float32)
    size: list[int] = []
    cluster_N = np.empty(len(unit_ND), np.int64)
    for i, unit_D in enumerate(unit_ND):
        cosine_K = center_KD[: len(size)] @ unit_D
        near = int(cosine_K.argmax()) if size else -1
        if near >= 0 and cosine_K[near] >= threshold:
            size[near] += 1
            moved_D = center_KD[near] + (unit_D - center_KD[near]) / size[near]
            center_KD[near] = moved_D / max(float(np.linalg.norm(moved_D)), 1e-12)
            cluster_N[i] = near
            continue
        if len(size) == len(center_KD):
            center_KD = np.concatenate([center_KD, np.empty_like(center_KD)])
        center_KD[len(size)] = unit_D
        cluster_N[i] = len(size)
        size.append(1)
    return cluster_N


def _connected(unit_ND: np.ndarray, threshold: float) -> np.ndarray:
    """Components of the graph of all pairs closer than the threshold: single linkage."""
    from scipy.sparse import coo_array  # a third of the time to load any command
    from scipy.sparse.csgraph import connected_components

    pairs = [np.empty((2, 0), np.int64)]
    for begin in range(0, len(unit_ND), _ROWS):
        row, other = np.nonzero(unit_ND[begin : begin + _ROWS] @ unit_ND.T > threshold)
        pairs.append(np.stack([row + begin, other]))
    pair_2E = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(pair_2E.shape[1], bool), pair_2E), (len(unit_ND), len(unit_ND)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _hdbscan(unit_ND: np.ndarray, threshold: float, min_cluster_size: int) -> np.ndarray:
    from sklearn.cluster import HDBSCAN  # takes a second to import

    if len(unit_ND) < max(2, min_cluster_size):
        return np.full(len(unit_ND), -1)
    epsilon = float(np.sqrt(max(0.0, 2 - 2 * threshold)))
    model = HDBSCAN(
        min_cluster_size=max(2, min_cluster_size), metric="euclidean", cluster_selection_epsilon=epsilon, copy=True
    )
    return model.fit_predict(unit_ND).astype(np.int64)
