"""Scores of a clustering against the truth: B-cubed and pairwise precision, recall and F.

B-cubed: Bagga and Baldwin, "Entity-based cross-document coreferencing using the vector space model", 1998; the mean
over all items, so that a person with one clip counts as much as a clip of a person with many. Pairwise: over all pairs.
"""

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Precision, recall and their harmonic mean, 0..1; NaN where nothing is to be found (no pair of one person)."""

    bcubed_precision: float
    bcubed_recall: float
    bcubed_f: float
    pairwise_precision: float
    pairwise_recall: float
    pairwise_f: float

    def rounded(self, digits: int = 5) -> dict[str, float]:
        """As a plain dict."""
        return {name: round(value, digits) for name, value in asdict(self).items()}


def score_clusters(cluster_N: np.ndarray, truth_N: np.ndarray) -> Scores:
    """Compare clusters with the truth.

    Args:
        cluster_N: integers (N,), equal for items of one cluster; a negative one is a cluster of its own.
        truth_N: integers (N,), equal for items of one person.

    Raises:
        ValueError: the lengths differ.
    """
    if len(cluster_N) != len(truth_N):
        raise ValueError(f"{len(cluster_N)} clusters for {len(truth_N)} items of the truth; give one per item")
    if len(cluster_N) == 0:
        return Scores(*[float("nan")] * 6)
    alone = cluster_N < 0
    cluster_N = np.where(alone, np.arange(len(cluster_N)) + cluster_N.max() + 1, cluster_N)
    cluster_N = np.unique(cluster_N, return_inverse=True)[1]
    truth_N = np.unique(truth_N, return_inverse=True)[1]
    joint_N = cluster_N.astype(np.int64) * (int(truth_N.max()) + 1) + truth_N
    _, cell_N, cell_size = np.unique(joint_N, return_inverse=True, return_counts=True)
    cluster_size, truth_size = np.bincount(cluster_N), np.bincount(truth_N)
    precision = float((cell_size[cell_N] / cluster_size[cluster_N]).mean())
    recall = float((cell_size[cell_N] / truth_size[truth_N]).mean())
    together, found, true = _num_pairs(cell_size), _num_pairs(cluster_size), _num_pairs(truth_size)
    pair_precision = together / found if found else float("nan")
    pair_recall = together / true if true else float("nan")
    return Scores(
        precision, recall, _harmonic(precision, recall),
        pair_precision, pair_recall, _harmonic(pair_precision, pair_recall),
    )  # fmt: skip


def _num_pairs(size: np.ndarray) -> float:
    return float((size.astype(np.float64) * (size - 1) / 2).sum())


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
