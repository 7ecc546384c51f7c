# mypy: no-check-untyped-defs
"""Size-adjusted average linkage on a sparse graph, with soft cannot-links.

Clusters A and B with weighted sums S of their members' vectors, W of their weights and n members score

    s = <S_A, S_B> / (W_A W_B) - small_cluster_margin / sqrt(n_A n_B)

their mean cosine, in which good looks count more, less what it may be by chance when they are small
(docs/reference/clustering.md). The best pair merges first, while its score reaches the threshold. A merge is blocked

- while the two are far less alike than each is in itself: the mean cosine must reach `relative_similarity` times
  sqrt(c_A c_B), where c is the mean cosine of a cluster's members and of one more pair that would just do. Look-alikes
  with many tracks each reach the threshold, but not this. It never asks for more than two single tracks need,
  `threshold + small_cluster_margin`;
- while the cannot-links between A and B exceed a share of the smaller side; those that end up inside a cluster are
  resolved afterwards (pipeline/identity/cluster.py).

Vectors lie on the grid of pipeline/identity/knn.py and weights are whole numbers, so sums are exact, whatever the order
of the merges, and so are products while n_A n_B is below 2^23. Ties go to the smaller rows: equal input gives equal
clusters.
Letters: K nodes, D width, E candidate pairs, C cannot-links, A adjacent pairs of either kind.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numba import njit

from pipeline.identity.knn import GRID

_UNIT = 1.0 / GRID**2


@dataclass(frozen=True)
class LinkageRule:
    """When two clusters are one person.

    Attributes:
        threshold: least score of a merge, a cosine.
        small_cluster_margin: how much closer small clusters must be.
        conflict_share: cannot-links between two clusters, as a share of the smaller one's members, that block a merge.
        relative_similarity: how alike two clusters must be, as a share of how alike each is in itself; 0: no matter.
    """

    threshold: float
    small_cluster_margin: float
    conflict_share: float
    relative_similarity: float


@dataclass(frozen=True)
class Nodes:
    """K nodes of the graph.

    Attributes:
        total: int32 (K, D), summed vectors times weights, in units of 1 / GRID.
        weight: int64 (K,), summed weights.
        size: int64 (K,), members.
        square: int64 (K,), summed squares of their weights.
    """

    total: np.ndarray
    weight: np.ndarray
    size: np.ndarray
    square: np.ndarray


def score_pairs(nodes: Nodes, a_E: np.ndarray, b_E: np.ndarray, rule: LinkageRule) -> np.ndarray:
    """The score of the module's head for pairs of nodes, float64 (E,)."""
    product_E = nodes.weight[a_E].astype(np.float64) * nodes.weight[b_E]
    size_E = nodes.size[a_E].astype(np.float64) * nodes.size[b_E]
    return _dots(nodes.total, a_E, b_E) * _UNIT / product_E - rule.small_cluster_margin / np.sqrt(size_E)


def link_nodes(
    nodes: Nodes, pairs_E2: np.ndarray, cannot_C2: np.ndarray, weight_C: np.ndarray, rule: LinkageRule
) -> np.ndarray:
    """Merge nodes, best pair first, until no candidate pair reaches the threshold.

    Args:
        nodes: what is clustered; unchanged.
        pairs_E2: int64 (E, 2), candidate pairs; clusters without a candidate pair between them never merge.
        cannot_C2: int64 (C, 2), pairs of nodes with a cannot-link between their members; may repeat.
        weight_C: float64 (C,), how much each counts; infinite: it always blocks.
        rule: when to merge.

    Returns:
        int64 (K,): cluster of each node, named by its smallest node.
    """
    start_K1, other_A, candidate_A, conflict_A = _adjacency(len(nodes.size), pairs_E2, cannot_C2, weight_C)
    entries = (start_K1, other_A, candidate_A, conflict_A)
    limits = (rule.threshold, rule.small_cluster_margin, rule.conflict_share, rule.relative_similarity)
    weight_K, size_K, square_K = (value.astype(np.float64) for value in (nodes.weight, nodes.size, nodes.square))
    return _link(nodes.total.copy(), weight_K, size_K, square_K, *entries, *limits)


