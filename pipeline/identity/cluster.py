"""Clustering of unit vectors with constraints, in plain arrays.

    vectors in an order that is theirs      to the grid, where arithmetic is exact
        |  strong ones seed clusters; weak ones neither seed nor bridge them
        |  phase A: components at a high cosine, average linkage inside each    small pieces, whatever the corpus
        |  phase B: the clusters of phase A as nodes, after a search for neighbors of the crowded ones' centers
        |  cannot-links left inside a cluster: the weaker member leaves         constraints.settle_conflicts
        |  weak ones join the cluster they are close to, or none                attach_rows
    cluster of each vector

Rows that belong to a known clustering may be frozen: they enter phase B as finished nodes, and only pairs with a new
row are looked at. Chosen by measurement, docs/reference/clustering.md and docs/benchmarks.
Letters: N vectors, D width, K nodes, E candidate pairs, C cannot-links.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.identity.constraints import Constraints, join_groups, settle_conflicts
from pipeline.identity.knn import GRID, Nearest, candidate_pairs, find_neighbors, to_grid
from pipeline.identity.linkage import LinkageRule, Nodes, add_rows, link_nodes, score_pairs

#: Quality in steps of 1 / WEIGHTS: weights are whole numbers so that weighted sums are exact.
WEIGHTS = 16
#: A search that is done first may pass over pairs this far below the threshold; a center may be closer than members.
CANDIDATE_MARGIN = 0.02
#: Rows that are linked at once in phase A: 65,536 x 512 int32 are 134 MB.
PIECE_ROWS = 65_536

#: (grid_ND, fresh_N, k, least) -> the k nearest of each row, among pairs with at least one fresh row
Search = Callable[[np.ndarray, np.ndarray, int, float], Nearest]


_START = LinkageRule(threshold=0.16, small_cluster_margin=0.18, conflict_share=0.10, relative_similarity=0.70)


@dataclass(frozen=True)
class ClusterRule:
    """Parameters of a clustering; start values for ArcFace-like embeddings.

    Attributes:
        linkage: when two clusters are one person.
        neighbors: candidates per vector.
        component_cosine: phase A links inside the components at this cosine.
    """

    linkage: LinkageRule = _START
    neighbors: int = 32
    component_cosine: float = 0.50


@dataclass
class Account:
    """What a clustering looked at, and how long the search for neighbors took (s)."""

    neighbor_seconds: float = 0.0
    largest_component: int = 0
    pairs: np.ndarray | None = None
    nearest: Nearest | None = None


def cluster_rows(
    unit_ND: np.ndarray,
    quality_N: np.ndarray,
    strong_N: np.ndarray,
    constraints: Constraints,
    rule: ClusterRule,
    frozen_N: np.ndarray | None = None,
    search: Search = find_neighbors,
    account: Account | None = None,
) -> np.ndarray:
    """Cluster vectors; equal input gives equal clusters, whatever the search's partitions and workers.

    Args:
        unit_ND: float32 unit vectors, (N, D), in an order that does not depend on where they come from.
        quality_N: 0..1, how much each counts in its cluster's mean.
        strong_N: bool, may seed a cluster; weak rows only join.
        constraints: which rows are one person, and which are not.
        rule: parameters.
        frozen_N: int64, cluster of each row in a known clustering, -1 for new rows; None: all are new. Frozen clusters
            may merge but never split.
        search: finds neighbors.
        account: written to.

    Returns:
        int64 (N,): cluster of each row, named by its smallest row; -1 for weak rows that are close to none.
    """
    account = account or Account()
    started = time.perf_counter()
    num = len(unit_ND)
    grid_ND = to_grid(unit_ND)
    strong_N = strong_N.copy()
    strong_N[constraints.must_M2.ravel()] = True
    weight_N = row_weights(quality_N)
    cluster_N = np.arange(num) if frozen_N is None else _unfold(frozen_N, strong_N)
    row_K = np.flatnonzero(cluster_N == np.arange(num))  # a node is named by its smallest row
    if frozen_N is None:
        center_KD, fresh_K = grid_ND, np.ones(num, bool)
    else:
        seed_N = np.where(strong_N | (cluster_N == np.arange(num)), cluster_N, -1)
        center_KD, fresh_K = _centers(sum_groups(grid_ND, weight_N, seed_N)), (frozen_N < 0)[row_K]
    found = search(center_KD, fresh_K, rule.neighbors, rule.linkage.threshold - CANDIDATE_MARGIN)
    pairs_E2, cosine_E = candidate_pairs(found)
    pairs_E2 = row_K[pairs_E2]
    account.neighbor_seconds += time.perf_counter() - started
    account.pairs, account.nearest = pairs_E2, found

    state = _State(grid_ND, weight_N, constraints, rule, search, account)
    both_E = strong_N[pairs_E2].all(axis=1)
    seeded_N = np.where(strong_N, cluster_N, -1)
    if frozen_N is None:
        seeded_N = _link_components(state, seeded_N, pairs_E2[both_E], cosine_E[both_E])
    seeded_N = join_groups(seeded_N, constraints.must_M2)
    seeded_N = _link_clusters(state, seeded_N, pairs_E2[both_E], from_scratch=frozen_N is None)
    seeded_N = join_groups(seeded_N, constraints.must_M2)
    settled_N = settle_conflicts(seeded_N, grid_ND, weight_N, constraints)
    result_N = settled_N.copy()
    if frozen_N is not None:  # weak rows stay with the cluster that they had joined
        known = np.flatnonzero(~strong_N & (frozen_N >= 0))
        result_N[known] = settled_N[cluster_N[known]]
        torn_C = result_N[constraints.cannot_C2[:, 0]] == result_N[constraints.cannot_C2[:, 1]]
        torn = np.unique(constraints.cannot_C2[torn_C])
        result_N[torn[~strong_N[torn]]] = -1  # its cluster has merged with that of a rival
    loose = np.flatnonzero((result_N < 0) | (settled_N != seeded_N))
    attach_rows(state, result_N, loose, pairs_E2)
    return first_of_each(result_N)


def row_weights(quality_N: np.ndarray) -> np.ndarray:
    """Quality 0..1 as whole weights 1..WEIGHTS, int64 (N,)."""
    return np.clip(np.rint(np.nan_to_num(quality_N) * WEIGHTS), 1, WEIGHTS).astype(np.int64)


@dataclass(frozen=True)
class _State:
    """What every step reads."""

    grid_ND: np.ndarray
    weight_N: np.ndarray
    constraints: Constraints
    rule: ClusterRule
    search: Search
    account: Account


def _unfold(frozen_N: np.ndarray, strong_N: np.ndarray) -> np.ndarray:
    """The node of each row: frozen clusters by their smallest strong row, which weak members name too; else the row."""
    num = len(frozen_N)
    node_N = np.arange(num)
    old = np.flatnonzero(frozen_N >= 0)
    _, group = np.unique(frozen_N[old], return_inverse=True)
    first = np.full(int(group.max(initial=-1)) + 1, num)
    np.minimum.at(first, group[strong_N[old]], old[strong_N[old]])
    founded = first[group] < num  # a cluster all of whose strong rows are gone is unfolded into single rows
    node_N[old[founded]] = first[group[founded]]
    return node_N


def first_of_each(cluster_N: np.ndarray) -> np.ndarray:
    """The same clusters, each named by its smallest row; -1 stays."""
    rows = np.flatnonzero(cluster_N >= 0)
    named_N = np.full(len(cluster_N), -1, np.int64)
    _, first, group = np.unique(cluster_N[rows], return_index=True, return_inverse=True)
    named_N[rows] = rows[first][group]
    return named_N


def sum_groups(grid_ND: np.ndarray, weight_N: np.ndarray, group_N: np.ndarray) -> Nodes:
    """Weighted sums of the rows of each group, in the order of the groups' names; rows of group -1 are left out."""
    rows = np.flatnonzero(group_N >= 0)
    names, group_R = np.unique(group_N[rows], return_inverse=True)
    total_KD = np.zeros((len(names), grid_ND.shape[1]), np.int32)
    for begin in range(0, len(rows), PIECE_ROWS):  # in pieces: int32 rows are twice as wide as the grid's
        piece = rows[begin : begin + PIECE_ROWS]
        value_RD = (grid_ND[piece].astype(np.float32) * GRID).astype(np.int32) * weight_N[piece, None].astype(np.int32)
        add_rows(total_KD, group_R[begin : begin + PIECE_ROWS], value_RD)
    weight_K = np.bincount(group_R, weight_N[rows], len(names)).astype(np.int64)
    square_K = np.bincount(group_R, weight_N[rows].astype(np.float64) ** 2, len(names)).astype(np.int64)
    return Nodes(total_KD, weight_K, np.bincount(group_R, minlength=len(names)).astype(np.int64), square_K)


