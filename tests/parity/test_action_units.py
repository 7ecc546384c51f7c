import numpy as np
import pytest
import torch

from actors.models.action_units import build_svm, build_xgb
from actors.ops.hog import HogFeatures


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "au.npz")


@pytest.fixture(scope="module")
def faces(reference, device):
    landmarks = torch.from_numpy(reference["aligned_landmarks"]).to(device).float().flatten(1)
    return HogFeatures(torch.from_numpy(reference["features"]).to(device), landmarks)


@torch.inference_mode()
def test_boosted_probabilities_are_those_of_the_reference(parity, reference, faces, place):
    ours = place(build_xgb({"weights": parity / "xgb_au.skops"}))(faces)
    np.testing.assert_allclose(ours.cpu().numpy(), reference["xgb"], atol=1e-6)


@torch.inference_mode()
def test_trees_as_tensors_give_the_probabilities_of_xgboost(parity, device):
    net = build_xgb({"weights": parity / "xgb_au.skops"})
    inputs = [
        torch.randn(300, width + 136, generator=torch.Generator().manual_seed(width)) * 20 for width in net.widths
    ]
    expected = net._by_xgboost(inputs).numpy()
    tensors = net.trees.to(device)(torch.cat(inputs, dim=1).to(device))
    np.testing.assert_allclose(tensors.cpu().numpy(), expected, atol=1e-6)


@torch.inference_mode()
def test_linear_labels_are_those_of_the_reference(parity, reference, faces, place):
    ours = place(build_svm({"weights": parity / "svm_au.skops"}))(faces)
    np.testing.assert_array_equal(ours.cpu().numpy(), reference["svm"])
