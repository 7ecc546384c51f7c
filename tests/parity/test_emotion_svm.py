import numpy as np
import torch

from actors.models.action_units import build_emotion_svm
from actors.ops.hog import HogFeatures


@torch.inference_mode()
def test_labels_are_those_of_the_reference(parity, device, place):
    reference = np.load(parity / "au.npz")
    landmarks = torch.from_numpy(reference["aligned_landmarks"]).to(device).float().flatten(1)
    faces = HogFeatures(torch.from_numpy(reference["features"]).to(device), landmarks)
    ours = place(build_emotion_svm({"weights": parity / "svm_emo.skops"}))(faces)
    np.testing.assert_array_equal(ours.cpu().numpy(), reference["emotion_svm"])
