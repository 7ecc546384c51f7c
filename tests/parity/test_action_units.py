import numpy as np
import pytest
import torch

from actors.hog import HogFeatures
from actors.models.action_units import AUS, build_svm, build_xgb
from pipeline.schema import AU_NUMBERS


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "au.npz")


def faces_of(reference):
    landmarks = torch.from_numpy(reference["aligned_landmarks"]).float().flatten(1)
    return HogFeatures(torch.from_numpy(reference["features"]), landmarks)


def test_outputs_are_in_the_order_of_the_table():
    assert AUS == AU_NUMBERS


@torch.inference_mode()
def test_boosted_probabilities_are_those_of_the_reference(parity, reference):
    ours = build_xgb({"weights": parity / "xgb_au.skops"})(faces_of(reference))
    np.testing.assert_allclose(ours.numpy(), reference["xgb"], atol=1e-6)


@torch.inference_mode()
def test_trees_as_tensors_give_the_probabilities_of_xgboost(parity):
    net = build_xgb({"weights": parity / "xgb_au.skops"})
    inputs = [
        torch.randn(300, width + 136, generator=torch.Generator().manual_seed(width)) * 20 for width in net.widths
    ]
    tensors = net.trees(torch.cat(inputs, dim=1))
    np.testing.assert_allclose(tensors.numpy(), net._by_xgboost(inputs).numpy(), atol=1e-6)


@torch.inference_mode()
def test_linear_labels_are_those_of_the_reference(parity, reference):
    ours = build_svm({"weights": parity / "svm_au.skops"})(faces_of(reference))
    np.testing.assert_array_equal(ours.numpy(), reference["svm"])