def _adjacency(
    num: int, pairs_E2: np.ndarray, cannot_C2: np.ndarray, weight_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both kinds of pairs as rows of a sparse matrix: start (K+1,), then per entry other, candidate, conflict."""
    both_A2 = np.concatenate([pairs_E2, pairs_E2[:, ::-1], cannot_C2, cannot_C2[:, ::-1]]).astype(np.int64)
    conflict = np.concatenate([np.zeros(2 * len(pairs_E2)), weight_C, weight_C])
    candidate = np.arange(len(both_A2)) < 2 * len(pairs_E2)
    keep = both_A2[:, 0] != both_A2[:, 1]
    unique, place = np.unique(both_A2[keep, 0] * num + both_A2[keep, 1], return_inverse=True)
    conflict_A = np.bincount(place, conflict[keep], len(unique))
    candidate_A = np.bincount(place, candidate[keep], len(unique)) > 0
    start_K1 = np.searchsorted(unique, np.arange(num + 1) * num)
    return start_K1, (unique % max(num, 1)).astype(np.int32), candidate_A, conflict_A


# numba compiles what follows: no annotations


@njit(cache=True)
def add_rows(total_KD, group_R, value_RD):  # type: ignore[no-untyped-def]
    """Add row r of `value_RD` to row `group_R[r]` of `total_KD`, in place."""
    for r in range(len(group_R)):
        total_KD[group_R[r]] += value_RD[r]


@njit(cache=True, fastmath=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0  # exact below 2^53, so the reordering that fastmath allows has no effect
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@njit(cache=True)
def _dots(total_KD, a_E, b_E):  # type: ignore[no-untyped-def]
    out_E = np.empty(len(a_E))
    for e in range(len(a_E)):
        out_E[e] = _dot(total_KD[a_E[e]], total_KD[b_E[e]])
    return out_E


@njit(cache=True)
def _cohesion(total, weight, size, square, prior):  # type: ignore[no-untyped-def]
    """Mean cosine of a cluster's members, and of one more pair that has `prior`."""
    if size < 2:
        return prior
    inner = (_dot(total, total) * _UNIT - square) / (weight * weight - square)
    certain = size * (size - 1) / 2
    return max((certain * inner + prior) / (certain + 1), 0.0)


@njit(cache=True)
def _score(total_a, total_b, weight, size, own, threshold, margin, similarity):  # type: ignore[no-untyped-def]
    """The score of the module's head, or less than any threshold; weight, size and own are products of both sides'."""
    mean = _dot(total_a, total_b) * _UNIT / weight
    if mean < min(similarity * np.sqrt(own), threshold + margin):
        return -np.inf
    return mean - margin / np.sqrt(size)


@njit(cache=True)
def _find(parent, a):  # type: ignore[no-untyped-def]
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@njit(cache=True)
def _compact(begin, end, other, candidate, conflict, needed):  # type: ignore[no-untyped-def]
    """Copy the lists that are in use to new arrays with room for as much again; begin and end move along."""
    live = (end - begin).sum()
    room = 2 * live + needed + 1024
    new_other, new_candidate = np.empty(room, other.dtype), np.empty(room, candidate.dtype)
    new_conflict = np.empty(room, conflict.dtype)
    used = 0
    for c in range(len(begin)):
        length = end[c] - begin[c]
        new_other[used : used + length] = other[begin[c] : end[c]]
        new_candidate[used : used + length] = candidate[begin[c] : end[c]]
        new_conflict[used : used + length] = conflict[begin[c] : end[c]]
        begin[c], end[c] = used, used + length
        used += length
    return new_other, new_candidate, new_conflict, used


@njit(cache=True)
def _link(total, weight, size, square, start, other, candidate, conflict, threshold, margin, share, similarity):  # type: ignore[no-untyped-def]
    num = len(size)
    rule = (threshold, margin, similarity)
    prior = max(threshold, 0.0) / max(similarity, 1e-9)
    own = np.empty(num)
    for a in range(num):
        own[a] = _cohesion(total[a], weight[a], size[a], square[a], prior)
    parent = np.arange(num)
    version = np.zeros(num, np.int32)  # of the cluster that is named by this node; -1 once it is part of another
    begin, end = start[:-1].copy(), start[1:].copy()  # the list of each cluster in the arrays of entries
    used = len(other)
    slot = np.full(num, -1, np.int64)  # scratch: where a cluster stands in the list that is being made
    heap = [(0.0, np.int64(0), np.int64(0), np.int32(0), np.int32(0))]  # one item, to tell numba the type
    heap.pop()
    for a in range(num):
        for e in range(begin[a], end[a]):
            b = np.int64(other[e])
            if a < b and candidate[e] and conflict[e] <= share * min(size[a], size[b]):
                score = _score(total[a], total[b], weight[a] * weight[b], size[a] * size[b], own[a] * own[b], *rule)
                if score >= threshold:
                    heap.append((-score, np.int64(a), b, np.int32(0), np.int32(0)))
    heapq.heapify(heap)
    while len(heap) > 0:
        _, a, b, version_a, version_b = heapq.heappop(heap)
        if version[a] != version_a or version[b] != version_b:
            continue  # one of them has grown since: this score is out of date
        total[a] += total[b]
        weight[a] += weight[b]
        size[a] += size[b]
        square[a] += square[b]
        own[a] = _cohesion(total[a], weight[a], size[a], square[a], prior)
        parent[b] = a
        version[a] += 1
        version[b] = -1
        # the list of the merged cluster: the union of both, each entry under the name that it has by now
        most = end[a] - begin[a] + end[b] - begin[b]
        if used + most > len(other):
            other, candidate, conflict, used = _compact(begin, end, other, candidate, conflict, most)
        first = used
        for source in (a, b):
            for e in range(begin[source], end[source]):
                c = _find(parent, np.int64(other[e]))
                if c == a:
                    continue
                if slot[c] < 0:
                    slot[c] = used
                    other[used], candidate[used], conflict[used] = c, candidate[e], conflict[e]
                    used += 1
                else:
                    candidate[slot[c]] |= candidate[e]
                    conflict[slot[c]] += conflict[e]
        begin[a], end[a] = first, used
        begin[b], end[b] = 0, 0
        for e in range(first, used):
            c = np.int64(other[e])
            slot[c] = -1
            if candidate[e] and conflict[e] <= share * min(size[a], size[c]):
                score = _score(total[a], total[c], weight[a] * weight[c], size[a] * size[c], own[a] * own[c], *rule)
                if score >= threshold:
                    low, high = min(a, c), max(a, c)
                    heapq.heappush(heap, (-score, low, high, version[low], version[high]))
    for a in range(num):
        parent[a] = _find(parent, a)
    return parent
