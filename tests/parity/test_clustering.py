"""The reference's three per-video methods give its labels, exactly."""

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.reference_clustering import cluster_identities


@pytest.mark.parametrize("threshold", [0.5, 0.65, 0.8])
@pytest.mark.parametrize("method", ["gallery", "connected", "hdbscan"])
def test_labels_equal_the_reference(parity, method, threshold):
    with np.load(parity / "identities.npz") as golden:
        labels = cluster_identities(golden["embeddings"], threshold, method)
        expected = [None if label == "nan" else label for label in golden[f"{method}_{threshold:g}"].tolist()]
    assert labels == expected


@pytest.mark.parametrize("method", ["gallery", "connected", "hdbscan"])
def test_no_faces_and_faces_without_embedding_have_no_label(method):
    assert cluster_identities(np.empty((0, 512)), 0.8, method) == []
    assert cluster_identities(np.full((2, 512), np.nan), 0.8, method) == [None, None]


def test_an_unknown_method_is_named():
    with pytest.raises(ConfigError, match="kmeans"):
        cluster_identities(np.ones((2, 4)), 0.8, "kmeans")
