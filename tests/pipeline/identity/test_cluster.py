"""Clusters of hard synthetic tracks: how good, and that nothing but the tracks decides."""

import numpy as np
import pytest

from jobs.bench.identities import MIN_QUALITY, canonical_order, compare_references, make_tracks, measure_clustering
from pipeline.identity.cluster import Account, ClusterRule, cluster_rows
from pipeline.identity.constraints import Constraints
from pipeline.identity.knn import find_neighbors, partitioned_neighbors
from pipeline.identity.linkage import LinkageRule
from pipeline.identity.scores import score_clusters

RULE = ClusterRule()


@pytest.fixture(scope="module", params=["celebv", "ms1m"])
def tracks(request):
    return make_tracks(request.param, 3000, 4)


def cluster(tracks, rows=None, frozen=None, **options):
    """Cluster of each row in the order of `tracks`, whatever order they are given in."""
    rows = np.arange(len(tracks["X"])) if rows is None else rows
    place = np.full(len(tracks["X"]), -1)
    order = rows[canonical_order(tracks["X"][rows], tracks["quality"][rows])]
    place[order] = np.arange(len(order))
    cannot = place[tracks["cl"]]
    cannot = np.sort(cannot[(cannot >= 0).all(axis=1)], axis=1)
    quality = tracks["quality"][order]
    frozen = None if frozen is None else frozen[order]
    found = cluster_rows(
        tracks["X"][order], quality, quality >= MIN_QUALITY, Constraints.of(cannot), RULE, frozen, **options
    )
    result = np.full(len(place), -1)
    result[order] = np.where(found >= 0, order[found], -1)
    return result


def test_hard_tracks_are_clustered_well_and_no_constraint_is_broken(tracks):
    result = measure_clustering(tracks)
    assert result["bcubed_f"] >= 0.93  # so few people vary: 20,000 tracks reach 0.955, docs/benchmarks
    assert result["pairwise_f"] >= 0.93
    assert result["violations"] == 0


def test_the_reference_at_its_default_is_far_worse(tracks):
    default = compare_references({name: values[:800] for name, values in tracks.items()})[0]
    assert (default["method"], default["threshold"]) == ("gallery", 0.8)
    assert default["bcubed_f"] < score_clusters(cluster(tracks), tracks["y"]).bcubed_f - 0.2


def test_the_order_of_the_tracks_has_no_effect(tracks):
    shuffled = np.random.default_rng(1).permutation(len(tracks["X"]))
    np.testing.assert_array_equal(cluster(tracks, shuffled), cluster(tracks))


def test_partitions_change_little_and_repeat_exactly(tracks):
    def search(grid_ND, fresh_N, k, least):
        if not fresh_N.all():
            return find_neighbors(grid_ND, fresh_N, k, least)
        return partitioned_neighbors(grid_ND, k, least, rows_per_pivot=50, probes=8)

    approximate = cluster(tracks, search=search)
    assert score_clusters(approximate, tracks["y"]).bcubed_f >= 0.94
    np.testing.assert_array_equal(approximate, cluster(tracks, search=search))


def test_new_tracks_are_added_at_a_fraction_of_the_cost(tracks):
    num = len(tracks["X"])
    old = np.sort(np.random.default_rng(2).permutation(num)[: num * 10 // 11])
    known = cluster(tracks, old)
    looked_at = []

    def search(grid_ND, fresh_N, k, least):
        looked_at.append(int(fresh_N.sum()) * len(grid_ND) - int(fresh_N.sum()) ** 2 // 2)
        return find_neighbors(grid_ND, fresh_N, k, least)

    grown = cluster(tracks, frozen=known, search=search)
    assert sum(looked_at) < 0.25 * num**2 / 2
    pairs = np.stack([old[known[old] >= 0], known[old][known[old] >= 0]])
    assert (grown[pairs[0]] == grown[pairs[1]]).mean() >= 0.995  # who was together stays so
    afresh = score_clusters(cluster(tracks), tracks["y"])
    assert score_clusters(grown, tracks["y"]).bcubed_f >= afresh.bcubed_f - 0.01


def people(*looks):
    """Unit vectors near directions: a letter is a person."""
    base = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 8)))[0].T
    random = np.random.default_rng(1)
    value = np.stack([base["abcdefgh".index(p)] + 0.02 * random.standard_normal(64) for p in looks])
    return (value / np.linalg.norm(value, axis=1, keepdims=True)).astype(np.float32)


def small(looks, cannot=(), must=(), weight=1.0):
    num = len(looks)
    pairs = [np.array(sorted(p), np.int64).reshape(-1, 2) for p in (cannot, must)]
    constraints = Constraints(pairs[0], np.full(len(cannot), weight), pairs[1])
    rule = ClusterRule(LinkageRule(0.3, 0.18, 0.1, 0.7))
    return cluster_rows(people(*looks), np.ones(num), np.ones(num, bool), constraints, rule, account=Account()).tolist()


def test_one_mistaken_conflict_does_not_split_a_person():
    found = small("a" * 30, cannot=[(3, 20)])
    counts = sorted(found.count(name) for name in set(found))
    assert counts == [1, 29]
    assert found[3] != found[20]


def test_a_user_s_word_joins_and_parts():
    assert small("aabb", must=[(0, 2)]) == [0, 0, 0, 0]
    apart = small("a" * 30, cannot=[(3, 20)], weight=np.inf)
    assert apart[3] != apart[20]


def test_no_vectors_have_no_clusters():
    empty = np.empty((0, 8), np.float32)
    assert len(cluster_rows(empty, np.empty(0), np.empty(0, bool), Constraints.of(), RULE)) == 0
