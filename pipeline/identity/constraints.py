"""Constraints on a clustering: rows that are one person, and rows that are not.

Cannot-links are soft while clusters form, because a hard one lets a single mistaken track split a person (it cost 2.7
points in one set, docs/reference/clustering.md). In the end none is left inside a cluster: the weaker member leaves. A
user's override is stronger: such a cannot-link blocks every merge, and rows that a user joined stay together.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.identity.knn import GRID

_NO_PAIRS = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Constraints:
    """Pairs of rows.

    Attributes:
        cannot_C2: int64 (C, 2), rows that are two people.
        weight_C: float64 (C,), 1, or infinite for a user's override.
        must_M2: int64 (M, 2), rows that are one person.
    """

    cannot_C2: np.ndarray
    weight_C: np.ndarray
    must_M2: np.ndarray

    @staticmethod
    def of(cannot_C2: np.ndarray = _NO_PAIRS, must_M2: np.ndarray = _NO_PAIRS) -> "Constraints":
        """Cannot-links that no user made, and must-links."""
        return Constraints(cannot_C2, np.ones(len(cannot_C2)), must_M2)

    def rivals(self, rows: np.ndarray) -> dict[int, list[int]]:
        """For those of `rows` that have any: the rows that they cannot be together with."""
        rivals: dict[int, list[int]] = {}
        both_C2 = np.concatenate([self.cannot_C2, self.cannot_C2[:, ::-1]])
        for row, rival in both_C2[np.isin(both_C2[:, 0], rows)].tolist():
            rivals.setdefault(row, []).append(rival)
        return rivals


def join_groups(cluster_N: np.ndarray, must_M2: np.ndarray) -> np.ndarray:
    """Merge the clusters that a must-link leads between; a merged one is named by its smallest name."""
    if len(must_M2) == 0:
        return cluster_N
    num = len(cluster_N)
    link_M2 = cluster_N[must_M2]
    graph = coo_array((np.ones(len(link_M2), bool), link_M2.T), (num, num))
    _, group_N = connected_components(graph, directed=False)
    smallest = np.full(int(group_N.max()) + 1, num)
    np.minimum.at(smallest, group_N, np.arange(num))
    return np.where(cluster_N >= 0, smallest[group_N][cluster_N], -1)


def settle_conflicts(
    cluster_N: np.ndarray, grid_ND: np.ndarray, weight_N: np.ndarray, constraints: Constraints
) -> np.ndarray:
    """Take members out of clusters until none holds a cannot-link.

    Of two that cannot be together, the one with more conflicts leaves, then the one less like the others; it becomes a
    cluster of its own. A row that a user joined to others leaves only if both are.

    Args:
        cluster_N: int64 (N,), named by one of its rows; -1 for none.
        grid_ND: vectors on the grid.
        weight_N: int64 (N,).
        constraints: whose cannot-links are settled.

    Returns:
        int64 (N,): clusters; those of rows that left are named by their row plus N.
    """
    settled_N, num = cluster_N.copy(), len(cluster_N)
    joined = set(constraints.must_M2.ravel().tolist())
    cannot_C2 = constraints.cannot_C2
    inside_C = (cluster_N[cannot_C2[:, 0]] == cluster_N[cannot_C2[:, 1]]) & (cluster_N[cannot_C2[:, 0]] >= 0)
    bad_C2 = np.unique(np.sort(cannot_C2[inside_C], axis=1), axis=0)
    if len(bad_C2) == 0:
        return settled_N
    order_N, order_C = np.argsort(cluster_N, kind="stable"), np.argsort(cluster_N[bad_C2[:, 0]], kind="stable")
    bad_C2 = bad_C2[order_C]
    names, first_K = np.unique(cluster_N[bad_C2[:, 0]], return_index=True)
    sides = zip(
        np.searchsorted(cluster_N, names, sorter=order_N),
        np.searchsorted(cluster_N, names, side="right", sorter=order_N),
        np.split(bad_C2, first_K[1:]),
        strict=True,
    )
    for begin, end, bad_B2 in sides:
        rows_M = order_N[begin:end]
        vector_MD = grid_ND[rows_M].astype(np.float64) * GRID * weight_N[rows_M, None]
        likeness_M = vector_MD @ vector_MD.sum(axis=0) - (vector_MD**2).sum(axis=1)
        likeness = dict(zip(rows_M.tolist(), (likeness_M / weight_N[rows_M]).tolist(), strict=True))
        left = [(a, b) for a, b in bad_B2.tolist()]
        while left:
            conflicts: dict[int, int] = {}
            for pair in left:
                for row in pair:
                    conflicts[row] = conflicts.get(row, 0) + 1
            leaver = min(conflicts, key=lambda row: (row in joined, -conflicts[row], likeness[row], -row))
            settled_N[leaver] = leaver + num
            left = [pair for pair in left if leaver not in pair]
    return settled_N
