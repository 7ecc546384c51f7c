import numpy as np
import torch

from actors.hog import HogFeatures
from actors.models.action_units import build_emotion_svm


@torch.inference_mode()
def test_labels_are_those_of_the_reference(parity):
    reference = np.load(parity / "au.npz")
    landmarks = torch.from_numpy(reference["aligned_landmarks"]).float().flatten(1)
    faces = HogFeatures(torch.from_numpy(reference["features"]), landmarks)
    ours = build_emotion_svm({"weights": parity / "svm_emo.skops"})(faces)
    np.testing.assert_array_equal(ours.numpy(), reference["emotion_svm"])
