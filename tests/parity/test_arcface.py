import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actors.models.arcface import build_arcface_r50


def build(state, folder):
    save_file(state, folder / "weights.safetensors")
    return build_arcface_r50({"weights": folder / "weights.safetensors"})


@pytest.fixture(scope="module")
def published(standin_state):
    """The tensors that the published file holds: it leaves out the batch norms' counters."""
    return {k: v for k, v in standin_state("arcface_r50").items() if not k.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def net(published, tmp_path_factory, place):
    return place(build(published, tmp_path_factory.mktemp("arcface")))


@torch.inference_mode()
def test_embeddings_are_those_of_the_reference(net, device, parity, assert_like_reference):
    reference = np.load(parity / "arcface_r50.npz")
    crops = torch.from_numpy(reference["crops"]).to(device).float() / 255
    assert_like_reference(net(crops), reference["embeddings"])
    assert net(crops[:0]).shape == (0, 512)


def test_network_has_the_published_layout(published, standin_state, tmp_path):
    assert {k: v.shape for k, v in build(published, tmp_path).state_dict().items()} == {
        k: v.shape for k, v in standin_state("arcface_r50").items()
    }


def test_weights_load_strictly(published, tmp_path, assert_strict):
    assert_strict(lambda state: build(state, tmp_path), published)
