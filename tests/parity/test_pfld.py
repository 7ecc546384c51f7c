import numpy as np
import pytest
import torch

from actors.ops.crops import landmarks_to_frame


@pytest.fixture(scope="module")
def net(standin_state, build, tmp_path_factory, place):
    return place(build("pfld", standin_state("pfld"), tmp_path_factory.mktemp("pfld")))


@torch.inference_mode()
def test_landmarks_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "pfld.npz")
    landmarks = net(torch.from_numpy(reference["crops"]).to(device).float() / 255)
    assert_like_reference(landmarks, reference["landmarks"])
    boxes = torch.from_numpy(np.load(parity / "crop.npz")["boxes112"]).to(device)
    assert_like_reference(landmarks_to_frame(landmarks, boxes).flatten(1), reference["in_frame"])


def test_network_has_the_published_layout(net, standin_state, assert_layout):
    assert_layout(net, standin_state("pfld"), parameters=730_472)
