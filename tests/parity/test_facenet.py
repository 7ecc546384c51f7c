import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def state(standin_state):
    return standin_state("facenet")


@pytest.fixture(scope="module")
def net(state, build, tmp_path_factory, place):
    return place(build("facenet", state, tmp_path_factory.mktemp("facenet")))


@torch.inference_mode()
def test_embeddings_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "facenet.npz")
    embeddings = net(torch.from_numpy(reference["crops"]).to(device).float() / 255)
    assert_like_reference(embeddings, reference["embeddings"])
    torch.testing.assert_close(embeddings.norm(dim=1).cpu(), torch.ones(len(embeddings)))


def test_network_has_the_published_layout(net, state, assert_layout):
    assert_layout(net, state, parameters=27_910_327)