def _centers(nodes: Nodes) -> np.ndarray:
    """Means of the nodes at unit length, on the grid."""
    center_KD = np.empty(nodes.total.shape, np.float16)
    for begin in range(0, len(center_KD), PIECE_ROWS):
        total_BD = nodes.total[begin : begin + PIECE_ROWS].astype(np.float64)
        length_B1 = np.sqrt((total_BD**2).sum(axis=1, keepdims=True))
        center_KD[begin : begin + PIECE_ROWS] = to_grid(total_BD / np.maximum(length_B1, 1))
    return center_KD


def _link_components(state: _State, cluster_N: np.ndarray, pairs_E2: np.ndarray, cosine_E: np.ndarray) -> np.ndarray:
    """Phase A: linkage inside the components at `component_cosine`, a bounded number of rows at a time."""
    num, rule = len(cluster_N), state.rule
    near_E2 = pairs_E2[cosine_E >= rule.component_cosine]
    graph = coo_array((np.ones(len(near_E2), bool), near_E2.T), (num, num))
    _, component_N = connected_components(graph, directed=False)
    size_N = np.bincount(component_N)[component_N]
    state.account.largest_component = int(size_N.max(initial=0))
    rows = np.flatnonzero((cluster_N >= 0) & (size_N > 1))
    rows = rows[np.argsort(component_N[rows], kind="stable")]
    # a piece ends with a component
    ends = np.append(np.flatnonzero(np.diff(component_N[rows])) + 1, len(rows))
    piece_of_end = np.cumsum(np.diff(ends, prepend=0)) // PIECE_ROWS
    piece_N = np.full(num, -1)
    piece_N[rows] = np.repeat(piece_of_end, np.diff(ends, prepend=0))
    inside_E = (component_N[pairs_E2[:, 0]] == component_N[pairs_E2[:, 1]]) & (piece_N[pairs_E2[:, 0]] >= 0)
    pairs_E2 = pairs_E2[inside_E]
    cannot_C2, weight_C = state.constraints.cannot_C2, state.constraints.weight_C
    same_C = component_N[cannot_C2[:, 0]] == component_N[cannot_C2[:, 1]]
    cannot_C2, weight_C = cannot_C2[same_C], weight_C[same_C]
    linked_N = cluster_N.copy()
    for piece in np.unique(piece_N[rows]):
        rows_P = np.flatnonzero(piece_N == piece)
        of_row = np.full(num, -1)
        of_row[rows_P] = np.arange(len(rows_P))
        nodes = sum_groups(state.grid_ND[rows_P], state.weight_N[rows_P], np.arange(len(rows_P)))
        here_E2, here_C2 = of_row[pairs_E2], of_row[cannot_C2]
        ours_E, ours_C = (here_E2 >= 0).all(axis=1), (here_C2 >= 0).all(axis=1)
        linked_P = link_nodes(nodes, here_E2[ours_E], here_C2[ours_C], weight_C[ours_C], rule.linkage)
        linked_N[rows_P] = rows_P[linked_P]
    return linked_N


