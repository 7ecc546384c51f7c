import json

import numpy as np
import pytest
import torch

from actors.errors import MissingWeightsError, WeightsError
from actors.models.pose_mlp import build_pose_mlp


@pytest.fixture(scope="module")
def files(standin_state, publish, tmp_path_factory):
    return publish("pose_mlp", standin_state("pose_mlp"), tmp_path_factory.mktemp("pose_mlp"))


@pytest.fixture(scope="module")
def landmarks(reference, device):
    return torch.from_numpy(reference["landmarks"]).to(device)


@pytest.fixture(scope="module")
def net(files, place):
    return place(build_pose_mlp(files))


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "pose_mlp.npz")


@torch.inference_mode()
def test_raw_pose_is_that_of_the_reference(net, landmarks, reference, assert_like_reference):
    assert_like_reference(net.raw(landmarks), reference["raw"])


@torch.inference_mode()
def test_pose_is_pitch_roll_yaw_in_the_signs_of_the_tables(net, landmarks, reference, assert_like_reference):
    about_x, about_y, about_z, x, y, z = reference["raw"].T
    assert_like_reference(net(landmarks), np.stack([-about_x, -about_z, about_y, x, y, z], axis=1))


@torch.inference_mode()
def test_place_and_size_of_the_face_do_not_matter(net, landmarks):
    torch.testing.assert_close(net(landmarks * 3 + 100), net(landmarks), rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_no_face_and_a_face_of_one_point(net, device):
    assert net(torch.zeros(0, 68, 2, device=device)).shape == (0, 6)
    assert net(torch.zeros(1, 68, 2, device=device)).isfinite().all()


def test_a_configuration_that_lacks_something_is_named(files, tmp_path):
    config = tmp_path / "config.json"
    with pytest.raises(MissingWeightsError, match=r"config\.json"):
        build_pose_mlp({**files, "config": config})
    config.write_text(json.dumps({"architecture": {"hidden": [512]}}))
    with pytest.raises(WeightsError, match="output_normalization"):
        build_pose_mlp({**files, "config": config})
