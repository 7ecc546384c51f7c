import numpy as np
import pytest
import torch

from actors.ops.crops import landmarks_to_frame


@pytest.fixture(scope="module")
def net(standin_state, build, tmp_path_factory, place):
    return place(build("mobilefacenet", standin_state("mobilefacenet"), tmp_path_factory.mktemp("mobilefacenet")))


@torch.inference_mode()
def test_landmarks_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "mobilefacenet.npz")
    landmarks = net(torch.from_numpy(reference["crops"]).to(device).float() / 255)
    assert_like_reference(landmarks, reference["landmarks"])
    boxes = torch.from_numpy(np.load(parity / "crop.npz")["boxes112"]).to(device)
    assert_like_reference(landmarks_to_frame(landmarks, boxes).flatten(1), reference["in_frame"])


@torch.inference_mode()
@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_faces(net, device, count):
    crops = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(count))[:count].to(device)
    together = net(crops)
    assert together.shape == (count, 136)
    for crop, landmarks in zip(crops, together, strict=True):
        torch.testing.assert_close(net(crop[None])[0], landmarks, rtol=1e-4, atol=1e-4)