def _link_clusters(state: _State, cluster_N: np.ndarray, pairs_E2: np.ndarray, from_scratch: bool) -> np.ndarray:
    """Phase B: linkage of clusters."""
    rows = np.flatnonzero(cluster_N >= 0)
    names, node_R = np.unique(cluster_N[rows], return_inverse=True)
    node_N = np.full(len(cluster_N), -1)
    node_N[rows] = node_R
    nodes = sum_groups(state.grid_ND, state.weight_N, cluster_N)
    pairs_K2 = node_N[pairs_E2]
    # the lists of a crowded cluster's members are full of one another: its center looks for others
    crowded_K = nodes.size > state.rule.neighbors // 4
    if from_scratch and crowded_K.any():
        started = time.perf_counter()
        least = state.rule.linkage.threshold - CANDIDATE_MARGIN
        more_K2, _ = candidate_pairs(state.search(_centers(nodes), crowded_K, state.rule.neighbors, least))
        pairs_K2 = np.concatenate([pairs_K2, more_K2])
        state.account.neighbor_seconds += time.perf_counter() - started
    cannot_K2 = node_N[state.constraints.cannot_C2]
    ours_C = (cannot_K2 >= 0).all(axis=1)
    linked_K = link_nodes(nodes, pairs_K2, cannot_K2[ours_C], state.constraints.weight_C[ours_C], state.rule.linkage)
    linked_N = np.full(len(cluster_N), -1)
    linked_N[rows] = names[linked_K][node_R]
    return linked_N


