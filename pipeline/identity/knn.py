"""Nearest neighbors by cosine: candidate pairs of tracks that may be one person.

    unit vectors, rounded to a grid on which float32 products are exact            to_grid
        |  exact: tiles of the similarity matrix, each pair of rows once           find_neighbors
        |  approximate: tiles of rows near the same pivots, then neighbors'
        |  neighbors                                                              partitioned_neighbors
    Nearest, k per row  ->  candidate pairs                                        candidate_pairs

On the grid every cosine is one number, whatever the order of summation: tiles, partitions, threads, BLAS libraries and
tensor cores have no effect. Ties go to the smaller row, so the k nearest are one set, in whatever order they are found.
Letters: N rows, D width, k neighbors, P partitions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

#: Coordinates are multiples of 1 / GRID: products are multiples of 2^-22 and every partial sum of a cosine lies below
#: 4 in size (Cauchy-Schwarz), which the 24 bits of a float32 hold exactly. A cosine moves by about 2e-4.
GRID = 2048
#: Rows of a tile: 4096 x 4096 float32 are 64 MB.
TILE = 4096
#: Rows per pivot, and pivots whose rows each row is compared with, when neighbors are approximate.
ROWS_PER_PIVOT, PROBES = 512, 48
#: How often lists are then joined, and rows on whose lists a row is that count as its neighbors in that.
JOIN_ROUNDS, REVERSE = 1, 16
_PIVOT_ROUNDS, _ROWS_TO_FIT = 4, 32
_ABSENT = np.float32(-4)


@dataclass(frozen=True)
class Nearest:
    """The k nearest rows of each of N rows, nearest first, ties by row.

    Attributes:
        cosine: float32 (N, k), -4 where there are fewer.
        row: int32 (N, k), -1 where there are fewer.
    """

    cosine: np.ndarray
    row: np.ndarray

    @staticmethod
    def none(num: int, k: int) -> "Nearest":
        """Nothing found yet."""
        return Nearest(np.full((num, k), _ABSENT), np.full((num, k), -1, np.int32))


def to_grid(unit_ND: np.ndarray) -> np.ndarray:
    """Unit vectors rounded to the grid: float16 (N, D), which holds it exactly.

    Raises:
        ValueError: a vector is longer than 1.
    """
    grid_ND = np.empty(unit_ND.shape, np.float16)
    for begin in range(0, len(unit_ND), TILE):
        block_BD = np.rint(unit_ND[begin : begin + TILE].astype(np.float32) * GRID) / GRID
        if (np.einsum("bd,bd->b", block_BD, block_BD) > 1.1).any():
            raise ValueError("the grid is for vectors of unit length; divide them by their length first")
        grid_ND[begin : begin + TILE] = block_BD
    return grid_ND


def find_neighbors(grid_ND: np.ndarray, fresh_N: np.ndarray, k: int, least: float) -> Nearest:
    """The k nearest of each row, among the pairs with at least one fresh row.

    Args:
        grid_ND: float16 of `to_grid`.
        fresh_N: bool.
        k: neighbors kept per row.
        least: cosine from which a pair counts.
    """
    found = Nearest.none(len(grid_ND), k)
    fresh, known = (np.flatnonzero(mask_N).astype(np.int32) for mask_N in (fresh_N, ~fresh_N))
    search_among(grid_ND, fresh, fresh, least, found)
    search_among(grid_ND, fresh, known, least, found)
    return found


def search_among(grid_ND: np.ndarray, left: np.ndarray, right: np.ndarray, least: float, into: Nearest) -> None:
    """Look at all pairs of a row of `left` and a row of `right`, each once, and keep the nearest of both sides.

    Args:
        grid_ND: float16 of `to_grid`.
        left: int32, rising rows.
        right: the same rows, or rows that are all different from them.
        least: cosine from which a pair counts.
        into: of all N rows, written in place.
    """
    same = left is right
    for begin_l in range(0, len(left), TILE):
        rows_l = left[begin_l : begin_l + TILE]
        tile_LD = grid_ND[rows_l].astype(np.float32)
        for begin_r in range(begin_l if same else 0, len(right), TILE):
            rows_r = right[begin_r : begin_r + TILE]
            tile_RD = tile_LD if same and begin_r == begin_l else grid_ND[rows_r].astype(np.float32)
            cosine_LR = tile_LD @ tile_RD.T
            _keep_tile(cosine_LR, rows_l, rows_r, same and begin_r == begin_l, least, into.cosine, into.row)


def merge_nearest(into: Nearest, rows: np.ndarray, part: Nearest) -> None:
    """Add what another search found for some rows; the same pair may come twice."""
    _keep_rows(into.cosine, into.row, rows, part.cosine, part.row)


@njit(cache=True)
def _keep(cosine_Nk, row_Nk, a, b, cosine):  # type: ignore[no-untyped-def]
    """Put b on the list of a, unless it is there or k nearer ones are."""
    k = cosine_Nk.shape[1]
    if cosine < cosine_Nk[a, k - 1] or (cosine == cosine_Nk[a, k - 1] and b >= row_Nk[a, k - 1]):
        return
    place = k - 1
    while place > 0 and (
        cosine > cosine_Nk[a, place - 1] or (cosine == cosine_Nk[a, place - 1] and b < row_Nk[a, place - 1])
    ):
        place -= 1
    if place > 0 and row_Nk[a, place - 1] == b:
        return
    for i in range(k - 1, place, -1):
        cosine_Nk[a, i] = cosine_Nk[a, i - 1]
        row_Nk[a, i] = row_Nk[a, i - 1]
    cosine_Nk[a, place] = cosine
    row_Nk[a, place] = b


@njit(cache=True)
def _keep_tile(cosine_LR, rows_l, rows_r, diagonal, least, cosine_Nk, row_Nk):  # type: ignore[no-untyped-def]
    for i in range(len(rows_l)):
        for j in range(i + 1 if diagonal else 0, len(rows_r)):
            cosine = cosine_LR[i, j]
            if cosine >= least:
                _keep(cosine_Nk, row_Nk, rows_l[i], rows_r[j], cosine)
                _keep(cosine_Nk, row_Nk, rows_r[j], rows_l[i], cosine)


@njit(cache=True)
def _keep_rows(cosine_Nk, row_Nk, rows, cosine_Pk, row_Pk):  # type: ignore[no-untyped-def]
    for i in range(len(row_Pk)):
        for j in range(row_Pk.shape[1]):
            if row_Pk[i, j] >= 0:
                _keep(cosine_Nk, row_Nk, rows[i], row_Pk[i, j], cosine_Pk[i, j])


def candidate_pairs(found: Nearest) -> tuple[np.ndarray, np.ndarray]:
    """Candidate pairs: a pair stays if either side keeps it.

    Returns:
        int64 (E, 2), each pair once with the smaller row first, sorted; and its cosine, float32 (E,).
    """
    num, k = found.row.shape
    keep = found.row.ravel() >= 0
    row = np.repeat(np.arange(num, dtype=np.int64), k)[keep]
    other = found.row.ravel()[keep].astype(np.int64)
    key = np.minimum(row, other) * num + np.maximum(row, other)
    key, place = np.unique(key, return_index=True)
    return np.stack([key // max(num, 1), key % max(num, 1)], axis=1), found.cosine.ravel()[keep][place]


# -- approximate ------------------------------------------------------------------------------------------------------


def partitions(
    grid_ND: np.ndarray, rows_per_pivot: int = ROWS_PER_PIVOT, probes: int = PROBES
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each row lives with its nearest pivot and visits the next nearest: an inverted file.

    Pivots are fitted by a few rounds of spherical k-means to evenly spread rows. Sums of vectors on the grid are exact
    in float64, so the same rows in the same order give the same partitions on any machine.

    Returns:
        For each pivot the rows that live there and those that visit, int32, both rising and without a row in common.
    """
    num = len(grid_ND)
    num_pivots = max(1, -(-num // rows_per_pivot))
    sample = np.unique(np.linspace(0, num - 1, min(num, num_pivots * _ROWS_TO_FIT)).astype(np.int64))
    sample_SD = grid_ND[np.random.default_rng(0).permutation(sample)].astype(np.float32)
    pivot_PD = sample_SD[:num_pivots].copy()
    for _ in range(_PIVOT_ROUNDS):
        nearest_S = np.concatenate([_nearest_pivots(block, pivot_PD, 1)[:, 0] for block in _tiles(sample_SD)])
        sum_PD = np.zeros(pivot_PD.shape)
        np.add.at(sum_PD, nearest_S, sample_SD)
        length_P = np.sqrt((sum_PD**2).sum(axis=1))
        fitted = length_P > 0
        pivot_PD[fitted] = to_grid(sum_PD[fitted] / length_P[fitted, None])
    probes = min(probes, len(pivot_PD))
    nearest_NV = np.concatenate([_nearest_pivots(b.astype(np.float32), pivot_PD, probes) for b in _tiles(grid_ND)])
    homes = _split_by_pivot(nearest_NV[:, :1], len(pivot_PD))
    return list(zip(homes, _split_by_pivot(nearest_NV[:, 1:], len(pivot_PD)), strict=True))


def _split_by_pivot(pivot_NV: np.ndarray, num_pivots: int) -> list[np.ndarray]:
    """The rising rows, int32, in which each pivot occurs."""
    flat = pivot_NV.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat, np.arange(1, num_pivots), sorter=order)
    return [(part // max(pivot_NV.shape[1], 1)).astype(np.int32) for part in np.split(order, bounds)]


def _tiles(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[begin : begin + TILE] for begin in range(0, len(array), TILE))


def _nearest_pivots(block_BD: np.ndarray, pivot_PD: np.ndarray, num: int) -> np.ndarray:
    """The `num` nearest pivots of each row, ties by pivot, the nearest in front: (B, num)."""
    cosine_BP = block_BD @ pivot_PD.T
    # the pivot enters the key, so that equal cosines have one order: 2^-22 steps times at most 2^30 pivots fit float64
    key_BP = cosine_BP.astype(np.float64) - np.arange(len(pivot_PD)) * 2.0**-52
    # small integers: they are sorted in linear time
    found_BV = np.argpartition(-key_BP, num - 1, axis=1)[:, :num]
    found_BV = found_BV.astype(np.uint16 if len(pivot_PD) < 1 << 16 else np.int32)
    first_B1 = np.take_along_axis(key_BP, found_BV.astype(np.int64), axis=1).argmax(axis=1, keepdims=True)
    nearest_B1 = np.take_along_axis(found_BV, first_B1, axis=1)
    np.put_along_axis(found_BV, first_B1, found_BV[:, :1].copy(), axis=1)
    found_BV[:, :1] = nearest_B1
    return found_BV


def partitioned_neighbors(
    grid_ND: np.ndarray,
    k: int,
    least: float,
    rows_per_pivot: int = ROWS_PER_PIVOT,
    probes: int = PROBES,
    rounds: int = JOIN_ROUNDS,
) -> Nearest:
    """`find_neighbors` among the pairs of which one visits the other, then `join_neighbors`.

    `measure_recall` says how many neighbors that leaves out.
    """
    found = Nearest.none(len(grid_ND), k)
    for home, visitors in partitions(grid_ND, rows_per_pivot, probes):
        search_among(grid_ND, home, home, least, found)
        search_among(grid_ND, home, visitors, least, found)
    for _ in range(rounds):
        found = join_neighbors(grid_ND, found, least)
    return found


def join_neighbors(grid_ND: np.ndarray, found: Nearest, least: float, reverse: int = REVERSE) -> Nearest:
    """Look at all pairs of rows that are neighbors of one row: who has a neighbor in common is often near.

    One round of NN-descent (Dong, Moses and Li, "Efficient k-nearest neighbor graph construction for generic similarity
    measures", 2011): it recovers most pairs that partitions separate. The neighbors of a row are those on its list and
    the `reverse` nearest of the rows on whose lists it is. Which pairs are looked at follows from `found` alone, so the
    result does not depend on the order of the rows.

    Args:
        grid_ND: float16 of `to_grid`.
        found: lists to begin with; unchanged.
        least: cosine from which a pair counts.
        reverse: see above.

    Returns:
        The lists with the further neighbors.
    """
    whole_ND = np.empty(grid_ND.shape, np.int16)  # whole numbers of grid steps: sums of products are exact in int32
    for begin in range(0, len(grid_ND), TILE):
        whole_ND[begin : begin + TILE] = grid_ND[begin : begin + TILE].astype(np.float32) * GRID
    joined = Nearest(found.cosine.copy(), found.row.copy())
    back = Nearest.none(len(grid_ND), reverse)
    _reverse(found.cosine, found.row, back.cosine, back.row)
    _join(whole_ND, found.row, back.row, np.float32(least), joined.cosine, joined.row)
    return joined


@njit(cache=True)
def _reverse(cosine_Nk, row_Nk, cosine_Nr, row_Nr):  # type: ignore[no-untyped-def]
    for a in range(len(row_Nk)):
        for j in range(row_Nk.shape[1]):
            if row_Nk[a, j] >= 0:
                _keep(cosine_Nr, row_Nr, row_Nk[a, j], np.int32(a), cosine_Nk[a, j])


@njit(cache=True)
def _join(whole_ND, row_Nk, row_Nr, least, cosine_Nk, joined_Nk):  # type: ignore[no-untyped-def]
    width = whole_ND.shape[1]
    near = np.empty(row_Nk.shape[1] + row_Nr.shape[1], np.int32)
    local = np.empty((len(near), width), np.int16)
    for b in range(len(row_Nk)):
        used = 0
        for j in range(len(near)):
            row = row_Nk[b, j] if j < row_Nk.shape[1] else row_Nr[b, j - row_Nk.shape[1]]
            known = row < 0
            for i in range(used):
                known |= near[i] == row
            if not known:
                near[used] = row
                local[used] = whole_ND[row]
                used += 1
        for i in range(used):
            for j in range(i):
                total = np.int32(0)
                for d in range(width):
                    total += np.int32(local[i, d]) * np.int32(local[j, d])
                cosine = np.float32(total) / np.float32(GRID**2)
                if cosine >= least:
                    _keep(cosine_Nk, joined_Nk, near[i], near[j], cosine)
                    _keep(cosine_Nk, joined_Nk, near[j], near[i], cosine)


def measure_recall(grid_ND: np.ndarray, found: Nearest, least: float, sample: int = 512) -> float:
    """Share of the true neighbors of evenly spread rows that were found; NaN if they have none.

    A row's true neighbors are its k nearest with a cosine of at least `least`.
    """
    num, k = found.row.shape
    rows = np.unique(np.linspace(0, max(num - 1, 0), min(sample, num)).astype(np.int64))
    true = Nearest.none(len(rows), k)
    query_QD = grid_ND[rows].astype(np.float32)
    for begin in range(0, num, TILE):
        cosine_QB = query_QD @ grid_ND[begin : begin + TILE].astype(np.float32).T
        _keep_queries(cosine_QB, rows, begin, least, true.cosine, true.row)
    hits = sum(np.isin(true.row[i][true.row[i] >= 0], found.row[row]).sum() for i, row in enumerate(rows))
    total = int((true.row >= 0).sum())
    return float(hits / total) if total else float("nan")


@njit(cache=True)
def _keep_queries(cosine_QB, rows, begin, least, cosine_Qk, row_Qk):  # type: ignore[no-untyped-def]
    for i in range(cosine_QB.shape[0]):
        for j in range(cosine_QB.shape[1]):
            if cosine_QB[i, j] >= least and begin + j != rows[i]:
                _keep(cosine_Qk, row_Qk, i, begin + j, cosine_QB[i, j])
