import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def net(standin_state, build, tmp_path_factory, place):
    return place(build("mobilenet", standin_state("mobilenet"), tmp_path_factory.mktemp("mobilenet")))


@torch.inference_mode()
def test_landmarks_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "mobilenet.npz")
    assert_like_reference(net(torch.from_numpy(reference["crops"]).to(device).float() / 255), reference["landmarks"])


@torch.inference_mode()
def test_the_crops_that_other_models_share_are_left_as_they_were(net, device):
    crops = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    before = crops.clone()
    net(crops)
    assert torch.equal(crops, before)


def test_network_has_the_published_layout(net, standin_state, assert_layout):
    assert_layout(net, standin_state("mobilenet"), parameters=3_744_504)
