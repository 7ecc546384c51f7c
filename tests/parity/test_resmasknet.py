import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def state(standin_state):
    return standin_state("resmasknet")


@pytest.fixture(scope="module")
def net(state, build, tmp_path_factory, place):
    return place(build("resmasknet", state, tmp_path_factory.mktemp("resmasknet")))


@torch.inference_mode()
def test_probabilities_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "resmasknet.npz")
    probabilities = net(torch.from_numpy(reference["crops"]).to(device).float() / 255)
    assert_like_reference(probabilities, reference["probabilities"])


def test_network_has_the_published_layout(net, state, assert_layout):
    assert_layout(net, state, parameters=137_796_423)
