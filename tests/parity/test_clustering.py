"""The reference's three per-video methods give its labels, exactly."""

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.export.pyfeat_identities import cluster_identities


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


def test_faces_of_one_person_alone_have_labels():
    # with numpy 2.4 scikit-learn 1.9.1 failed on such trees
    rng = np.random.default_rng(0)
    faces = rng.normal(size=512) + rng.normal(size=(60, 512)) * 0.5
    for threshold in (0.3, 0.5, 0.8):
        assert set(cluster_identities(faces, threshold, "hdbscan")) >= {"Person_0"}


def test_an_unknown_method_is_named():
    with pytest.raises(ConfigError, match="kmeans"):
        cluster_identities(np.ones((2, 4)), 0.8, "kmeans")
