import json

import numpy as np
import pytest
import torch

from actors.errors import MissingWeightsError, WeightsError
from actors.models.img2pose import build_img2pose


@pytest.fixture(scope="module")
def files(standin_state, publish, tmp_path_factory):
    return publish("img2pose", standin_state("img2pose"), tmp_path_factory.mktemp("img2pose"))


@pytest.fixture(scope="module")
def net(files, place):
    return place(build_img2pose(files))


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "img2pose.npz")


@pytest.fixture(scope="module")
def frames(reference, device):
    return torch.from_numpy(reference["frame"]).to(device).permute(2, 0, 1)[None]


@torch.inference_mode()
def test_the_networks_output_is_that_of_the_reference(net, reference, frames, assert_like_reference):
    found = net.candidates(frames)
    assert_like_reference(found.scores_M, reference["raw_scores"])
    assert_like_reference(found.boxes_M4, reference["raw_boxes"])
    assert_like_reference(found.poses_M6, reference["raw_dofs"])


@torch.inference_mode()
def test_faces_and_poses_are_those_of_the_reference_in_the_signs_of_the_tables(
    net, reference, frames, assert_like_reference
):
    found = net.detect(frames)
    assert_like_reference(found.scores_N, reference["scores"])
    assert_like_reference(found.boxes_N4, reference["boxes"])
    about_x, about_y, about_z, x, y, z = reference["dofs"].T
    assert_like_reference(found.poses_N6, np.stack([-about_x, -about_z, about_y, x, y, z], axis=1))
    assert found.points_N52 is None


@torch.inference_mode()
def test_the_threshold_only_leaves_faces_out(net, files, place, frames):
    best_net = place(build_img2pose(files, score_threshold=0.7))
    all_faces, best = net.detect(frames), best_net.detect(frames)
    expected = all_faces.scores_N >= 0.7
    assert 0 < len(best) == expected.sum() < len(all_faces)
    torch.testing.assert_close(best.boxes_N4, all_faces.boxes_N4[expected])
    torch.testing.assert_close(best.poses_N6, all_faces.poses_N6[expected], rtol=1e-4, atol=1e-4)


def test_what_the_configuration_lacks_is_named(files, tmp_path):
    config = tmp_path / "config.json"
    with pytest.raises(MissingWeightsError, match=r"config\.json"):
        build_img2pose({**files, "config": config})
    whole = json.loads(files["config"].read_text())
    del whole["pose_mean"], whole["max_size"]
    config.write_text(json.dumps({**whole, "threed_points": [[1, 2]]}))
    with pytest.raises(WeightsError) as caught:
        build_img2pose({**files, "config": config})
    for words in ("pose_mean", "max_size", "threed_points.0"):
        assert words in str(caught.value)