def attach_rows(state: _State, cluster_N: np.ndarray, loose: np.ndarray, pairs_E2: np.ndarray) -> None:
    """Let loose rows join clusters that they are close to, in place and best first; they change no center.

    The score is that of the linkage for a cluster and a single row: a doubtful face needs no less than a good one. A
    row with a cannot-link to any member does not join.
    """
    loose_N = np.zeros(len(cluster_N), bool)
    loose_N[loose] = True
    host_N = np.where(loose_N, -1, cluster_N)
    both_A2 = np.concatenate([pairs_E2, pairs_E2[:, ::-1]])
    both_A2 = both_A2[loose_N[both_A2[:, 0]] & (host_N[both_A2[:, 1]] >= 0)]
    if len(both_A2) == 0:
        return
    offer_A2 = np.unique(np.stack([both_A2[:, 0], host_N[both_A2[:, 1]]], axis=1), axis=0)
    rows, row_A = np.unique(offer_A2[:, 0], return_inverse=True)
    names, host_A = np.unique(offer_A2[:, 1], return_inverse=True)
    hosts = sum_groups(state.grid_ND, state.weight_N, np.where(np.isin(host_N, names), host_N, -1))
    guests = sum_groups(state.grid_ND[rows], state.weight_N[rows], np.arange(len(rows)))
    joint = Nodes(*(np.concatenate([a, b]) for a, b in zip(vars(guests).values(), vars(hosts).values(), strict=True)))
    score_A = score_pairs(joint, row_A, host_A + len(rows), state.rule.linkage)
    rivals = state.constraints.rivals(rows)
    joined: set[int] = set()
    for a in np.lexsort((offer_A2[:, 1], offer_A2[:, 0], -score_A)).tolist():
        row, name = int(offer_A2[a, 0]), int(offer_A2[a, 1])
        if score_A[a] < state.rule.linkage.threshold:
            break
        if row not in joined and not any(cluster_N[rival] == name for rival in rivals.get(row, ())):
            cluster_N[row] = name
            joined.add(row)
