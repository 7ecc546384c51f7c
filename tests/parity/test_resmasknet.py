import numpy as np
import pytest
import torch

from actors.models.resmasknet import build_resmasknet


def build(state, folder):
    torch.save({"net": state}, folder / "weights.pth")
    try:
        return build_resmasknet({"weights": folder / "weights.pth"})
    finally:
        (folder / "weights.pth").unlink()  # half a gigabyte


@pytest.fixture(scope="module")
def state(standin_state):
    return standin_state("resmasknet")


@pytest.fixture(scope="module")
def net(state, tmp_path_factory, place):
    return place(build(state, tmp_path_factory.mktemp("resmasknet")))


@torch.inference_mode()
def test_probabilities_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "resmasknet.npz")
    probabilities = net(torch.from_numpy(reference["crops"]).to(device).float() / 255)
    assert_like_reference(probabilities, reference["probabilities"])


def test_network_has_the_published_layout(net, state, assert_layout):
    assert_layout(net, state, parameters=137_796_423)


def test_weights_load_strictly(state, tmp_path, assert_strict):
    assert_strict(lambda changed: build(changed, tmp_path), state)
