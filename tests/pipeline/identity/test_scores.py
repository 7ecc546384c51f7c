"""B-cubed and pairwise scores, by hand."""

import numpy as np
import pytest

from pipeline.identity.scores import score_clusters


def test_a_perfect_clustering_scores_one():
    scores = score_clusters(np.array([5, 5, 2, 2, 2]), np.array([1, 1, 0, 0, 0]))
    assert set(scores.rounded().values()) == {1.0}


def test_a_worked_example():
    # one cluster of persons 0 0 1, one of 1: pairs together 3, of them right 1, of true pairs (0 0) and (1 1)
    scores = score_clusters(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    assert scores.pairwise_precision == pytest.approx(1 / 3)
    assert scores.pairwise_recall == pytest.approx(1 / 2)
    assert scores.bcubed_precision == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1) / 4)
    assert scores.bcubed_recall == pytest.approx((1 + 1 + 1 / 2 + 1 / 2) / 4)


def test_negative_clusters_are_alone():
    scores = score_clusters(np.array([-1, -1]), np.array([0, 0]))
    assert (scores.bcubed_precision, scores.bcubed_recall) == (1.0, 0.5)
    assert np.isnan(scores.pairwise_precision)


def test_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one per item"):
        score_clusters(np.zeros(2, int), np.zeros(3, int))
