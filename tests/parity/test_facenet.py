import numpy as np
import pytest
import torch

from actors.models.facenet import build_facenet


def build(state, folder):
    torch.save(state, folder / "weights.pth")
    return build_facenet({"weights": folder / "weights.pth"})


@pytest.fixture(scope="module")
def state(standin_state):
    return standin_state("facenet")


@pytest.fixture(scope="module")
def net(state, tmp_path_factory, place):
    return place(build(state, tmp_path_factory.mktemp("facenet")))


@torch.inference_mode()
def test_embeddings_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "facenet.npz")
    embeddings = net(torch.from_numpy(reference["crops"]).to(device).float() / 255)
    assert_like_reference(embeddings, reference["embeddings"])
    torch.testing.assert_close(embeddings.norm(dim=1).cpu(), torch.ones(len(embeddings)))


def test_network_has_the_published_layout(net, state, assert_layout):
    assert_layout(net, state, parameters=27_910_327)


def test_weights_load_strictly(state, tmp_path, assert_strict):
    assert_strict(lambda changed: build(changed, tmp_path), state)
