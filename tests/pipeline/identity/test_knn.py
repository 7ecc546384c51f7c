"""Neighbors are the same, whatever the tiles, partitions and order in which pairs are looked at."""

import numpy as np
import pytest

from pipeline.identity import knn
from pipeline.identity.knn import (
    Nearest,
    candidate_pairs,
    find_neighbors,
    join_neighbors,
    measure_recall,
    merge_nearest,
    partitioned_neighbors,
    partitions,
    search_among,
    to_grid,
)
from pipeline.identity.knn_tasks import block_pairs, partition_pairs, search_sides


def exact_neighbors(grid_ND, k, least):
    """The neighbors among all pairs."""
    return find_neighbors(grid_ND, np.ones(len(grid_ND), bool), k, least)


@pytest.fixture(scope="module")
def grid_ND():  # noqa: N802
    random = np.random.default_rng(0)
    people = random.standard_normal((40, 64))
    value = people[random.integers(0, 40, 600)] + 0.8 * random.standard_normal((600, 64))
    value[100:110] = value[0]  # ties
    return to_grid((value / np.linalg.norm(value, axis=1, keepdims=True)).astype(np.float32))


def brute_force(grid_ND, k, least):
    cosine_NN = grid_ND.astype(np.float64) @ grid_ND.astype(np.float64).T
    np.fill_diagonal(cosine_NN, -2)
    order = np.lexsort((np.tile(np.arange(len(grid_ND)), (len(grid_ND), 1)), -cosine_NN), axis=1)[:, :k]
    near = np.take_along_axis(cosine_NN, order, axis=1)
    return np.where(near >= least, order, -1)


def same(a, b):
    return np.array_equal(a.row, b.row) and np.array_equal(a.cosine, b.cosine)


def test_neighbours_are_exact_and_ties_go_to_the_smaller_row(grid_ND):
    np.testing.assert_array_equal(exact_neighbors(grid_ND, 8, 0.2).row, brute_force(grid_ND, 8, 0.2))


def test_cosines_on_the_grid_are_exact(grid_ND):
    whole = (grid_ND.astype(np.float64) * knn.GRID).astype(np.int64)
    found = exact_neighbors(grid_ND, 8, 0.2)
    row, place = np.nonzero(found.row >= 0)
    products = (whole[row] * whole[found.row[row, place]]).sum(axis=1)
    assert (found.cosine[row, place].astype(np.float64) * knn.GRID**2 == products).all()


def test_the_size_of_tiles_has_no_effect(grid_ND, monkeypatch):
    whole = exact_neighbors(grid_ND, 8, 0.2)
    monkeypatch.setattr(knn, "TILE", 77)
    assert same(exact_neighbors(grid_ND, 8, 0.2), whole)


@pytest.mark.parametrize("rows", [50, 333])
def test_blocks_in_any_order_find_the_same(grid_ND, rows):
    fresh_N = np.ones(len(grid_ND), bool)
    found = Nearest.none(len(grid_ND), 8)
    for left, right in reversed(list(block_pairs(fresh_N, rows))):
        other = None if right is None else grid_ND[right]
        for side, part in zip((left, right), search_sides(left, grid_ND[left], right, other, 8, 0.2), strict=True):
            if side is not None:
                merge_nearest(found, side, part)
    assert same(found, exact_neighbors(grid_ND, 8, 0.2))


def test_only_pairs_with_a_fresh_row_count(grid_ND):
    fresh_N = np.arange(len(grid_ND)) % 10 == 0
    found = find_neighbors(grid_ND, fresh_N, len(grid_ND), 0.2)
    everything, _ = candidate_pairs(exact_neighbors(grid_ND, len(grid_ND), 0.2))
    expected = everything[fresh_N[everything].any(axis=1)]
    np.testing.assert_array_equal(candidate_pairs(found)[0], expected)


def test_partitions_find_most_neighbours_and_say_how_many(grid_ND):
    found = partitioned_neighbors(grid_ND, 8, 0.2, rows_per_pivot=50, probes=2, rounds=0)
    truth = exact_neighbors(grid_ND, 8, 0.2)
    hits = sum(np.isin(t[t >= 0], f).sum() for t, f in zip(truth.row, found.row, strict=True))
    recall = hits / (truth.row >= 0).sum()
    assert 0.3 < recall < 1
    assert measure_recall(grid_ND, found, 0.2, sample=len(grid_ND)) == pytest.approx(recall)
    assert measure_recall(grid_ND, truth, 0.2) == 1


def test_neighbours_of_neighbours_are_found_and_none_is_lost_or_made_up(grid_ND):
    before = partitioned_neighbors(grid_ND, 8, 0.2, rows_per_pivot=50, probes=2, rounds=0)
    after = join_neighbors(grid_ND, before, 0.2)
    missed = [1 - measure_recall(grid_ND, lists, 0.2) for lists in (before, after)]
    assert missed[1] < missed[0] / 2
    assert (after.cosine >= before.cosine).all()
    everything = exact_neighbors(grid_ND, len(grid_ND), 0.2)
    for row in range(len(grid_ND)):
        cosine_of = dict(zip(everything.row[row].tolist(), everything.cosine[row].tolist(), strict=True))
        for other, cosine in zip(after.row[row].tolist(), after.cosine[row].tolist(), strict=True):
            assert other < 0 or cosine_of[other] == cosine


def test_every_row_lives_with_one_pivot_and_visits_others(grid_ND):
    parts = partitions(grid_ND, rows_per_pivot=50, probes=3)
    assert np.array_equal(np.sort(np.concatenate([home for home, _ in parts])), np.arange(len(grid_ND)))
    visits = np.bincount(np.concatenate([visitors for _, visitors in parts]), minlength=len(grid_ND))
    assert (visits == 2).all()
    assert all(not np.isin(home, visitors).any() for home, visitors in parts)


def test_of_the_pairs_around_pivots_those_with_a_fresh_row_are_looked_at(grid_ND, monkeypatch):
    monkeypatch.setattr("pipeline.identity.knn_tasks.partitions", lambda grid: partitions(grid, 50, 3))
    num = len(grid_ND)
    looked_at = {}
    for name, fresh_N in (("all", np.ones(num, bool)), ("some", np.arange(num) % 10 == 0)):
        found = Nearest.none(num, num)
        for left, right in partition_pairs(grid_ND, fresh_N):
            search_among(grid_ND, left, left if right is None else right, 0.2, found)
        looked_at[name] = candidate_pairs(found)[0]
    wanted = looked_at["all"][(looked_at["all"] % 10 == 0).any(axis=1)]
    np.testing.assert_array_equal(looked_at["some"], wanted)


def test_no_rows_have_no_neighbours():
    found = exact_neighbors(np.empty((0, 4), np.float16), 3, 0.2)
    assert candidate_pairs(found)[0].shape == (0, 2)


def test_vectors_that_are_not_of_unit_length_are_refused():
    with pytest.raises(ValueError, match="unit length"):
        to_grid(np.full((2, 4), 3.0))
