import numpy as np
import pytest
import torch

from actors.models.action_units import build_emotion_svm, build_svm, build_xgb
from actors.ops.hog import hog_features

BUILDERS = {"xgb_au": build_xgb, "svm_au": build_svm, "svm_emo": build_emotion_svm}


@pytest.fixture(scope="module")
def faces(parity):
    stored = np.load(parity / "hog.npz")
    landmarks = torch.from_numpy(stored["landmarks"]).unflatten(1, (68, 2)) * 112
    return torch.from_numpy(stored["crops"]).float() / 255, landmarks


@pytest.fixture(scope="module", params=BUILDERS)
def net(request, parity):
    return BUILDERS[request.param]({"weights": parity / f"{request.param}.skops"})


def spoil(crops, landmarks):
    """Faces of each kind that cannot be judged."""
    line = torch.arange(68.0)[:, None].expand(68, 2)
    crops, landmarks = crops[:1].repeat(7, 1, 1, 1), landmarks[:1].repeat(7, 1, 1)
    landmarks[0] = float("nan")
    landmarks[1, 40, 0] = float("inf")
    landmarks[2] = line  # one line
    landmarks[3] = 50.0  # one point
    landmarks[4] += 5000.0  # off the crop
    crops[5] = 0.0  # a box outside the frame
    crops[6, 1, 3, 3] = float("nan")
    return crops, landmarks


@torch.inference_mode()
def test_faces_that_cannot_be_judged_get_nan_and_the_others_what_they_get_alone(faces, net):
    crops, landmarks = faces
    bad_crops, bad_landmarks = spoil(crops, landmarks)
    alone = hog_features(crops, landmarks)
    together = hog_features(
        torch.cat([crops[:2], bad_crops, crops[2:]]), torch.cat([landmarks[:2], bad_landmarks, landmarks[2:]])
    )
    good = [0, 1, 9]
    assert together.features_N5408[2:9].isnan().all()
    assert together.landmarks_N136[2:9].isnan().all()
    torch.testing.assert_close(together.features_N5408[good], alone.features_N5408, rtol=0, atol=1e-6)
    answers = net(together)
    assert answers[2:9].isnan().all()
    torch.testing.assert_close(answers[good], net(alone), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_no_face(net):
    none = hog_features(torch.zeros(0, 3, 112, 112), torch.zeros(0, 68, 2))
    assert none.features_N5408.shape == (0, 5408)
    assert none.landmarks_N136.shape == (0, 136)
    assert len(net(none)) == 0


@torch.inference_mode()
def test_the_size_of_the_batch_does_not_matter(faces, net):
    crops, landmarks = (tensor.repeat(14, *[1] * (tensor.dim() - 1)) for tensor in faces)
    together = net(hog_features(crops, landmarks))
    alone = net(hog_features(*faces))
    torch.testing.assert_close(together, alone.repeat(14, 1), rtol=0, atol=1e-5)
