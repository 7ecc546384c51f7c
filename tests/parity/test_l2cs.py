import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def state(standin_state):
    return standin_state("l2cs")


@pytest.fixture(scope="module")
def net(state, build, tmp_path_factory, place):
    return place(build("l2cs", state, tmp_path_factory.mktemp("l2cs")))


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "l2cs.npz")


@torch.inference_mode()
def test_gaze_is_that_of_the_reference(net, device, reference, assert_like_reference):
    pitch, yaw, angle = net(torch.from_numpy(reference["crops"]).to(device).float() / 255).unbind(1)
    assert_like_reference(pitch, reference["pitch"])
    assert_like_reference(yaw, reference["yaw"])
    assert_like_reference(angle, np.arccos(np.clip(np.cos(reference["pitch"]) * np.cos(reference["yaw"]), -1, 1)))


@torch.inference_mode()
def test_names_without_the_prefix_load_as_well(state, net, build, place, device, tmp_path, reference):
    crops = torch.from_numpy(reference["crops"][:1]).to(device).float() / 255
    assert torch.equal(place(build("l2cs", state, tmp_path, prefix=""))(crops), net(crops))


def test_network_has_the_published_layout(net, state, assert_layout):
    assert_layout(net, state, parameters=23_883_008)
