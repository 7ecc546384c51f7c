import numpy as np
import pytest
import torch

from actors.models.pfld import build_pfld
from actors.ops.crops import landmarks_to_frame


def build(state, folder):
    torch.save({"state_dict": state}, folder / "weights.pth.tar")
    return build_pfld({"weights": folder / "weights.pth.tar"})


@pytest.fixture(scope="module")
def net(standin_state, tmp_path_factory, place):
    return place(build(standin_state("pfld"), tmp_path_factory.mktemp("pfld")))


@torch.inference_mode()
def test_landmarks_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "pfld.npz")
    landmarks = net(torch.from_numpy(reference["crops"]).to(device).float() / 255)
    assert_like_reference(landmarks, reference["landmarks"])
    boxes = torch.from_numpy(np.load(parity / "crop.npz")["boxes112"]).to(device)
    assert_like_reference(landmarks_to_frame(landmarks, boxes).flatten(1), reference["in_frame"])


def test_network_has_the_published_layout(net, standin_state, assert_layout):
    assert_layout(net, standin_state("pfld"), parameters=730_472)


def test_weights_load_strictly(standin_state, tmp_path, assert_strict):
    assert_strict(lambda state: build(state, tmp_path), standin_state("pfld"))
