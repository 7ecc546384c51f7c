"""Every network refuses weights that are not exactly those of its published layout."""

import pytest
import torch

from actors.errors import StateDictError

NETWORKS = (
    "arcface_r50",
    "facenet",
    "img2pose",
    "l2cs",
    "mobilefacenet",
    "mobilenet",
    "pfld",
    "pose_mlp",
    "resmasknet",
    "retinaface_r34",
)


def test_no_network_is_left_out(parity):
    assert {path.stem for path in (parity / "keys").iterdir()} == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_load_strictly(name, published_shapes, build, tmp_path):
    """A model must refuse weights that lack a tensor, bring one too many, or bring one of another shape."""
    state = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in published_shapes(name).items()
    }
    lost, bent = [key for key in state if key.endswith(".weight")][:2]
    changed = {key: value for key, value in state.items() if key != lost}
    changed |= {"extra.weight": torch.zeros(1), bent: state[bent][:0]}
    with pytest.raises(StateDictError) as error:
        build(name, changed, tmp_path)
    for words in (f"missing (1): {lost}", "unexpected (1): extra.weight", f"wrong shape (1): {bent}"):
        assert words in str(error.value)
