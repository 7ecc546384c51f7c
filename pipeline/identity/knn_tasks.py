"""The search for neighbors as Ray tasks: each looks at the pairs of two blocks of rows, or of one partition.

A task whose worker dies is run again by Ray. The k nearest are one set in whatever order the tasks end, so the number
of workers and the partitions of the exact search have no effect (pipeline/identity/knn.py).
"""

from collections.abc import Iterator

import numpy as np
import ray

from pipeline.identity.knn import (
    JOIN_ROUNDS,
    Nearest,
    find_neighbors,
    join_neighbors,
    merge_nearest,
    partitions,
    search_among,
)

#: Rows of a block: 32,768 x 512 float16 are 34 MB, and a task holds two.
BLOCK_ROWS = 32_768


def search_by_tasks(
    grid_ND: np.ndarray, fresh_N: np.ndarray, k: int, least: float, *, exact_up_to: int, local_up_to: int
) -> Nearest:
    """A `cluster.Search` on the running cluster.

    Args:
        grid_ND: float16 of `to_grid`.
        fresh_N: bool; pairs with at least one fresh row count.
        k: neighbors kept per row.
        least: cosine from which a pair counts.
        exact_up_to: with more rows than this, only pairs near the same pivots are looked at.
        local_up_to: up to so many rows the search is done here, without tasks.
    """
    num = len(grid_ND)
    if num <= local_up_to:
        return find_neighbors(grid_ND, fresh_N, k, least)
    sides = block_pairs(fresh_N, BLOCK_ROWS) if num <= exact_up_to else partition_pairs(grid_ND, fresh_N)
    found = Nearest.none(num, k)
    task = ray.remote(num_cpus=1, max_retries=5)(search_sides)
    blocks: dict[bytes, ray.ObjectRef] = {}
    waiting: dict[ray.ObjectRef, tuple[np.ndarray, np.ndarray | None]] = {}
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def put(rows: np.ndarray) -> ray.ObjectRef:
        if num > exact_up_to:
            return ray.put(grid_ND[rows])  # of use to one task only
        key = rows[:1].tobytes() + rows[-1:].tobytes()  # blocks do not overlap
        if key not in blocks:
            blocks[key] = ray.put(grid_ND[rows])
        return blocks[key]

    def collect(until: int) -> None:
        while len(waiting) > until:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            rows = waiting.pop(ready)
            for side, part in zip(rows, ray.get(ready), strict=True):
                if side is not None:
                    merge_nearest(found, side, part)

    for left, right in sides:
        collect(most - 1)
        reference = task.remote(left, put(left), right, None if right is None else put(right), k, least)
        waiting[reference] = (left, right)
    collect(0)
    if num > exact_up_to and fresh_N.all():
        for _ in range(JOIN_ROUNDS):
            found = join_neighbors(grid_ND, found, least)
    return found


def block_pairs(fresh_N: np.ndarray, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """All pairs with a fresh row, as blocks of rows: a block with itself (None), or two blocks."""
    fresh, known = (
        [side[begin : begin + rows] for begin in range(0, len(side), rows)]
        for side in (np.flatnonzero(fresh_N).astype(np.int32), np.flatnonzero(~fresh_N).astype(np.int32))
    )
    for i, left in enumerate(fresh):
        yield left, None
        yield from ((left, right) for right in fresh[i + 1 :] + known)


def partition_pairs(grid_ND: np.ndarray, fresh_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The pairs with a fresh row around each pivot: of rows that live there, and of these with those that visit."""
    for home, visitors in partitions(grid_ND):
        fresh, known = home[fresh_N[home]], home[~fresh_N[home]]
        if len(fresh):
            yield fresh, None
            others = np.sort(np.concatenate([known, visitors]))
            if len(others):
                yield fresh, others
        new_visitors = visitors[fresh_N[visitors]]
        if len(known) and len(new_visitors):
            yield known, new_visitors


def search_sides(
    left: np.ndarray, left_LD: np.ndarray, right: np.ndarray | None, right_RD: np.ndarray | None, k: int, least: float
) -> tuple[Nearest, Nearest | None]:
    """The nearest of the rows of each side among those of the other, or of one side among itself; a Ray task."""
    here = np.arange(len(left), dtype=np.int32)
    if right is None or right_RD is None:
        found = Nearest.none(len(left), k)
        search_among(left_LD, here, here, least, found)
        return _named(found, left), None
    found = Nearest.none(len(left) + len(right), k)
    there = np.arange(len(left), len(left) + len(right), dtype=np.int32)
    search_among(np.concatenate([left_LD, right_RD]), here, there, least, found)
    found = _named(found, np.concatenate([left, right]))
    cut = len(left)
    return Nearest(found.cosine[:cut], found.row[:cut]), Nearest(found.cosine[cut:], found.row[cut:])


def _named(found: Nearest, rows: np.ndarray) -> Nearest:
    """Rows by their number in the whole corpus."""
    return Nearest(found.cosine, np.where(found.row >= 0, rows[found.row], -1).astype(np.int32))
