import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def state(standin_state):
    return standin_state("arcface_r50")


@pytest.fixture(scope="module")
def net(state, build, tmp_path_factory, place):
    return place(build("arcface_r50", state, tmp_path_factory.mktemp("arcface")))


@torch.inference_mode()
def test_embeddings_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "arcface_r50.npz")
    crops = torch.from_numpy(reference["crops"]).to(device).float() / 255
    assert_like_reference(net(crops), reference["embeddings"])
    assert net(crops[:0]).shape == (0, 512)


def test_network_has_the_published_layout(state, build, tmp_path):
    assert {k: v.shape for k, v in build("arcface_r50", state, tmp_path).state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
